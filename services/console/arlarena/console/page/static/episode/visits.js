/** The visits of one state: a comparison of the actions, and a list of all visits. */

import { largestOf, level } from "../charts/diverging.js";
import { h, symbol, visible } from "../core/dom.js";
import { fixed, signed } from "../core/format.js";
import { scrollBlock } from "../core/parts.js";
import { href } from "../core/route.js";

/** Maximum number of rows of the list, and of actions in the comparison. */
const MAX_VISITS = 500;
const MAX_ACTIONS = 12;

/**
 * @typedef {object} Visit an item of the reply of `…/visits`
 * @property {string} episode @property {number | null} member @property {number} turn @property {string} action @property {boolean} action_valid
 * @property {number} step_return @property {number | null} step_advantage @property {number | null} advantage
 * @property {boolean} success @property {boolean} this
 */

/** @param {Visit[]} visits @param {(visit: Visit) => number | null} value @returns {number | null} */
function mean(visits, value) {
  const known = visits.map(value).filter((each) => each !== null);
  return known.length ? known.reduce((sum, each) => sum + each, 0) / known.length : null;
}

const HEAD_R = { scope: "col", class: "n", title: "discounted sum of the rewards from this turn on" };
const HEAD_A = { scope: "col", class: "n", title: "step advantage" };

/** @param {number | null} value @param {number} largest */
function pill(value, largest) {
  return h("td", { class: "n" }, h("span", { class: `pill ${level(value, largest)}` }, signed(value)));
}

/** Compares the actions in the state: the number of turns with each action, and means over these turns. @param {Visit[]} visits @returns {HTMLElement} */
export function actionTable(visits) {
  /** @type {Map<string, Visit[]>} */
  const byAction = new Map();
  for (const visit of visits) {
    const name = visit.action_valid ? visit.action : `${visit.action || "(none)"} !`;
    byAction.set(name, [...(byAction.get(name) ?? []), visit]);
  }
  const rows = [...byAction].map(([action, those]) => ({ action, those, reward: mean(those, (each) => each.step_return), advantage: mean(those, (each) => each.step_advantage),
    solved: those.filter((each) => each.success).length })).sort((first, second) => (second.reward ?? 0) - (first.reward ?? 0));
  const largest = largestOf(rows.map((row) => row.advantage));
  return scrollBlock("Actions in this state", h("table", { class: "visits by-action" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Action"), h("th", { scope: "col", class: "n" }, "Turns"), h("th", { ...HEAD_R, title: `mean ${HEAD_R.title}` }, "Mean R"),
      h("th", { ...HEAD_A, title: "mean step advantage" }, "Mean ", symbol("A_S")), h("th", { scope: "col", class: "n", title: "turns of episodes that solved the task" }, "Solved"))),
    h("tbody", {}, rows.slice(0, MAX_ACTIONS).map((row) => h("tr", { "aria-current": row.those.some((each) => each.this) ? "true" : null },
      h("th", { scope: "row", class: "cut", title: row.action }, visible(row.action || "–")), h("td", { class: "n" }, row.those.length), h("td", { class: "n" }, fixed(row.reward)), pill(row.advantage, largest),
      h("td", { class: "n" }, `${row.solved} of ${row.those.length}`))))), rows.length > MAX_ACTIONS && h("p", { class: "note" }, `… ${rows.length - MAX_ACTIONS} more actions`));
}

/** Lists all visits, with links. @param {Visit[]} visits @param {string} run @returns {HTMLElement} */
export function visitList(visits, run) {
  const largest = largestOf(visits.map((each) => each.step_advantage ?? each.advantage));
  return h("div", { class: "scroll visit-list", tabindex: 0, role: "group", "aria-label": "Visits" }, h("table", { class: "visits" },
    h("thead", {}, h("tr", {}, ["Turn", "Action"].map((label) => h("th", { scope: "col" }, label)), h("th", HEAD_R, "R"), h("th", HEAD_A, symbol("A_S")), h("th", { scope: "col" }, "End"))),
    h("tbody", {}, visits.slice(0, MAX_VISITS).map((each) => h("tr", { "aria-current": each.this ? "true" : null },
      h("th", { scope: "row" }, each.this ? "this turn" : h("a", { class: "visit", href: href(["episode", run, each.episode, each.turn]) },
        each.member === null ? `turn ${each.turn}` : `#${each.member}, turn ${each.turn}`)),
      h("td", { class: "cut", title: each.action }, visible(each.action || "–"), !each.action_valid && " !"), h("td", { class: "n" }, fixed(each.step_return)), pill(each.step_advantage, largest), h("td", {}, end(each.success)))))));
}

/** @param {boolean} success */
function end(success) {
  const label = success ? "solved" : "failed";
  return h("span", { class: label, title: label }, h("span", { "aria-hidden": "true" }, success ? "✓" : "✗"), h("span", { class: "hidden" }, label));
}
