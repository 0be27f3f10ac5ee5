/** The curves of one or several runs. All charts share the x axis, the zoom and the cursor. */

import { sample } from "../charts/line_chart.js";
import { get, runPath } from "../core/api.js";
import { fill, h, visible } from "../core/dom.js";
import { num } from "../core/format.js";
import { onEvent } from "../core/live.js";
import { debounced, empty, field, loading, select, throttled } from "../core/parts.js";
import { setQuery } from "../core/route.js";
import { chosenRuns, knownRuns, rememberRuns } from "../core/selection.js";
import { bind } from "../core/keys.js";
import { ChartSection } from "./chart_section.js";
import { sections } from "./metric_sections.js";

/** @type {[string, string][]} */
const X_AXES = [["step", "Step"], ["run_seconds", "Time (s)"], ["environment_steps", "Environment steps (turns)"]];
const UNITS = { step: "steps", run_seconds: "s", environment_steps: "turns" };

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const page = new Curves(root, route.query, signal);
  await page.start();
}

class Curves {
  /** @param {HTMLElement} root @param {URLSearchParams} query @param {AbortSignal} signal */
  constructor(root, query, signal) {
    this.root = root;
    this.signal = signal;
    const known = new Set(knownRuns().map((run) => run.id));
    const asked = (query.get("runs") ?? "").split(",").filter((id) => known.has(id));
    this.runs = asked.length ? asked : chosenRuns();
    this.x = UNITS[/** @type {"step"} */ (query.get("x"))] ? String(query.get("x")) : "step";
    this.smoothing = Math.min(Math.max(Number(query.get("smooth")) || 0, 0), 0.99);
    this.logs = new Set((query.get("log") ?? "").split(",").filter(Boolean));
    this.words = query.get("q") ?? "";
    const range = [Number(query.get("from")), Number(query.get("to"))];
    /** @type {[number, number] | null} */
    this.range = query.has("from") && Number(range[0]) < Number(range[1]) ? /** @type {[number, number]} */ (range) : null;
    /** @type {ChartSection[]} */
    this.sections = [];
    /** @type {Map<string, any[]>} */
    this.alarms = new Map();
    this.body = h("div", { class: "sections" });
    this.bar = h("div", { class: "bar controls" });
    this.legend = h("ul", { class: "legend", "aria-label": "Runs" });
  }

  async start() {
    fill(this.root, h("div", { class: "heading" }, h("h1", {}, "Curves"), this.legend), this.bar, this.body);
    bind("View", [
      { keys: ["0"], label: "Show the full range of all charts", run: () => this.zoom(null) },
      { keys: ["l"], label: "Logarithmic axis for all charts", run: () => this.toggleAllLogs() },
      { keys: ["/"], label: "Search metrics", run: () => /** @type {HTMLElement} */ (this.bar.querySelector("input[type=search]"))?.focus() },
    ]);
    this.drawControls();
    this.drawLegend();
    await this.load();
    const refresh = throttled(() => this.refresh(), 800);
    onEvent((kind, data) => {
      if (this.runs.includes(data.run) && (kind === "step" || kind === "alarm")) refresh();
    }, this.signal);
  }

  async load() {
    if (this.runs.length === 0) {
      fill(this.body, empty("No run is chosen.", "Choose a run in the menu “Runs”."));
      return;
    }
    fill(this.body, loading());
    const { metrics } = await get("api/metrics", { runs: this.runs.join(",") }, this.signal);
    this.metrics = metrics;
    await this.loadAlarms();
    this.drawSections();
  }

  async loadAlarms() {
    await Promise.all(this.runs.map(async (run) => {
      const found = await get(runPath(run, "alarms"), { limit: 200 }, this.signal).catch(() => null);
      this.alarms.set(run, found?.alarms ?? []);
    }));
  }

  drawSections() {
    for (const section of this.sections) section.close();
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (this.metrics ?? []).filter((/** @type {any} */ metric) =>
      words.every((word) => `${metric.name} ${metric.description}`.toLowerCase().includes(word)));
    this.sections = sections(wanted).map((each) => new ChartSection(each, this));
    fill(this.body, this.sections.map((section) => section.element),
      this.sections.length === 0 && (words.length ? empty("No metric matches.", "Remove words from the search, or choose another run.")
        : empty("These runs have no metrics.", "The metrics of a step appear when the step ends.")));
  }

