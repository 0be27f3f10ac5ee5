/** The panels of one turn: observation, reply, tokens, prompt, figures, and visits of the same state. */

import { level } from "../charts/diverging.js";
import { badge, fill, h, symbol, textBlock, visible } from "../core/dom.js";
import { fixed, plural, signed } from "../core/format.js";
import { facts } from "../core/parts.js";
import { frame } from "./frame.js";
import { replyView } from "./reply.js";
import { TokenPanel } from "./tokens.js";
import { actionTable, visitList } from "./visits.js";

/** Maximum number of admissible actions that are shown. */
const MAX_ACTIONS = 60;

export class TurnPanels {
  /** @param {string} run @param {any} episode @param {string} overlay @param {(overlay: string) => void} changed */
  constructor(run, episode, overlay, changed) {
    this.run = run;
    this.episode = episode;
    this.tokens = new TokenPanel(overlay, changed);
    const part = (/** @type {string} */ title, /** @type {string} */ name) => {
      const body = h("div");
      return { body, element: h("section", { class: `panel ${name}`, "aria-label": title }, h("h2", {}, title), body) };
    };
    this.frame = part("Observation", "frame-panel");
    this.reply = part("Reply", "reply-panel");
    this.figures = part("Figures", "figures-panel");
    this.actions = part("Action", "actions-panel");
    this.visits = part("Visits of this state", "visits-panel");
    this.after = { body: h("div"), element: h("details", { class: "panel after-panel" }, h("summary", {}, h("h2", { class: "inline" }, "After the action"))) };
    this.after.element.append(this.after.body);
    this.prompt = h("div");
    this.promptBox = h("details", { class: "panel" }, h("summary", {}, h("h2", { class: "inline" }, "Prompt"), " ", (this.promptNote = h("span", { class: "note" }))), this.prompt);
    this.promptBox.addEventListener("toggle", () => this.showPrompt());
    const tokens = h("section", { class: "panel", "aria-label": "Tokens" }, h("h2", {}, "Tokens"), this.tokens.element);
    this.element = h("div", { class: "turn-grid" },
      h("div", { class: "column" }, this.frame.element, this.after.element),
      h("div", { class: "column" }, this.reply.element, this.actions.element, tokens, this.promptBox),
      h("div", { class: "column" }, this.figures.element, this.visits.element));
  }

  /** @param {any} turn */
  show(turn) {
    this.turn = turn;
    fill(this.frame.body, frame(turn.observation, "Observation", { action: turn.action, actions: turn.admissible_actions, images: turn.images }));
    fill(this.reply.body, replyView(turn.reply));
    fill(this.actions.body, this.actionList(turn));
    fill(this.figures.body, this.figureList(turn));
    fill(this.after.body, this.afterwards(turn));
    /** @type {any} */ (this.after.element).open = Boolean(turn.next.tool_output) || turn.turn === turn.turns - 1;
    this.tokens.show(turn);
    this.promptNote.textContent = turn.prompt ? plural(turn.prompt.tokens, "token") : "not recorded";
    this.showPrompt();
  }

  showPrompt() {
    if (!this.promptBox.open || !this.turn) return;
    const { prompt } = this.turn;
    fill(this.prompt, !prompt ? h("p", { class: "note" }, "The prompt of this turn is not recorded. The observation is the newest part of the prompt.")
      : prompt.text === null ? h("p", { class: "note" }, "The run has no tokenizer, so the tokens of the prompt cannot be shown as text.")
        : textBlock(prompt.text, { label: "Prompt", truncated: prompt.truncated }));
  }

  /** @param {any} turn */
  actionList(turn) {
    const taken = turn.action.trim().toLowerCase();
    const marks = [turn.action_valid ? badge("good", "accepted") : badge("bad", "not accepted", "the environment did not accept the action"),
      turn.no_action && badge("warn", "no action")];
    const listed = turn.admissible_actions ?? [];
    const known = listed.some((/** @type {string} */ each) => each.trim().toLowerCase() === taken);
    const hidden = listed.length - MAX_ACTIONS;
    return [h("p", { class: "bar tight" }, h("code", { class: "taken-action" }, visible(turn.action.slice(0, 2000) || "(none)")), marks),
      listed.length === 0 ? h("p", { class: "note" }, "No admissible actions are recorded.")
        : [h("h3", {}, plural(listed.length, "admissible action")), h("ul", { class: "actions" }, listed.slice(0, MAX_ACTIONS).map((/** @type {string} */ each) => {
          const own = each.trim().toLowerCase() === taken;
          return h("li", { class: own ? "taken" : null }, own && h("span", { "aria-hidden": "true" }, "➜ "), visible(each), own && h("span", { class: "hidden" }, " (taken)"));
        }), hidden > 0 && h("li", { class: "note" }, `… ${hidden} more`)), !known && h("p", { class: "note" }, "The action of the reply is not in this list.")]];
  }

