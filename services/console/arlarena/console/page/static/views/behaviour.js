/** The behaviour view: transitions between actions. Compares outcomes, and two evaluations or phases of training. */

import { flow } from "../charts/flow.js";
import { LineChart, sample } from "../charts/line_chart.js";
import { get, runPath } from "../core/api.js";
import { fill, h, svg, visible } from "../core/dom.js";
import { percent, plural } from "../core/format.js";
import { empty, field, runHeading, select, table } from "../core/parts.js";
import { href, setQuery } from "../core/route.js";
import { rememberRun } from "../core/selection.js";
import { frequentActions, merged, shares, sum } from "./transitions.js";

const MAX_ROWS = 14;
const MAX_CHARTS = 6;
/** Pixels of the longest bar. */
const BAR = 90;
const OUTCOMES = /** @type {const} */ (["success", "failure"]);

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const run = route.path[1] ?? "";
  rememberRun(run);
  const found = await get(runPath(run, "behaviour"), {}, signal);
  const sides = found.sides.filter((/** @type {any} */ side) => side.success.episodes + side.failure.episodes > 0);
  const body = h("div");
  const bar = h("div", { class: "bar controls" });
  fill(root, runHeading("Behaviour", run, (other) => href(["behaviour", other])), bar, body);
  if (sides.length === 0) {
    fill(body, empty("No episode is recorded.", "This view compares episodes of evaluations and of recorded groups."));
    return;
  }
  let [left, right] = [find(sides, route.query.get("left"), 0), find(sides, route.query.get("right"), sides.length > 1 ? sides.findIndex((/** @type {any} */ each) => each.label === "after") : 0)];
  const show = () => {
    setQuery({ left: left.name, right: right.name });
    draw(body, left, right, found.flows, run);
  };
  const choices = sides.map((/** @type {any} */ side) => [side.name, side.name]);
  fill(bar, field("Compare", select(choices, left.name, (name) => {
    left = find(sides, name, 0);
    show();
  })), field("with", select(choices, right.name, (name) => {
    right = find(sides, name, 0);
    show();
  })), h("span", { class: "note" }, "A transition is an action and the action after it. Each action is shown by its first word."));
  draw(body, left, right, found.flows, run);
}

/** @param {any[]} sides @param {string | null} name @param {number} fallback */
function find(sides, name, fallback) {
  return sides.find((side) => side.name === name) ?? sides[Math.max(0, fallback)];
}

/** @param {HTMLElement} body @param {any} left @param {any} right @param {any[]} flows @param {string} run */
function draw(body, left, right, flows, run) {
  const sides = [left, right];
  const counts = OUTCOMES.map((outcome) => sides.map((side) => merged(side[outcome].transitions)));
  const actions = frequentActions(counts.flat());
  const cards = OUTCOMES.flatMap((outcome, row) => sides.map((side, column) => {
    const here = counts[row]?.[column] ?? new Map();
    const name = `${outcome === "success" ? "Solved" : "Failed"}, ${side.name}`;
    const query = { source: side.source, label: side.label ?? "", step_min: side.steps?.[0] ?? "", step_max: side.steps?.[1] ?? "", success: outcome === "success" };
    return h("figure", { class: "panel flow-card" }, h("figcaption", {}, h("h2", {}, h("span", { class: outcome === "success" ? "solved" : "failed", "aria-hidden": "true" }, outcome === "success" ? "✓ " : "✗ "), name),
      h("a", { href: href(["episodes", run], query) }, plural(side[outcome].episodes, "episode"))),
    here.size ? flow(shares(here, actions), actions, name) : h("p", { class: "note" }, "There is no transition, because no such episode has two turns."));
  }));
  const differences = differenceRows(counts);
  fill(body, h("div", { class: "flows" }, cards), h("section", { class: "panel", "aria-labelledby": "differences" }, h("h2", { id: "differences" }, "Transitions that differ most between solved and failed episodes"),
    differences.length ? differenceTable(differences, sides) : empty("There is nothing to compare.", "No episode has two turns.")), overSteps(flows, differences));
}

/** @param {Map<string, {from: string, to: string, count: number}>[][]} counts of outcomes, of sides */
function differenceRows(counts) {
  const keys = new Set(counts.flat().flatMap((each) => [...each.keys()]));
  const share = (/** @type {number} */ row, /** @type {number} */ column, /** @type {string} */ key) => {
    const here = counts[row]?.[column];
    const total = here ? sum(here) : 0;
    return total && here ? (here.get(key)?.count ?? 0) / total : null;
  };
  const rows = [...keys].map((key) => ({ key, values: [share(0, 0, key), share(1, 0, key), share(0, 1, key), share(1, 1, key)] }));
  const size = (/** @type {{values: (number | null)[]}} */ { values }) => Math.max(Math.abs((values[0] ?? 0) - (values[1] ?? 0)), Math.abs((values[2] ?? 0) - (values[3] ?? 0)));
  return rows.sort((a, b) => size(b) - size(a)).slice(0, MAX_ROWS);
}

/** @param {{key: string, values: (number | null)[]}[]} rows @param {any[]} sides */
function differenceTable(rows, sides) {
  const largest = Math.max(...rows.flatMap((row) => row.values.map((value) => value ?? 0)), 1e-9);
  const bar = (/** @type {number | null} */ value, /** @type {string} */ kind) => h("td", { class: "n" }, percent(value), svg("svg", { class: "share-bar", width: BAR, height: 10, "aria-hidden": "true" }, svg("rect", { class: `bar-${kind}`, width: ((value ?? 0) / largest) * BAR, height: 10 })));
  return table("Differences", [h("tr", {}, h("th", { scope: "col", rowspan: 2 }, "Transition"), sides.map((side) => h("th", { scope: "colgroup", colspan: 2, class: "side" }, side.name))),
    h("tr", {}, sides.flatMap(() => ["✓\u00a0Solved", "✗\u00a0Failed"].map((label) => h("th", { scope: "col", class: "n" }, label))))],
  rows.map((row) => h("tr", {}, h("th", { scope: "row" }, visible(row.key)), row.values.map((value, index) => bar(value, index % 2 ? "failed" : "solved")))));
}

/** @param {any[]} flows @param {{key: string}[]} rows */
function overSteps(flows, rows) {
  if (flows.length < 2) return null;
  const steps = flows.map((each) => each.step);
  const points = flows.map((each) => OUTCOMES.map((outcome) => merged(each[outcome])));
  const charts = rows.slice(0, MAX_CHARTS).map(({ key }) => {
    const chart = new LineChart({ title: visible(key), unit: "share", description: `share of the transition ${visible(key)}` });
    chart.update({ xUnit: "steps", curves: OUTCOMES.map((outcome, row) => ({ label: outcome === "success" ? "solved" : "failed", style: row, x: steps,
      y: points.map((each) => (each[row]?.size ? (each[row]?.get(key)?.count ?? 0) : null)) })) });
    return chart.element;
  });
  return h("section", { class: "panel", "aria-labelledby": "over-steps" }, h("h2", { id: "over-steps" }, "The same transitions over training"),
    h("ul", { class: "legend" }, h("li", {}, sample(0), "solved episodes"), h("li", {}, sample(1), "failed episodes")), h("div", { class: "charts thirds" }, charts));
}
