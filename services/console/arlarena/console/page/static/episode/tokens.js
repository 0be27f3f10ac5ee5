/** The tokens of a reply. The colour of a token shows one of its values, such as the ratio. */

import { largestOf, level } from "../charts/diverging.js";
import { announce, fill, h, symbol, visible } from "../core/dom.js";
import { field, select, table } from "../core/parts.js";
import { fixed, num, plural, signed } from "../core/format.js";

/** Number of tokens that are shown at first. */
const FIRST_TOKENS = 1_500;
/** Maximum number of rows of the table. */
const TABLE_ROWS = 400;
/** The table is open at first if the reply has at most this number of tokens. */
const SHORT_REPLY = 24;
const CLIP = ["inside the range of the clip", "below the range of the clip", "above the range of the clip"];

/**
 * @typedef {object} Overlay
 * @property {string} key @property {string} label
 * @property {(tokens: any, advantage: number | null) => (number | null)[] | null} values
 * @property {"diverging" | "sequential" | "none"} scale
 * @property {(value: number | null) => string} show
 */

/** @type {Overlay[]} */
const OVERLAYS = [
  { key: "advantage", label: "advantage", scale: "diverging", show: (value) => signed(value, 3),
    values: (tokens, advantage) => advantage === null ? null : tokens.mask.map((/** @type {number} */ mask) => (mask ? advantage : null)) },
  { key: "ratio", label: "ratio − 1", scale: "diverging", show: (value) => signed(value, 5),
    values: (tokens) => tokens.ratios?.map((/** @type {number | null} */ value) => (value === null ? null : value - 1)) ?? null },
  { key: "entropy", label: "entropy (nats)", scale: "sequential", show: (value) => fixed(value, 3), values: (tokens) => tokens.entropies },
  { key: "logprob", label: "−log-prob (nats)", scale: "sequential", show: (value) => fixed(value, 3),
    values: (tokens) => (tokens.log_probs ?? tokens.sampler_log_probs)?.map((/** @type {number | null} */ value) => (value === null ? null : -value)) ?? null },
  { key: "shift", label: "log-prob − log-prob of the sampler (nats)", scale: "diverging", show: (value) => signed(value, 4),
    values: (tokens) => tokens.log_probs?.map((/** @type {number | null} */ value, /** @type {number} */ place) =>
      value === null || tokens.sampler_log_probs[place] === null ? null : value - tokens.sampler_log_probs[place]) ?? null },
  { key: "mask", label: "loss mask", scale: "none", show: String, values: (tokens) => tokens.mask },
];

export class TokenPanel {
  /** @param {string} overlay @param {(overlay: string) => void} changed */
  constructor(overlay, changed) {
    this.overlay = OVERLAYS.some((each) => each.key === overlay) ? overlay : "advantage";
    this.changed = changed;
    this.element = h("div", { class: "tokens" });
    this.selected = -1;
  }

  /** @param {any} turn the reply of `…/turns/{turn}` */
  show(turn) {
    this.turn = turn;
    this.selected = -1;
    this.limit = FIRST_TOKENS;
    this.draw();
  }

  draw() {
    const { tokens, advantage } = this.turn;
    if (!tokens) {
      fill(this.element, h("p", { class: "note" }, "The tokens of this reply are not recorded. Evaluations and games of people record no tokens."));
      return;
    }
    const total = advantage?.total ?? null;
    const available = OVERLAYS.filter((each) => each.values(tokens, total)?.some((value) => value !== null));
    const chosen = available.find((each) => each.key === this.overlay) ?? available.find((each) => each.key === "logprob") ?? available[0];
    this.detail = h("dl", { class: "facts token-detail" });
    this.list = h("div", { class: "token-text mono", tabindex: 0, role: "group",
      "aria-label": "Tokens of the reply. Arrow keys select a token.", onkeydown: (/** @type {KeyboardEvent} */ event) => this.press(event) });
    fill(this.element,
      h("div", { class: "bar" }, field("Colour", select(available.map((each) => [each.key, each.label]), chosen?.key ?? "", (key) => {
        this.overlay = key;
        this.changed(key);
        this.draw();
      })), h("span", { class: "note" }, this.note(tokens, total))), this.list, this.detail);
    this.fillTokens(chosen);
    this.element.append(tokenTable(this.turn));
    this.select(this.selected, false);
  }

  /** @param {any} tokens @param {number | null} total */
  note(tokens, total) {
    const parts = [];
    if (!tokens.ratios) parts.push("Entropy, ratio and log-prob of the trainer are not recorded for this reply.");
    const clips = (tokens.clip ?? []).filter(Boolean).length;
    if (tokens.ratios) parts.push(clips ? `${plural(clips, "token")} outside the range of the clip (▾ below, ▴ above). ■: the clip stops the gradient of this token.`
      : "No token is outside the range of the clip.");
    if (tokens.kept === false) parts.push("The sequence mask removed this reply from the loss.");
    if (tokens.truncated) parts.push("Only the first 20,000 tokens are shown.");
    if (total === null && tokens.ratios) parts.push("No advantage is recorded.");
    return parts.join(" ");
  }