  /** @param {any} turn */
  figureList(turn) {
    const { advantage } = turn;
    const versions = turn.versions.map((/** @type {any} */ each) => h("div", {}, `step ${each.step}`, h("code", { class: "cut", title: each.version }, ` ${each.version}`),
      turn.versions.length > 1 && ` tokens ${each.start}–${each.end - 1}`));
    const row = this.episode.turn_list[turn.turn] ?? {};
    const known = (/** @type {unknown} */ value) => value !== null && value !== undefined;
    /** @type {[string, import("../core/dom.js").Child, boolean][]} */
    const rows = [
      ["Reward", fixed(turn.reward, 3), true],
      ["A in the loss", h("strong", { class: `pill ${level(advantage?.total, 2)}` }, signed(advantage?.total, 3)), Boolean(advantage)],
      ["A_E, of the episode", signed(advantage?.episode, 3), known(advantage?.episode)], ["A_S, of the step", signed(advantage?.step, 3), known(advantage?.step)],
      ["Anchor group", plural(advantage?.anchor_size ?? 0, "turn"), known(advantage?.anchor_size)],
      ["Mean ratio", fixed(row.mean_ratio, 5), known(row.mean_ratio)], ["Mean entropy", `${fixed(row.mean_entropy, 3)} nats`, known(row.mean_entropy)],
      ["Outside the clip", `${fixed(100 * (row.outside ?? 0), 1)} % of tokens`, known(row.outside)],
      ["Sequence mask", row.kept ? "kept" : badge("warn", "removed"), known(row.kept)],
      ["Weights that sampled", versions, versions.length > 0], ["State", h("code", { class: "cut", title: turn.state_key }, turn.state_key.slice(0, 12)), Boolean(turn.state_key)]];
    return [facts(rows.filter(([, , shown]) => shown).map(([name, value]) => [symbol(name), value])), !advantage && h("p", { class: "note" }, "No advantages are recorded for this turn.")];
  }

  /** @param {any} turn */
  afterwards(turn) {
    const { next } = turn;
    const end = next.terminated ? badge("plain", "the episode ended") : next.truncated ? badge("warn", "stopped at the limit of turns") : null;
    return [end && h("p", { class: "bar tight" }, end),
      next.tool_output && [h("h3", {}, "Tool output"), h("p", { class: "note" }, "The text between this reply and the next reply, as in the prompt."), textBlock(next.tool_output.text, { label: "Tool output", truncated: next.tool_output.truncated })],
      next.observation && next.tool_output?.text.includes(next.observation.text) ? null : next.observation ? [next.tool_output && h("h3", {}, "Next observation"), frame(next.observation, "Next observation")] : h("p", { class: "note" }, "The final observation of training episodes is not recorded.")];
  }

  /** @param {any} found the reply of `…/visits`, or null before it is loaded */
  showVisits(found) {
    if (!found) {
      fill(this.visits.body, h("p", { class: "note" }, "Loading…"));
      return;
    }
    const { visits } = found;
    if (visits.length === 0) {
      fill(this.visits.body, h("p", { class: "note" }, "The environment gives no key for this state."));
      return;
    }
    const others = visits.filter((/** @type {any} */ each) => !each.this).length;
    const of = visits[0].member === null ? "episode" : "group";
    fill(this.visits.body, h("p", { class: "note" }, others ? `${plural(others, "other turn")} of the ${of} in the same state.` : `No other turn of the ${of} is in this state.`),
      others > 0 && actionTable(visits), visitList(visits, this.run));
    const list = /** @type {HTMLElement | null} */ (this.visits.body.querySelector(".visit-list"));
    const own = /** @type {HTMLElement | null} */ (list?.querySelector("[aria-current]"));
    if (!list || !own) return;
    // Scroll to the top of a row, because the heading of the list covers the rows above.
    const rows = [.../** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll("tbody tr"))];
    const first = rows.findLast((row) => row.offsetTop <= own.offsetTop - list.clientHeight / 2) ?? rows[0];
    list.scrollTop = (first?.offsetTop ?? 0) - (rows[0]?.offsetTop ?? 0);
  }
}
