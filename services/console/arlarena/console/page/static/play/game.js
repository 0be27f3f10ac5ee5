/** One game of a person. */

import { send } from "../core/api.js";
import { announce, badge, fill, h, textBlock, visible } from "../core/dom.js";
import { fixed, num, plural, signed } from "../core/format.js";
import { bind } from "../core/keys.js";
import { facts, failure, field } from "../core/parts.js";
import { go, href } from "../core/route.js";
import { frame } from "../episode/frame.js";
import { isShopPage, shopPage } from "../episode/shop_page.js";

const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };
/** Number of actions with a number key. */
const NUMBERED = 9;
const MAX_ACTIONS = 120;

export class GamePage {
  /** @param {HTMLElement} root @param {any} game the reply of `/api/play/{id}` */
  constructor(root, game) {
    this.game = game;
    this.busy = false;
    /** @type {{turn: number, action: string, reward: number, valid: boolean}[]} */
    this.log = [];
    this.board = h("section", { class: "panel", "aria-label": "Observation", tabindex: -1 });
    this.side = h("div");
    this.message = h("div", { role: "status" });
    this.thought = h("input", { type: "text", placeholder: "optional: the reason for the action", maxlength: 2000 });
    fill(root, h("div", { class: "heading" }, h("h1", {}, `Play ${visible(game.task)}`), this.origin(),
      h("button", { type: "button", class: "right", onclick: () => void this.end() }, "End the game")),
    h("div", { class: "play-grid" }, this.board, this.side), this.message);
  }

  origin() {
    const { from, replay, run } = this.game;
    if (!from) return run ? h("span", { class: "note" }, `with the options of ${run}`) : null;
    return h("span", {}, "from ", h("a", { href: href(["episode", run, from.episode, from.turn]) }, `episode ${from.episode}, turn ${from.turn}`), " ",
      replay.matches ? badge("good", `${plural(replay.turns, "turn")} replayed, same state`) : badge("warn", `the replay differs at turn ${replay.differs_at}`, "the options or the version of the environment may have changed"));
  }

  /** Whether the observation is a page of a shop. */
  get isShop() {
    return isShopPage(this.game.state.observation);
  }

  draw() {
    const { state } = this.game;
    bind("View", this.shortcuts());
    fill(this.board, h("h2", {}, "Observation"), state.message && h("p", { class: "bar tight" }, badge("warn", visible(state.message))),
      this.isShop && !state.done ? this.shop() : frame({ text: state.observation, truncated: false }, "Observation", { images: state.images.map((/** @type {any} */ each) => each.data) }));
    fill(this.side, this.status(), state.done ? this.result() : this.controls(), this.history(), h("details", { class: "panel" }, h("summary", {}, "Prompt of the agent"), textBlock(state.prompt, { label: "Prompt" })));
  }

  status() {
    const { state } = this.game;
    return h("section", { class: "panel", "aria-label": "State" }, facts([["Turn", String(state.turn)], ["Turns left", state.remaining_steps === null ? "–" : String(state.remaining_steps)],
      ["Last reward", signed(state.reward)], ["Return", fixed(state.return)], ["Last action", state.action ? [h("code", {}, visible(state.action)), " ", state.action_valid ? null : badge("bad", "not accepted")] : "–"]]));
  }

