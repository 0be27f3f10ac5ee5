/** The form with the filters of episodes. */

import { h } from "../core/dom.js";
import { count } from "../core/format.js";
import { debounced, field } from "../core/parts.js";

const SUCCESS = /** @type {[string, string][]} */ ([["", "solved or failed"], ["true", "solved"], ["false", "failed"]]);
/** Filters with a minimum and a maximum: name, label, title. */
const RANGES = [["turns", "Turns", "number of turns"], ["invalid", "Invalid", "turns with an invalid action or format"],
  ["return", "Return", "sum of the rewards"], ["step", "Step", "training step"]];
/** Presets for frequent searches. @type {[string, Record<string, string>][]} */
const PRESETS = [["Failures", { success: "false" }], ["Invalid actions", { invalid_min: "1" }], ["After training, failed", { label: "after", success: "false" }]];

export class FilterForm {
  /** @param {any} facets @param {URLSearchParams} query @param {(query: URLSearchParams) => void} changed */
  constructor(facets, query, changed) {
    /** @type {Record<string, HTMLInputElement | HTMLSelectElement>} */
    this.fields = {};
    const send = () => changed(this.read());
    const later = debounced(send, 250);
    const choice = (/** @type {string} */ name, /** @type {[string, string][]} */ choices) => (this.fields[name] = h("select", { onchange: send },
      choices.map(([value, label]) => h("option", { value }, label))));
    const input = (/** @type {string} */ name, /** @type {object} */ more) => (this.fields[name] = h("input", { oninput: later, ...more }));
    const list = (/** @type {Record<string, number>} */ counts, /** @type {string} */ all) => /** @type {[string, string][]} */ ([["", all],
      ...Object.entries(counts ?? {}).filter(([value]) => value).map(([value, number]) => [value, `${value.replace("_", " ")} (${count(number)})`])]);
    const statuses = { ...facets.statuses, ...facets.group_statuses };
    const kinds = Object.keys(facets.kinds ?? {}).filter(Boolean);
    const form = h("form", { class: "filters", "aria-label": "Filters of episodes", onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
      field("Text", input("q", { type: "search", placeholder: "words, \"a phrase\", pre*", maxlength: 200 }), "words in observations, replies and actions"),
      field("Set", choice("source", list(facets.sources, "all sets"))), field("Label", choice("label", list(facets.labels, "all labels"))),
      kinds.length > 0 && field("Kind of task", choice("kind", list(facets.kinds, "all kinds"))),
      field("Task", input("task", { type: "text", placeholder: "part of the name" })),
      field("Outcome", choice("success", SUCCESS)),
      Object.keys(statuses).length > 0 && field("Use in training", choice("status", list(statuses, "all"))),
      RANGES.filter(([name = ""]) => facets[name === "step" ? "steps" : name]).map(([name = "", label = "", title]) => this.range(name, label, title, facets, input)),
      field("Group", input("group", { type: "text", placeholder: "id of a group" })),
      h("div", { class: "presets" }, h("span", { class: "note" }, "Examples:"), PRESETS.map(([label, values]) => h("button", { type: "button", class: "chip", onclick: () => {
        this.show(new URLSearchParams(values));
        send();
      } }, label))),
      h("button", { type: "button", onclick: () => {
        this.show(new URLSearchParams());
        send();
      } }, "Remove all filters"));
    // In a narrow window, the filters are closed at first: they would hide the list.
    this.element = h("details", { class: "filter-box", open: matchMedia("(min-width: 761px)").matches }, h("summary", {}, h("h2", { class: "inline" }, "Filters")), form);
    this.show(query);
  }

  /** @param {string} name @param {string} label @param {string | undefined} title @param {any} facets
   * @param {(name: string, more: object) => HTMLElement} input */
  range(name, label, title, facets, input) {
    const [low, high] = facets[name === "step" ? "steps" : name] ?? ["", ""];
    const bound = (/** @type {string} */ end, /** @type {number} */ hint) => input(`${name}_${end}`, { type: "number", step: name === "return" ? "any" : 1,
      placeholder: String(Math.round(hint * 10) / 10), "aria-label": `${label}, ${end === "min" ? "minimum" : "maximum"}` });
    return h("fieldset", { class: "range", title }, h("legend", {}, label), bound("min", low), h("span", { "aria-hidden": "true" }, "–"), bound("max", high));
  }

  /** @returns {URLSearchParams} */
  read() {
    const given = Object.entries(this.fields).map(([name, each]) => [name, each.value.trim()]).filter(([, value]) => value);
    return new URLSearchParams(given);
  }

  /** @param {URLSearchParams} query */
  show(query) {
    for (const [name, each] of Object.entries(this.fields)) {
      if (each !== document.activeElement) each.value = query.get(name) ?? "";
    }
  }
}
