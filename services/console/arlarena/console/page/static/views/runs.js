/** The list of runs. Users can choose several runs and compare their curves. */

import { sparkline } from "../charts/sparkline.js";
import { get } from "../core/api.js";
import { badge, fill, h } from "../core/dom.js";
import { ago, count, duration, percent, plural } from "../core/format.js";
import { onEvent } from "../core/live.js";
import { empty, field, pager, table, throttled } from "../core/parts.js";
import { href, setQuery } from "../core/route.js";
import { knownRuns, loadRuns, rememberRuns } from "../core/selection.js";
import { stateBadge } from "./run_state.js";

const LIMIT = 100;

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const page = new RunList(root, route.query, signal);
  page.draw();
  await page.loadCurves();
  const refresh = throttled(() => void page.refresh(), 1000);
  onEvent((kind) => kind !== "alarm" && refresh(), signal);
}

class RunList {
  /** @param {HTMLElement} root @param {URLSearchParams} query @param {AbortSignal} signal */
  constructor(root, query, signal) {
    this.signal = signal;
    this.chosen = new Set((query.get("selected") ?? "").split(",").filter(Boolean));
    this.words = query.get("q") ?? "";
    this.offset = 0;
    /** @type {Map<string, (number | null)[]>} */
    this.curves = new Map();
    this.body = h("div");
    this.bar = h("div", { class: "bar" });
    const search = h("input", { type: "search", value: this.words, oninput: () => {
      this.words = search.value;
      this.offset = 0;
      setQuery({ q: this.words });
      this.draw();
    } });
    fill(root, h("div", { class: "heading" }, h("h1", {}, "Runs"), field("Name, environment or method", search)), this.bar, this.body);
  }

  async refresh() {
    await loadRuns(this.signal).catch(() => null);
    await this.loadCurves();
  }

  async loadCurves() {
    const runs = knownRuns().slice(0, LIMIT).map((run) => run.id);
    if (runs.length === 0) return;
    const found = await get("api/series", { runs: runs.join(","), metrics: "success_rate", points: 60 }, this.signal).catch(() => null);
    for (const each of found?.series ?? []) this.curves.set(each.run, each.y);
    if (!this.signal.aborted) this.draw();
  }

  draw() {
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    const runs = knownRuns().filter((run) => words.every((word) =>
      `${run.id} ${run.name} ${run.environment} ${run.method} ${run.state}`.toLowerCase().includes(word)));
    const ids = [...this.chosen].filter((id) => knownRuns().some((run) => run.id === id));
    rememberRuns(ids);
    fill(this.bar,
      h("a", { class: "button primary", href: href(["curves"], { runs: ids.join(",") }) },
        ids.length ? `Compare ${plural(ids.length, "run")}` : "Curves"),
      ids.length > 0 && h("button", { type: "button", onclick: () => {
        this.chosen.clear();
        this.choose();
      } }, "Clear the choice"),
      h("span", { class: "note" }, ids.length ? "" : "To compare curves, choose runs with the boxes."));
    if (knownRuns().length === 0) {
      fill(this.body, empty("There are no runs yet.", "Start a run with ", h("code", {}, "arlarena up configs/demo.toml"), ". The run then appears here."));
      return;
    }
    if (runs.length === 0) {
      fill(this.body, empty("No run matches.", "Remove words from the search."));
      return;
    }
    const focused = document.activeElement?.id;
    fill(this.body, table("Runs", this.head(), runs.slice(this.offset, this.offset + LIMIT).map((run) => this.row(run))),
      pager({ offset: this.offset, limit: LIMIT, total: runs.length, noun: "run" }, (offset) => {
        this.offset = offset;
        this.draw();
      }));
    if (focused) document.getElementById(focused)?.focus();
  }

  head() {
    /** @type {[string, string?, string?][]} */
    const columns = [["Run"], ["State"], ["Environment", "", "minor"], ["Method", "", "minor"], ["Seed", "", "n minor"], ["Step", "finished steps / planned steps", "n"],
      ["Training success", "share of solved episodes at the newest step", "n"], ["Curve", "training success over steps"],
      ["Evaluation", "success on the evaluation set, before and after training", "n"], ["Turns", "environment steps (turns) in training", "n minor"],
      ["Time", "training time", "n minor"], ["Alarms", "warnings and errors", "n"], ["Changed", "", "minor"]];
    return h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "Choose")),
      columns.map(([label, title, kind]) => h("th", { scope: "col", title, class: kind }, label)));
  }

  /** @param {any} run */
  row(run) {
    const box = h("input", { type: "checkbox", id: `choose-${run.id}`, "aria-label": `Choose ${run.id}`, onchange: () => {
      if (box.checked) this.chosen.add(run.id);
      else this.chosen.delete(run.id);
      this.choose();
    } });
    box.checked = this.chosen.has(run.id);
    const done = run.steps ? Math.min(1, (run.step ?? 0) / run.steps) : 0;
    const bar = h("progress", { max: 1, value: done, "aria-label": `${percent(done, 0)} of the steps` });
    const problems = run.index?.problems ? badge("warn", plural(run.index.problems, "unreadable record"), "see the overview of the run") : null;
    return h("tr", { class: box.checked ? "chosen" : null }, h("td", {}, box),
      h("th", { scope: "row" }, h("a", { class: "cut", title: run.id, href: href(["run", run.id]) }, run.id), problems,
        run.index?.error ? badge("warn", "index incomplete", run.index.error) : run.index && !run.index.ready && h("span", { class: "note" }, ` indexing ${percent(run.index.progress, 0)}`)),
      h("td", {}, stateBadge(run.state)), h("td", { class: "minor cut" }, run.environment), h("td", { class: "minor cut" }, run.method), h("td", { class: "n minor" }, run.seed),
      h("td", { class: "n" }, run.steps ? `${count(run.step ?? 0)} / ${count(run.steps)} ` : count(run.step), run.state === "running" && bar),
      h("td", { class: "n" }, percent(run.success)),
      h("td", {}, this.curves.has(run.id) && sparkline(this.curves.get(run.id) ?? [], `success over steps, now ${percent(run.success)}`)),
      h("td", { class: "n" }, (run.before ?? run.after) === null ? "–" : `${percent(run.before)} → ${percent(run.after)}`),
      h("td", { class: "n minor" }, count(run.environment_steps)), h("td", { class: "n minor" }, duration(run.run_seconds)),
      h("td", { class: "n" }, run.alarms ? h("a", { href: `${href(["run", run.id])}` }, badge("warn", String(run.alarms))) : "0"),
      h("td", { class: "minor", title: run.updated ? new Date(run.updated * 1000).toLocaleString() : null }, ago(run.updated)));
  }

  choose() {
    setQuery({ selected: [...this.chosen].join(",") });
    this.draw();
  }
}