  controls() {
    const actions = this.game.state.admissible_actions ?? [];
    const free = h("input", { type: "text", id: "free-action", maxlength: 4000, autocomplete: "off" });
    const format = this.game.reply_format;
    const listed = this.isShop ? [] : actions.slice(0, MAX_ACTIONS);
    return h("section", { class: "panel", "aria-label": "Your action" }, h("h2", {}, "Your action"),
      listed.length > 0 && h("div", { class: "bar tight" }, listed.map((/** @type {string} */ action, /** @type {number} */ place) =>
        h("button", { type: "button", onclick: () => void this.act(action) }, visible(action), place < NUMBERED && h("kbd", {}, String(place + 1))))),
      this.hint(actions),
      h("form", { class: "bar tight", onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        if (free.value.trim()) void this.act(free.value.trim());
      } }, field(format.action ? "Other action" : "Reply", free), h("button", {}, "Send")),
      format.thought && field("Thought", this.thought, "recorded with the action, for cloning"));
  }

  /** @param {string[]} actions */
  hint(actions) {
    if (this.isShop) return h("p", { class: "note" }, "Search with the search box (key /), or use the buttons of the page: with Tab and Enter, or with their numbers.");
    if (actions.includes("up")) return h("p", { class: "note" }, "Arrow keys move the player. Push every box onto a target.");
    return actions.length ? h("p", { class: "note" }, "The keys 1 to 9 choose the first nine actions.") : null;
  }

  shop() {
    const actions = new Map((this.game.state.admissible_actions ?? []).map((/** @type {string} */ each) => [each.toLowerCase(), each]));
    /** @type {string[]} */
    this.shopActions = [];
    const button = (/** @type {string} */ label) => {
      if (label.toLowerCase() === "search") return this.searchBox();
      const action = actions.get(`click[${label.toLowerCase()}]`);
      if (!action) return null;
      const place = this.shopActions?.push(action) ?? 0;
      return h("button", { type: "button", onclick: () => void this.act(action) }, visible(label), place <= NUMBERED && h("kbd", {}, String(place)));
    };
    return [shopPage(this.game.state.observation, { button, actions: this.game.state.admissible_actions }), h("details", {}, h("summary", {}, "Text of the page"), textBlock(this.game.state.observation, { label: "Observation" }))];
  }

  searchBox() {
    const box = h("input", { type: "search", class: "shop-search", "aria-label": "Words to search", maxlength: 300, autocomplete: "off" });
    return h("form", { class: "bar tight", role: "search", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      if (box.value.trim()) void this.act(`search[${box.value.trim()}]`);
    } }, box, h("button", { class: "primary" }, "Search"));
  }

  shortcuts() {
    if (this.game.state.done) return [{ keys: ["n"], label: "Play the next task", run: () => this.next() }];
    const actions = this.game.state.admissible_actions ?? [];
    const arrows = Object.entries(ARROWS).filter(([, action]) => actions.includes(action)).map(([key, action]) => ({ keys: [key], label: `Action “${action}”`, run: () => void this.act(action) }));
    const numbers = [...Array(NUMBERED).keys()].map((place) => ({ keys: [String(place + 1)], label: `Action ${place + 1}`, run: () => {
      const action = (this.isShop ? this.shopActions : actions)?.[place];
      if (action) void this.act(action);
    } }));
    return [...arrows, { keys: ["/"], label: "Type a search or an action", run: () => this.focus() }, ...numbers];
  }

  /** Focuses the field for the next action, or the page of a shop. Does nothing if arrow keys choose the actions. */
  focus() {
    const search = /** @type {HTMLElement | null} */ (this.board.querySelector(".shop-search"));
    const free = /** @type {HTMLElement | null} */ (this.side.querySelector("#free-action"));
    const byKeys = (this.game.state.admissible_actions ?? []).includes("up");
    // A shop page without a search box gets the focus itself. Number keys then press its buttons, and Tab leads to the first.
    (search ?? (byKeys ? null : this.isShop ? this.board : free))?.focus();
  }

  /** @param {string} action */
  async act(action) {
    if (this.busy || this.game.state.done) return;
    this.busy = true;
    fill(this.message);
    try {
      this.game = await send("POST", `api/play/${encodeURIComponent(this.game.id)}/step`, { action, thought: this.thought.value });
      const { state } = this.game;
      this.log.unshift({ turn: state.turn - 1, action: state.action || action, reward: state.reward, valid: state.action_valid && state.format_valid });
      this.thought.value = "";
      this.draw();
      announce(`${action}: reward ${num(state.reward)}. ${state.done ? (state.success ? "Solved." : "Not solved.") : ""}`);
      if (state.done) /** @type {HTMLElement | null} */ (this.side.querySelector(".next-task"))?.focus();
      else if (this.isShop) this.focus();
    } catch (error) {
      fill(this.message, failure(error));
    } finally {
      this.busy = false;
    }
  }

  result() {
    const { state, saved } = this.game;
    return h("section", { class: "panel result", "aria-label": "Result" }, h("h2", {}, state.success ? badge("good", "Solved") : badge("bad", "Not solved")),
      h("p", {}, `Score ${fixed(state.score)}, return ${fixed(state.return)}, ${plural(state.turn, "turn")}.`),
      saved && h("p", { class: "note" }, "Recorded in ", h("code", {}, saved.episodes), " and ", h("code", {}, saved.conversations), "."),
      h("p", { class: "bar tight" }, h("button", { type: "button", class: "primary next-task", onclick: () => this.next() }, "Play the next task"), h("a", { class: "button", href: href(["play"], { run: this.game.run }) }, "Other task")));
  }

  history() {
    if (this.log.length === 0) return null;
    return h("section", { class: "panel", "aria-label": "Actions so far" }, h("h2", {}, "Actions so far"), h("ol", { class: "log" }, this.log.slice(0, 200).map((each) =>
      h("li", {}, h("span", { class: "note" }, String(each.turn)), h("code", {}, visible(each.action)), signed(each.reward), each.valid ? null : badge("bad", "invalid")))));
  }

  async next() {
    const [environment, split, index] = this.game.task.split("/");
    try {
      const game = await send("POST", "api/play", { environment, run: this.game.run, split, index: Number(index) + 1, seed: 0 });
      go(href(["play", game.id]));
    } catch (error) {
      fill(this.message, failure(error));
    }
  }

  async end() {
    await send("DELETE", `api/play/${encodeURIComponent(this.game.id)}`).catch(() => null);
    go(href(["play"], { run: this.game.run }));
  }
}
