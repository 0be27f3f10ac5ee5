/** The overview of one run: its state, evaluations, alarms and configuration. */

import { get, runPath } from "../core/api.js";
import { badge, fill, h, textBlock, visible } from "../core/dom.js";
import { count, duration, num, percent, plural } from "../core/format.js";
import { onEvent } from "../core/live.js";
import { empty, facts, runHeading, table, throttled } from "../core/parts.js";
import { href } from "../core/route.js";
import { rememberRun } from "../core/selection.js";
import { stateBadge } from "./run_state.js";

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const id = route.path[1] ?? "";
  rememberRun(id);
  const body = h("div");
  const show = async () => {
    const [run, alarms] = await Promise.all([get(runPath(id), {}, signal), get(runPath(id, "alarms"), {}, signal)]);
    fill(body, links(run), summary(run), evaluations(run), alarmList(alarms, run), problems(run), configuration(run));
  };
  await show();
  fill(root, runHeading("Overview", id, (other) => href(["run", other])), body);
  const refresh = throttled(() => void show().catch(() => null), 1000);
  onEvent((_kind, data) => data.run === id && refresh(), signal);
}

/** @param {any} run */
function links(run) {
  const views = [["curves", "Curves"], ["groups", "Groups"], ["episodes", "Episodes"], ["behaviour", "Behaviour"]];
  return h("p", { class: "bar" }, views.map(([view = "", label]) => h("a", { class: "button",
    href: view === "curves" ? href([view], { runs: run.id }) : href([view, run.id]) }, label)),
    h("a", { class: "button", href: href(["play"], { run: run.id }) }, "Play"));
}

/** @param {any} run */
function ending(run) {
  if (!run.ending) return "–";
  const { ended_by: by, step, limit, detail } = run.ending;
  const reason = { steps: "all steps done", signal: "a signal", error: "an error" }[/** @type {"steps"} */ (by)] ?? (typeof limit === "number" ? `the limit ${by} = ${num(limit, 6)}` : by);
  return visible(`${reason}, after ${plural(step, "step")}${detail ? `: ${detail}` : ""}`);
}

/** @param {any} run */
function summary(run) {
  const now = run.activity && run.state === "running" ? `step ${run.activity.step}: ${run.activity.doing}, ${
    run.activity.groups ?? 0} of ${run.activity.groups_wanted ?? "?"} groups` : null;
  const stages = Object.entries(run.stages ?? {}).map(([name, seconds]) => `${name} ${duration(/** @type {number} */ (seconds))}`);
  const recorded = run.recorded ?? {};
  return h("section", { class: "panel", "aria-labelledby": "summary" }, h("h2", { id: "summary" }, "Summary"), facts([
    ["State", [stateBadge(run.state), now && ` ${now}`]],
    ["Environment", run.environment], ["Method", run.method], ["Seed", String(run.seed ?? "–")],
    ["Steps", run.steps ? `${count(run.step ?? 0)} of ${count(run.steps)}` : count(run.step)], ["Ended by", ending(run), run.ending?.detail ? "full" : ""],
    ["Training success", run.success === null ? "" : `${percent(run.success)} at the newest step`],
    ["Turns played", count(run.environment_steps)], ["Training time", duration(run.run_seconds)],
    ["Stages", stages.join(" · ") || "–", "full"],
    ["Restarts", Object.entries(run.restarts ?? {}).map(([name, number]) => `${name}: ${number}`).join(", ") || "none"],
    ["Recorded", recorded.groups ? `${plural(recorded.groups, "group")} of ${plural(recorded.steps.length, "step")}, ${
      recorded.figures ? "with" : "without"} figures of tokens` : "no groups"],
    ["Code", (run.code ?? []).join(", ") || "–"], ["Command", h("code", {}, visible(run.command ?? "–")), "full"],
  ]));
}

/** @param {any} run */
function evaluations(run) {
  const sets = run.evaluations ?? [];
  const ci = (/** @type {number[] | null} */ pair) => pair ? `${percent(pair[0])} to ${percent(pair[1])}` : "–";
  const kinds = sets.some((/** @type {any} */ each) => each.by_kind?.length);
  const rows = sets.flatMap((/** @type {any} */ each) => [
    h("tr", {}, h("th", { scope: "row" }, h("a", { href: href(["episodes", run.id], { source: "evaluation", label: each.label }) }, each.label)),
      kinds && h("td", {}, "all"), h("td", { class: "n" }, count(each.episodes)), h("td", { class: "n" }, percent(each.success)), h("td", { class: "n" }, ci(each.ci95))),
    ...(each.by_kind ?? []).map((/** @type {any} */ kind) => h("tr", {}, h("td"), h("td", {}, visible(kind.kind)), h("td", { class: "n" }, count(kind.n)),
      h("td", { class: "n" }, percent(kind.success)), h("td", { class: "n" }, ci(kind.ci95)))),
  ]);
  return h("section", { class: "panel", "aria-labelledby": "evaluations" }, h("h2", { id: "evaluations" }, "Evaluations"),
    rows.length ? table("Evaluations", h("tr", {}, h("th", { scope: "col" }, "Label"), kinds && h("th", { scope: "col" }, "Kind of task"),
      h("th", { scope: "col", class: "n" }, "Episodes"), h("th", { scope: "col", class: "n" }, "Success"),
      h("th", { scope: "col", class: "n", title: "95 % confidence interval" }, "95 % interval")), rows)
      : empty("No evaluation is finished.", "The first evaluation runs before training."));
}

/** @param {any} alarms @param {any} run */
function alarmList(alarms, run) {
  const rows = alarms.alarms.map((/** @type {any} */ each) => h("tr", {},
    h("td", {}, badge(each.level === "error" ? "bad" : "warn", each.level)), h("td", { class: "n" }, each.step ?? "–"),
    h("td", {}, each.service), h("td", {}, each.event), h("td", { class: "wide" }, visible(each.message)),
    h("td", {}, new Date(each.ts * 1000).toLocaleString())));
  return h("section", { class: "panel", id: "alarms", "aria-labelledby": "alarms-title" },
    h("h2", { id: "alarms-title" }, `Alarms (${count(alarms.total)})`),
    rows.length ? table("Alarms", h("tr", {}, ["Level", "Step", "Service", "Event", "Message", "Time"].map((label) =>
      h("th", { scope: "col", class: label === "Step" ? "n" : null }, label))), rows)
      : h("p", { class: "note" }, `The logs of ${run.id} contain no warning and no error.`));
}

/** @param {any} run */
function problems(run) {
  if (!run.problems?.length) return null;
  return h("section", { class: "panel", "aria-labelledby": "problems" }, h("h2", { id: "problems" }, "Unreadable files and records"),
    h("ul", {}, run.problems.map((/** @type {any} */ each) => h("li", {}, h("code", {}, visible(each.file)), `: ${visible(each.reason)}`))));
}

/** @param {any} run */
function configuration(run) {
  return h("section", { class: "panel", "aria-labelledby": "configuration" }, h("h2", { id: "configuration" }, "Configuration"),
    h("details", {}, h("summary", {}, "config.toml"), textBlock(run.configuration, { label: "Configuration" })));
}