  async refresh() {
    await this.loadAlarms();
    for (const section of this.sections) void section.load();
  }

  drawControls() {
    const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.smoothing, oninput: () => {
      this.smoothing = Number(slider.value);
      output.textContent = this.smoothing.toFixed(2);
      later();
    } });
    const output = h("output", {}, this.smoothing.toFixed(2));
    const later = debounced(() => {
      setQuery({ smooth: this.smoothing || null });
      for (const section of this.sections) section.draw();
    }, 30);
    const search = h("input", { type: "search", value: this.words, placeholder: "entropy, kl, push…", oninput: debounced(() => {
      this.words = search.value;
      setQuery({ q: this.words });
      this.drawSections();
    }, 200) });
    this.reset = h("button", { type: "button", onclick: () => this.zoom(null), disabled: !this.range }, "Full range");
    this.zoomText = h("span", { class: "note" });
    fill(this.bar, this.runChooser(),
      field("x axis", select(X_AXES, this.x, (x) => {
        this.x = x;
        this.range = null;
        setQuery({ x: x === "step" ? null : x, from: null, to: null });
        this.showRange();
        for (const section of this.sections) void section.load();
      })),
      field("Smoothing", h("span", { class: "pair" }, slider, output), "weight of the previous values in an exponential moving average"),
      field("Metric", search),
      this.reset, this.zoomText);
    this.showRange();
  }

  runChooser() {
    const boxes = knownRuns().map((run) => {
      const box = h("input", { type: "checkbox", onchange: () => {
        this.runs = box.checked ? [...this.runs, run.id] : this.runs.filter((id) => id !== run.id);
        rememberRuns(this.runs);
        setQuery({ runs: this.runs.join(",") });
        this.drawLegend();
        void this.load();
      } });
      box.checked = this.runs.includes(run.id);
      return h("label", { class: "check" }, box, run.id, h("span", { class: "note" }, ` ${run.environment ?? ""} · ${run.state}`));
    });
    const summary = h("summary", { class: "button" }, "Runs");
    const menu = h("details", { class: "menu", onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      menu.open = false;
      summary.focus();
    } }, summary, h("div", { class: "popup" }, boxes));
    addEventListener("pointerdown", (event) => {
      if (!menu.contains(/** @type {Node} */ (event.target))) menu.open = false;
    }, { signal: this.signal });
    return menu;
  }

  drawLegend() {
    rememberRuns(this.runs);
    fill(this.legend, this.runs.map((run, index) => h("li", {}, sample(index), visible(run))));
  }

  showRange() {
    if (this.reset) /** @type {HTMLButtonElement} */ (this.reset).disabled = !this.range;
    fill(/** @type {HTMLElement} */ (this.zoomText), this.range
      ? `${num(this.range[0], 4)} to ${num(this.range[1], 4)} ${this.unit()}` : "To zoom, drag in a chart, or focus a chart and press +.");
  }

  /** Unit of the x axis. */
  unit() {
    return UNITS[/** @type {"step"} */ (this.x)];
  }

  /** @param {[number, number] | null} range */
  zoom(range) {
    this.range = range;
    setQuery({ from: range && Number(range[0].toPrecision(6)), to: range && Number(range[1].toPrecision(6)) });
    this.showRange();
    for (const section of this.sections) section.draw();
  }

  /** @param {number | null} x */
  cursor(x) {
    for (const section of this.sections) section.showCursor(x);
  }

  /** @param {string} metric */
  toggleLog(metric) {
    if (!this.logs.delete(metric)) this.logs.add(metric);
    this.showLogs();
  }

  toggleAllLogs() {
    this.logs = this.logs.has("*") ? new Set() : new Set(["*"]);
    this.showLogs();
  }

  showLogs() {
    setQuery({ log: [...this.logs].join(",") });
    for (const section of this.sections) section.draw();
  }
}
