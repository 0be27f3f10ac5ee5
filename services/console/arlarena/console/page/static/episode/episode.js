/** The view of one episode: a scrubber for the turns, and the panels of the current turn. */

import { ReplyCache, get, runPath, send } from "../core/api.js";
import { badge, fill, h, textBlock, visible } from "../core/dom.js";
import { count, duration, fixed, plural, signed } from "../core/format.js";
import { bind } from "../core/keys.js";
import { empty, facts, failure } from "../core/parts.js";
import { current, go, href, setQuery } from "../core/route.js";
import { rememberRun } from "../core/selection.js";
import { statusBadge } from "../views/group_card.js";
import { Timeline } from "./timeline.js";
import { TurnPanels } from "./turn.js";

/** Turns and visits of the last episodes. The turns near the current turn are loaded in advance. */
const cache = new ReplyCache(120);

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const [, run = "", id = ""] = route.path;
  rememberRun(run);
  const episode = await get(runPath(run, "episodes", id), {}, signal);
  const page = new EpisodePage(root, run, episode, route.query, signal);
  await page.show(Number(route.path[3]) || 0);
  return { update: (next) => page.update(next) };
}

class EpisodePage {
  /** @param {HTMLElement} root @param {string} run @param {any} episode @param {URLSearchParams} query @param {AbortSignal} signal */
  constructor(root, run, episode, query, signal) {
    this.run = run;
    this.episode = episode;
    this.query = query;
    this.timeline = new Timeline(episode, (turn) => this.goTo(turn));
    this.panels = new TurnPanels(run, episode, query.get("overlay") ?? "", (overlay) => setQuery({ overlay }));
    this.message = h("div");
    fill(root, this.heading(), this.about(), episode.turn_list.length === 0 ? empty("This episode has no turn.", episode.fault || "It failed before the first action.")
      : [this.timeline.element, this.message, this.panels.element], episode.final_observation && h("details", { class: "panel" },
      h("summary", {}, h("h2", { class: "inline" }, "Final observation")), textBlock(episode.final_observation, { label: "Final observation" })));
    signal.addEventListener("abort", () => this.timeline.stop());
    bind("View", this.shortcuts());
  }

  shortcuts() {
    const to = (/** @type {string | null} */ id) => id && go(this.address(id, 0));
    return [
      { keys: ["ArrowLeft", "j"], label: "Previous turn", run: () => this.goTo(this.timeline.turn - 1) },
      { keys: ["ArrowRight", "k"], label: "Next turn", run: () => this.goTo(this.timeline.turn + 1) },
      { keys: ["Home"], label: "First turn", run: () => this.goTo(0) },
      { keys: ["End"], label: "Last turn", run: () => this.goTo(this.timeline.last) },
      { keys: [" "], label: "Play the turns, or pause", run: () => this.timeline.toggle() },
      { keys: ["["], label: "Previous episode", run: () => to(this.episode.ids.previous) },
      { keys: ["]"], label: "Next episode", run: () => to(this.episode.ids.next) },
      { keys: ["v"], label: "Next visit of this state", run: () => this.nextVisit() },
      { keys: ["p"], label: "Play from here", run: () => void this.playFromHere() },
    ];
  }

  /** @param {string} id @param {number} turn */
  address(id, turn) {
    const { query } = current();
    return href(["episode", this.run, id, turn], query);
  }

  heading() {
    const { id, ids, playable } = this.episode;
    const link = (/** @type {string | null} */ to, /** @type {string} */ label, /** @type {string} */ title) =>
      to ? h("a", { class: "button", href: this.address(to, 0), title }, label) : h("span", { class: "button off", "aria-disabled": "true" }, label);
    return h("div", { class: "heading" }, h("h1", {}, `Episode ${id}`),
      h("a", { href: `${href(["episodes", this.run])}${this.query.get("list") ? `?${this.query.get("list")}` : ""}` }, "List of episodes"),
      link(ids.previous, "‹ Previous", "Previous episode ([)"), link(ids.next, "Next ›", "Next episode (])"),
      h("button", { type: "button", class: "primary right", disabled: !playable, onclick: () => void this.playFromHere(),
        title: playable ? "Starts an environment, replays the replies before this turn, and lets you play from this turn (P)" : "this episode cannot be replayed" }, "Play from here"));
  }