  /** @param {Overlay | undefined} overlay */
  fillTokens(overlay) {
    const { tokens, advantage } = this.turn;
    const values = overlay?.values(tokens, advantage?.total ?? null) ?? [];
    const largest = largestOf(values);
    const spans = tokens.ids.slice(0, this.limit).map((/** @type {number} */ id, /** @type {number} */ place) => {
      const value = values[place] ?? null;
      const colour = overlay?.scale === "none" ? "" : level(value, largest);
      const clip = tokens.clip?.[place] ?? 0;
      const stops = (clip === 1 && (advantage?.total ?? 0) < 0) || (clip === 2 && (advantage?.total ?? 0) > 0);
      const text = tokens.texts ? tokens.texts[place] : `${id} `;
      return h("span", { class: `tok ${colour}${tokens.mask[place] ? "" : " masked"}`, data: { place }, title: `${overlay?.label ?? ""}: ${overlay?.show(value) ?? ""}` },
        visible(text === "" ? "∅" : text.trimEnd() || text), clip > 0 && h("sup", {}, clip === 1 ? "▾" : "▴", stops && "■"), text.trim() && visible(text.slice(text.trimEnd().length)));
    });
    fill(this.list, spans);
    this.list.onclick = (/** @type {MouseEvent} */ event) => {
      const found = /** @type {HTMLElement} */ (event.target).closest("[data-place]");
      if (found) this.select(Number(/** @type {HTMLElement} */ (found).dataset.place));
    };
    const left = tokens.ids.length - spans.length;
    if (left > 0) this.element.append(h("button", { type: "button", onclick: () => {
      this.limit = (this.limit ?? 0) + 5_000;
      this.draw();
    } }, `Show more tokens (${left.toLocaleString("en")} left)`));
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.select(Math.min(Math.max(this.selected + by, 0), this.list.children.length - 1));
  }

  /** @param {number} place @param {boolean} [say] */
  select(place, say = true) {
    this.list.querySelector(".selected")?.classList.remove("selected");
    this.selected = place;
    const { tokens, advantage } = this.turn;
    if (place < 0) {
      fill(this.detail);
      return;
    }
    this.list.children[place]?.classList.add("selected");
    const at = (/** @type {string} */ name) => tokens[name]?.[place] ?? null;
    /** @type {[string, string, string][]} */
    const rows = [
      ["Token", `${tokens.texts ? visible(JSON.stringify(tokens.texts[place])) : ""} id ${tokens.ids[place]}`, "text and number of the token"],
      ["Position", `${place + 1} of ${tokens.ids.length}`, ""],
      ["Mask", tokens.mask[place] ? "1: in the loss" : "0: not in the loss", ""],
      ["log π_θ", num(at("log_probs"), 5), "log-probability of the trainer at the first update, in nats"],
      ["log μ", num(at("sampler_log_probs"), 5), "log-probability of the sampler, in nats"],
      ["log π_old", num(at("old_log_probs"), 5), "log-probability in the denominator of the ratio, in nats"],
      ["log π_ref", num(at("reference_log_probs"), 5), "log-probability of the reference policy, in nats"],
      ["Entropy", `${num(at("entropies"), 4)} nats`, ""],
      ["Ratio", fixed(at("ratios"), 5), "importance ratio of the token, turn or episode (the method chooses the level)"],
      ["Clip", CLIP[at("clip") ?? -1] ?? "–", ""],
      ["Advantage", tokens.mask[place] ? signed(advantage?.total, 4) : "–", "advantage in the loss"]];
    fill(this.detail, rows.map(([name, value, title]) => h("div", { title }, h("dt", {}, symbol(name)), h("dd", {}, value))));
    if (say) announce(rows.map(([name, value]) => `${name}: ${value}`).join("; "));
  }
}

/** @param {any} turn @returns {HTMLElement} */
function tokenTable({ tokens, advantage }) {
  /** @type {[string, string, (place: number) => string][]} */
  const columns = [["Mask", "1: in the loss", (place) => String(tokens.mask[place])],
    ["log π", "log-probability of the trainer at the first update, in nats", (place) => fixed(tokens.log_probs?.[place], 4)],
    ["log μ", "log-probability of the sampler, in nats", (place) => fixed(tokens.sampler_log_probs?.[place], 4)],
    ["Ratio", "importance ratio of the token, turn or episode (the method chooses the level)", (place) => fixed(tokens.ratios?.[place], 5)],
    ["Entropy", "in nats", (place) => fixed(tokens.entropies?.[place], 3)],
    ["A", "advantage in the loss", (place) => (tokens.mask[place] ? signed(advantage?.total, 3) : "–")],
    ["Clip", "▾: below, ▴: above the range of the clip", (place) => ["in", "▾", "▴"][tokens.clip?.[place]] ?? "–"]];
  const rows = tokens.ids.slice(0, TABLE_ROWS).map((/** @type {number} */ id, /** @type {number} */ place) => h("tr", {},
    h("th", { scope: "row", class: "mono", title: tokens.texts?.[place] }, tokens.texts ? visible(tokens.texts[place].replaceAll("\n", "↵") || "∅") : String(id)), columns.map(([, , value]) => h("td", { class: "n" }, value(place)))));
  return h("details", { open: tokens.ids.length <= SHORT_REPLY, class: "token-table" }, h("summary", {}, "Figures of all tokens", tokens.ids.length > TABLE_ROWS ? ` (the first ${TABLE_ROWS})` : ""),
    table("Figures of tokens", h("tr", {}, h("th", { scope: "col" }, "Token"), columns.map(([label, title]) => h("th", { scope: "col", class: "n", title }, label))), rows));
}
