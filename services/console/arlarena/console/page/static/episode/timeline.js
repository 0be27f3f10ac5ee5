/** The scrubber of an episode: buttons, a slider and one button for each turn. */

import { largestOf, level, sign } from "../charts/diverging.js";
import { fill, h, visible } from "../core/dom.js";
import { fixed, signed } from "../core/format.js";

/** Maximum number of buttons on each side of the current turn. The slider reaches all turns. */
const AROUND = 40;
/** If fewer buttons than this number are left on one side, the buttons are created again. */
const MARGIN = 10;
const FRAME_MS = 700;

export class Timeline {
  /** @param {any} episode @param {(turn: number) => void} go */
  constructor(episode, go) {
    this.episode = episode;
    this.go = go;
    this.turn = 0;
    this.range = { from: 0, to: -1 };
    this.largest = largestOf(episode.turn_list.map((/** @type {any} */ each) => each.advantage));
    this.last = Math.max(0, episode.turn_list.length - 1);
    this.slider = h("input", { type: "range", min: 0, max: this.last, step: 1, "aria-label": "Turn", oninput: () => go(Number(this.slider.value)) });
    this.text = h("output", { class: "turn-number" });
    this.player = h("button", { type: "button", onclick: () => this.toggle(), title: "Play the turns (Space)" });
    this.list = h("ol", { class: "timeline" });
    const step = (/** @type {string} */ label, /** @type {string} */ title, /** @type {() => number} */ to) =>
      h("button", { type: "button", title, "aria-label": title, onclick: () => go(to()) }, label);
    this.element = h("section", { class: "panel scrubber", "aria-label": "Turns" }, h("div", { class: "bar tight" },
      step("|◀", "First turn (Home)", () => 0), step("◀", "Previous turn (←)", () => this.turn - 1), this.player,
      step("▶", "Next turn (→)", () => this.turn + 1), step("▶|", "Last turn (End)", () => this.last), this.slider, this.text), this.list);
    this.showPlayer();
  }

  /** Whether the turns are being played. */
  get playing() {
    return Boolean(this.timer);
  }

  toggle() {
    if (this.timer) this.stop();
    else {
      if (this.turn >= this.last) this.go(0);
      this.timer = setInterval(() => (this.turn < this.last ? this.go(this.turn + 1) : this.stop()), FRAME_MS);
    }
    this.showPlayer();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.showPlayer();
  }

  showPlayer() {
    fill(this.player, this.timer ? "Pause" : "Play");
  }

  /** @param {number} turn */
  show(turn) {
    this.turn = turn;
    this.slider.value = String(turn);
    const row = this.episode.turn_list[turn];
    this.slider.setAttribute("aria-valuetext", `turn ${turn} of ${this.last}: ${row?.action ?? ""}`);
    this.text.textContent = `Turn ${turn} of ${this.last}`;
    if (!this.covers(turn)) this.build(turn);
    const focused = this.list.contains(document.activeElement);
    const before = /** @type {HTMLElement | null} */ (this.list.querySelector("[aria-current]"));
    before?.removeAttribute("aria-current");
    before?.setAttribute("tabindex", "-1");
    const current = /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-turn="${turn}"]`));
    current?.setAttribute("aria-current", "step");
    current?.setAttribute("tabindex", "0");
    if (current) this.list.scrollLeft = current.offsetLeft - this.list.offsetLeft - this.list.clientWidth / 2 + current.clientWidth / 2;
    if (focused) current?.focus({ preventScroll: true });
  }

  /** Whether the turn and enough turns on both sides have buttons. @param {number} turn */
  covers(turn) {
    const { from, to } = this.range;
    return from <= to && (from === 0 || turn - from >= MARGIN) && (to === this.last || to - turn >= MARGIN) && turn >= from && turn <= to;
  }

  /** Creates the buttons around a turn. @param {number} turn */
  build(turn) {
    const [from, to] = [Math.max(0, turn - AROUND), Math.min(this.last, turn + AROUND)];
    this.range = { from, to };
    fill(this.list, from > 0 && h("li", { class: "note" }, `… ${from}`), this.episode.turn_list.slice(from, to + 1).map((/** @type {any} */ each) => this.button(each)),
      to < this.last && h("li", { class: "note" }, `${this.last - to} …`));
  }

  /** @param {any} each */
  button(each) {
    const invalid = !each.action_valid || !each.format_valid;
    const title = `Turn ${each.turn}: ${visible(each.action || "no action")}; reward ${fixed(each.reward)}; advantage ${signed(each.advantage, 3)}${invalid ? "; invalid" : ""}${
      each.visits > 1 ? `; the group was in this state ${each.visits} times` : ""}`;
    return h("li", {}, h("button", { type: "button", class: `turn ${level(each.advantage, this.largest)}${invalid ? " invalid" : ""}`, title,
      data: { turn: each.turn }, tabindex: -1, onclick: () => this.go(each.turn) },
      h("span", { class: "top-line" }, `${each.turn}`, each.visits > 1 && h("span", { class: "visits" }, `×${each.visits}`)),
      h("span", { class: "action" }, visible(each.action || "–"), invalid && " !"),
      h("span", { class: "sub" }, h("span", {}, `r ${fixed(each.reward, 1)}`), each.advantage !== null && h("span", {}, `A ${sign(each.advantage)}${Math.abs(each.advantage).toFixed(2)}`))));
  }
}