  about() {
    const { episode, run } = this;
    const siblings = episode.siblings ?? [];
    return h("section", { class: "panel about", "aria-label": "About the episode" },
      h("div", { class: "bar tight" }, h("h2", {}, visible(episode.task)), episode.kind && h("span", { class: "tag" }, visible(episode.kind)),
        episode.success ? badge("good", "solved") : badge("bad", "failed"), episode.truncated && badge("warn", "stopped at the limit of turns"), episode.fault && badge("bad", visible(episode.fault)),
        episode.status && statusBadge(episode.status, episode.reason), episode.group_status === "filtered" && badge("warn", "group filtered"),
        episode.reason && h("span", { class: "reason" }, visible(episode.reason)),
        siblings.length > 1 && h("nav", { class: "siblings", "aria-label": "Siblings" }, h("a", { href: href(["groups", run, episode.step]) }, `Group ${episode.group}`), siblings.map((/** @type {string} */ each, /** @type {number} */ place) =>
          h("a", { href: this.address(each, 0), class: "sibling", title: `Sibling ${place}, at the same turn`, "aria-current": each === episode.id ? "true" : null,
            onclick: (/** @type {MouseEvent} */ event) => this.openSibling(event, each) }, `#${place}`)))),
      facts([["Set", episode.label ? `${episode.source}, ${episode.label}` : `${episode.source}${episode.step === null ? "" : `, step ${episode.step}`}`],
        ["Return", fixed(episode.return, 3)], ["Score", fixed(episode.score, 3)], ["Turns", `${count(episode.turns)}, ${episode.invalid} invalid`], ["Tokens of replies", count(episode.tokens)],
        ["Mean advantage", signed(episode.advantage, 3)], ["Age", episode.age === null ? "–" : plural(episode.age, "step")], ["Duration", duration(episode.duration_s || null)]]));
  }

  /** Opens a sibling at the current turn. If a modifier key is pressed, the browser handles the click. @param {MouseEvent} event @param {string} id */
  openSibling(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(this.address(id, this.timeline.turn));
  }

  /** @param {import("../app.js").Route} route */
  update(route) {
    if (route.path[1] !== this.run || route.path[2] !== this.episode.id) return false;
    void this.show(Number(route.path[3]) || 0);
    return true;
  }

  /** @param {number} turn */
  goTo(turn) {
    const wanted = Math.min(Math.max(turn, 0), this.timeline.last);
    if (wanted === this.timeline.turn && this.loaded === wanted) return;
    history.replaceState(null, "", this.address(this.episode.id, wanted));
    void this.show(wanted);
  }

  /** @param {number} turn */
  path(turn) {
    return runPath(this.run, "episodes", this.episode.id, "turns", turn);
  }

  /** @param {number} wanted */
  async show(wanted) {
    if (this.episode.turn_list.length === 0) return;
    const turn = Math.min(Math.max(wanted, 0), this.timeline.last);
    this.timeline.show(turn);
    try {
      const found = await cache.get(this.path(turn));
      if (this.timeline.turn !== turn) return;
      fill(this.message);
      this.loaded = turn;
      this.panels.show(found);
      document.getElementById("main")?.setAttribute("data-turn", String(turn));
      await this.showVisits(turn);
      for (const near of [turn + 1, turn - 1, turn + 2]) if (near >= 0 && near <= this.timeline.last) cache.get(this.path(near)).catch(() => null);
    } catch (error) {
      fill(this.message, failure(error, () => void this.show(turn)));
    }
  }

  /** @param {number} turn */
  async showVisits(turn) {
    const waiting = setTimeout(() => this.panels.showVisits(null), 150); // no flicker if the reply is quick
    const found = await cache.get(`${this.path(turn)}/visits`).finally(() => clearTimeout(waiting));
    if (this.timeline.turn !== turn) return;
    this.visits = found.visits;
    this.panels.showVisits(found);
  }

  nextVisit() {
    const place = (this.visits ?? []).findIndex((/** @type {any} */ each) => each.this);
    const next = this.visits?.[(place + 1) % this.visits.length];
    if (next && !next.this) go(this.address(next.episode, next.turn));
  }

  async playFromHere() {
    fill(this.message, h("p", { class: "note", role: "status" }, "Starting an environment. The first start takes some seconds…"));
    try {
      const game = await send("POST", "api/play", { run: this.run, episode: this.episode.id, turn: this.timeline.turn });
      go(href(["play", game.id]));
    } catch (error) {
      fill(this.message, failure(error, () => void this.playFromHere()));
    }
  }
}
