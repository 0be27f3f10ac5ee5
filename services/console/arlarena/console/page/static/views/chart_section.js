/** A section of charts. Its data are loaded when the section becomes visible. */

import { LineChart } from "../charts/line_chart.js";
import { smooth } from "../charts/smoothing.js";
import { get } from "../core/api.js";
import { fill, h } from "../core/dom.js";
import { failure } from "../core/parts.js";

/**
 * @typedef {object} Page the view of curves
 * @property {string[]} runs
 * @property {string} x
 * @property {number} smoothing
 * @property {Set<string>} logs
 * @property {[number, number] | null} range
 * @property {Map<string, any[]>} alarms
 * @property {AbortSignal} signal
 * @property {() => string} unit
 * @property {(range: [number, number] | null) => void} zoom
 * @property {(x: number | null) => void} cursor
 * @property {(metric: string) => void} toggleLog
 */

export class ChartSection {
  /** @param {import("./metric_sections.js").Section} section @param {Page} page */
  constructor(section, page) {
    this.section = section;
    this.page = page;
    /** @type {Map<string, LineChart>} */
    this.charts = new Map();
    /** @type {any[]} */
    this.series = [];
    this.visible = false;
    this.message = h("div");
    this.grid = h("div", { class: `charts ${section.cells ? "cells" : ""}` }, section.charts.map((chart) => this.make(chart)));
    this.element = h("details", { class: "panel section", open: true },
      h("summary", {}, h("h2", {}, section.title), h("span", { class: "note" }, section.note ?? "")), this.message, this.grid);
    this.observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      this.observer.disconnect();
      this.visible = true;
      void this.load();
    }, { rootMargin: "300px" });
    this.observer.observe(this.element);
  }

  /** @param {import("./metric_sections.js").ChartSpec} chart */
  make(chart) {
    const made = new LineChart({ title: chart.title, unit: chart.unit, description: chart.description, note: chart.note,
      height: this.section.cells ? 125 : 163,
      onRange: (range) => this.page.zoom(range), onCursor: (x) => this.page.cursor(x),
      onLog: this.section.cells ? undefined : () => this.page.toggleLog(chart.metrics[0] ?? "") });
    this.charts.set(chart.metrics[0] ?? "", made);
    return made.element;
  }

  async load() {
    if (!this.visible) return;
    const metrics = [...new Set(this.section.charts.flatMap((chart) => chart.metrics))];
    try {
      const found = await get("api/series", { runs: this.page.runs.join(","), metrics: metrics.join(","), x: this.page.x }, this.page.signal);
      this.series = found.series;
      fill(this.message);
      this.draw();
    } catch (error) {
      if (!this.page.signal.aborted) fill(this.message, failure(error, () => void this.load()));
    }
  }

  draw() {
    if (!this.visible) return;
    const largest = Math.max(0, ...this.series.filter((each) => each.metric.startsWith("kl_share/")).flatMap((each) => smooth(each.y, this.page.smoothing).map(Number)));
    const domain = this.section.cells && largest > 0 ? /** @type {[number, number]} */ ([0, largest]) : null;
    for (const chart of this.section.charts) {
      const name = chart.metrics[0] ?? "";
      this.charts.get(name)?.update({ curves: chart.metrics.flatMap((metric, rank) => this.curves(metric, rank)),
        domain, range: this.page.range, smoothing: this.page.smoothing, xUnit: this.page.unit(),
        log: this.page.logs.has(name) || this.page.logs.has("*"), marks: this.marks() });
    }
  }

  /** @param {string} metric @param {number} rank 0: the metric of the chart; 1: a secondary metric */
  curves(metric, rank) {
    return this.series.filter((each) => each.metric === metric).map((each) => ({
      label: rank ? `${each.run}, ${metric.split("/")[0]}` : each.run, style: this.page.runs.indexOf(each.run), x: each.x, y: each.y,
      low: rank ? null : each.low, high: rank ? null : each.high, thin: rank > 0 }));
  }

  marks() {
    return [...this.page.alarms].flatMap(([run, alarms]) => alarms.filter((alarm) => typeof alarm[this.page.x] === "number")
      .map((alarm) => ({ x: alarm[this.page.x], label: `${run}, step ${alarm.step}: ${alarm.event}. ${alarm.message}` })));
  }

  /** @param {number | null} x */
  showCursor(x) {
    if (this.visible) for (const chart of this.charts.values()) chart.showCursor(x);
  }

  close() {
    this.observer.disconnect();
    for (const chart of this.charts.values()) chart.observer.disconnect();
  }
}
