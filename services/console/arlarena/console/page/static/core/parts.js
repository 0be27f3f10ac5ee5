/** Elements that several views use: headings, messages about loading and errors, controls of lists, fields. */

import { badge, h } from "./dom.js";
import { count, plural } from "./format.js";
import { go } from "./route.js";
import { knownRuns } from "./selection.js";

/** @param {string} [text] @returns {HTMLElement} */
export function loading(text = "Loading…") {
  return h("p", { class: "state", role: "status" }, h("span", { class: "spinner", "aria-hidden": "true" }), text);
}

const ADVICE = {
  401: "Open /login?token=TOKEN with the token of the server.",
  404: "The run may have been moved. A run of an older release may not contain these data.",
  503: "Try again in a few seconds.",
};

/** Returns the description of an error, with advice. @param {unknown} error @param {() => void} [retry] @returns {HTMLElement} */
export function failure(error, retry) {
  const status = /** @type {any} */ (error)?.status;
  const message = error instanceof Error ? error.message : String(error);
  return h("div", { class: "state error", role: "alert" },
    h("p", {}, badge("bad", "Error"), " ", message),
    h("p", {}, ADVICE[/** @type {404} */ (status)] ?? ""),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

/** Returns the notice for an empty view, with advice. @param {string} title @param {...import("./dom.js").Child} advice
 * @returns {HTMLElement} */
export function empty(title, ...advice) {
  return h("div", { class: "state" }, h("p", {}, h("strong", {}, title)), advice.length > 0 && h("p", {}, advice));
}

/** Returns a labelled field. @param {string} label @param {HTMLElement} control @param {string} [title] */
export function field(label, control, title) {
  return h("label", { class: "field", title }, h("span", {}, label), control);
}

/**
 * Returns a select box.
 * @param {[string, string][]} choices value and label @param {string} value @param {(value: string) => void} onchange
 * @returns {HTMLSelectElement}
 */
export function select(choices, value, onchange) {
  const box = h("select", { onchange: () => onchange(box.value) },
    choices.map(([each, label]) => h("option", { value: each, selected: each === value }, label)));
  return box;
}

/**
 * Returns the heading of a view of one run, with a select box that opens the same view for another run.
 * @param {string} title @param {string} run @param {(run: string) => string} address
 * @param {...import("./dom.js").Child} more
 * @returns {HTMLElement}
 */
export function runHeading(title, run, address, ...more) {
  const choices = knownRuns().map((each) => /** @type {[string, string]} */ ([each.id, each.id]));
  if (!choices.some(([id]) => id === run)) choices.push([run, run]);
  return h("div", { class: "heading" }, h("h1", {}, title),
    field("Run", select(choices, run, (id) => go(address(id)))), more);
}

/**
 * Returns the controls of a paged list.
 * @param {{offset: number, limit: number, total: number, noun: string, label?: string}} page @param {(offset: number) => void} turn
 * @returns {HTMLElement}
 */
export function pager({ offset, limit, total, noun, label = "Pages of the list" }, turn) {
  const last = Math.min(offset + limit, total);
  const range = total > limit ? `${count(offset + 1)}–${count(last)} of ` : "";
  return h("nav", { class: "pager", "aria-label": label },
    h("span", { role: "status" }, `${range}${plural(total, noun)}`),
    total > limit && [
      h("button", { type: "button", class: "minor", disabled: offset === 0, onclick: () => turn(0) }, "First"),
      h("button", { type: "button", disabled: offset === 0, onclick: () => turn(Math.max(0, offset - limit)) }, "Previous"),
      h("button", { type: "button", disabled: last >= total, onclick: () => turn(offset + limit) }, "Next"),
    ]);
}

/** Returns a table in a block that scrolls and can be focused.
 * @param {string} label @param {import("./dom.js").Child} head @param {import("./dom.js").Child} rows */
export function table(label, head, rows) {
  return scrollBlock(label, h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
}

/** Returns a block that scrolls and can be focused. Its right edge is marked as long as more content is to the right. @param {string} label
 * @param {...import("./dom.js").Child} children @returns {HTMLElement} */
export function scrollBlock(label, ...children) {
  const block = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, children);
  const mark = () => block.classList.toggle("more", block.scrollWidth - block.clientWidth - block.scrollLeft > 1);
  block.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(block);
  return block;
}

/** Returns a list of names and values. With a third element "full", a pair has a separate row. @param {[import("./dom.js").Child, import("./dom.js").Child, string?][]} pairs */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([name, value, kind]) => h("div", { class: kind }, h("dt", {}, name), h("dd", {}, value || value === 0 ? value : "–"))));
}

/** Returns a function that calls `action`, `delay` ms after the last call of the function. @param {() => void} action @param {number} delay */
export function debounced(action, delay) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, delay);
  };
}

/** Returns a function that calls `action` after `delay` ms. Further calls during this time have no effect. @param {() => void} action @param {number} delay */
export function throttled(action, delay) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      action();
    }, delay);
  };
}
