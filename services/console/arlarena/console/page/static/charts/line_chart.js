/** A chart of curves over a common x axis, with zoom, a cursor, marks of alarms and a row of values. */

import { announce, fill, h, svg } from "../core/dom.js";
import { num, withUnit, withoutUnit } from "../core/format.js";
import { linear, logLabels, logarithmic, tickLabels } from "./scale.js";
import { nearest, smooth } from "./smoothing.js";

/**
 * @typedef {object} Curve
 * @property {string} label
 * @property {number} style number of the style of line, from 0
 * @property {number[]} x ascending
 * @property {(number | null)[]} y
 * @property {(number | null)[] | null} [low] minimum of the merged steps
 * @property {(number | null)[] | null} [high] maximum of the merged steps
 * @property {boolean} [thin] a secondary curve
 *
 * @typedef {object} ChartState
 * @property {Curve[]} curves
 * @property {string} xUnit
 * @property {[number, number] | null} range the visible part of the x axis
 * @property {number} smoothing in [0, 1)
 * @property {boolean} log
 * @property {{x: number, label: string}[]} [marks] alarms
 * @property {[number, number] | null} [domain] a fixed range of the y axis, for charts that are compared
 *
 * @typedef {object} ChartOptions
 * @property {string} title
 * @property {string} unit
 * @property {string} description
 * @property {number} [height] in CSS pixels
 * @property {string} [note] short text below the title
 * @property {(range: [number, number] | null) => void} [onRange]
 * @property {(x: number | null) => void} [onCursor]
 * @property {() => void} [onLog]
 */

const MARGIN = { left: 53, right: 10, top: 8, bottom: 33 };
/** Names of the x axis by its unit. */
const X_NAMES = { steps: "step", s: "training time (s)", turns: "environment steps (turns)" };
const KEYS = ["ArrowLeft", "ArrowRight", "+", "=", "-", "0", "Escape", "Home", "End"];

export class LineChart {
  /** @param {ChartOptions} options */
  constructor(options) {
    this.options = options;
    /** @type {ChartState} */
    this.state = { curves: [], xUnit: "", range: null, smoothing: 0, log: false };
    /** @type {number | null} */
    this.cursor = null;
    this.width = 320;
    this.height = options.height ?? 163;
    this.values = h("div", { class: "values" });
    this.log = h("button", { type: "button", class: "toggle", title: "Logarithmic y axis", "aria-label":
      `Logarithmic axis: ${options.title}`, "aria-pressed": "false", onclick: () => options.onLog?.() }, "log");
    this.plot = svg("svg", { tabindex: 0, role: "application", class: "plot" });
    this.overlay = svg("g", { class: "overlay" });
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("span", { class: "name", title: options.description }, options.title),
        h("span", { class: "unit" }, options.note ?? ""), options.onLog && this.log),
      this.plot, this.values);
    this.listen();
    this.observer = new ResizeObserver(([entry]) => {
      const width = Math.round(entry?.contentRect.width ?? 0);
      if (width > 60 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.observer.observe(this.element);
  }

  /** @param {Partial<ChartState>} changes */
  update(changes) {
    Object.assign(this.state, changes);
    this.loaded = true;
    this.draw();
  }

  /** Returns the smoothed curves, the full range and the visible range of the x axis. */
  prepared() {
    const { curves, smoothing, range } = this.state;
    const xs = curves.flatMap((curve) => [curve.x[0], curve.x.at(-1)]).filter((x) => x !== undefined);
    const full = /** @type {[number, number]} */ ([Math.min(...xs), Math.max(...xs)]);
    const lines = curves.map((curve) => ({ ...curve, raw: curve.y, y: smoothing ? smooth(curve.y, smoothing) : curve.y }));
    return { lines, full, visible: range ?? full };
  }

  draw() {
    const { width, height, state } = this;
    const { lines, full, visible } = this.prepared();
    const { title, unit, description } = this.options;
    this.log.setAttribute("aria-pressed", String(state.log));
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.setAttribute("height", height);
    if (!this.loaded) return; // the curves are not loaded yet
    const ys = yValues(lines, visible, state.log);
    this.lines = lines;
    this.full = full;
    if (ys.length === 0) {
      const text = state.log && lines.length ? "No value above 0 for a logarithmic axis" : "No values in this range";
      fill(this.plot, svg("text", { x: width / 2, y: height / 2, class: "empty" }, text));
      this.plot.setAttribute("aria-label", `${title}: ${text}`);
      fill(this.values);
      return;
    }
    const [low, high] = state.domain && !state.log ? state.domain : [Math.min(...ys), Math.max(...ys)];
    const pad = low === high || state.log ? 0 : (high - low) * 0.06;
    const make = state.log ? logarithmic : linear;
    this.x = linear(visible, [MARGIN.left, width - MARGIN.right], Math.max(3, Math.floor(width / 62)));
    this.y = make([low - (low >= 0 && low - pad < 0 ? low : pad), high + pad], [height - MARGIN.bottom, MARGIN.top], 5);
    fill(this.plot, this.axes(unit), this.curves(lines), this.marks(), this.overlay);
    this.plot.setAttribute("aria-label", `${title}, ${description}. ${lines.map((line) =>
      `${line.label}: last value ${withUnit(lastOf(line.raw), unit)}`).join("; ")}`);
    this.showCursor(this.cursor);
  }

  /** @param {string} unit */
  axes(unit) {
    const { x, y, width, height } = this;
    if (!x || !y) return [];
    const bottom = height - MARGIN.bottom;
    const names = (this.state.log ? logLabels : tickLabels)(y.ticks, unit);
    return [
      y.ticks.map((tick, index) => [
        svg("line", { class: tick === 0 ? "zero" : "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y.at(tick), y2: y.at(tick) }),
        svg("text", { class: "tick", x: MARGIN.left - 6, y: y.at(tick) + 3.5, "text-anchor": "end" }, names[index])]),
      x.ticks.map((tick, index) => svg("text", { class: "tick", x: x.at(tick), y: bottom + 14, "text-anchor": "middle" },
        tickLabels(x.ticks, "")[index])),
      svg("text", { class: "axis", x: (MARGIN.left + width - MARGIN.right) / 2, y: bottom + 28, "text-anchor": "middle" },
        X_NAMES[/** @type {"s"} */ (this.state.xUnit)] ?? ""),
    ];
  }

  /** @param {any[]} lines */
  curves(lines) {
    const { smoothing } = this.state;
    const clip = `clip${(this.id ??= LineChart.count++)}`;
    return [
      svg("clipPath", { id: clip }, svg("rect", { x: MARGIN.left, y: MARGIN.top - 2, height: this.height - MARGIN.top - MARGIN.bottom + 4,
        width: Math.max(0, this.width - MARGIN.left - MARGIN.right) })),
      svg("g", { "clip-path": `url(#${clip})` }, lines.map((line) => [
        line.low && line.high && svg("path", { class: `band s${line.style % 8}`, d: this.band(line) }),
        smoothing > 0 && !this.state.domain && svg("path", { class: `line raw s${line.style % 8}`, d: this.path(line.x, line.raw) }),
        svg("path", { class: `line s${line.style % 8}${line.thin ? " thin" : ""}`, d: this.path(line.x, line.y) }),
      ])),
    ];
  }

  /** @param {number[]} xs @param {(number | null)[]} ys */
  path(xs, ys) {
    let text = "";
    let open = false;
    for (let index = 0; index < xs.length; index++) {
      const value = ys[index];
      if (value === null || value === undefined || (this.state.log && value <= 0)) {
        open = false;
        continue;
      }
      const place = `${this.x?.at(xs[index] ?? 0).toFixed(1)},${this.y?.at(value).toFixed(1)}`;
      const lonely = !open && (ys[index + 1] ?? null) === null; // draw a point without neighbours as a short line
      text += `${open ? "L" : "M"}${place}${lonely ? "m-2,0h4" : ""}`;
      open = true;
    }
    return text;
  }

  /** @param {any} line */
  band(line) {
    const points = (/** @type {(number|null)[]} */ values) => line.x.map((/** @type {number} */ x, /** @type {number} */ index) => {
      const value = values[index] ?? null;
      return value === null || (this.state.log && value <= 0) ? null : `${this.x?.at(x).toFixed(1)},${this.y?.at(value).toFixed(1)}`;
    }).filter(Boolean);
    const all = [...points(line.high), ...points(line.low).reverse()];
    return all.length ? `M${all.join("L")}Z` : "";
  }

  marks() {
    const [from, to] = this.x?.domain ?? [0, 0];
    return (this.state.marks ?? []).filter((mark) => mark.x >= from && mark.x <= to).map((mark) => {
      const x = this.x?.at(mark.x) ?? 0;
      return svg("g", { class: "alarm" }, svg("title", {}, mark.label),
        svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: this.height - MARGIN.bottom }),
        svg("path", { d: `M${x - 4},1h8l-4,7z` }));
    });
  }

  /** Shows the values at `x`. If `x` is null, shows the last values. @param {number | null} x */
  showCursor(x) {
    this.cursor = x;
    if (!this.lines || !this.x || !this.y) return;
    const dots = [];
    const items = [];
    for (const line of this.lines) {
      const index = x === null ? -1 : nearest(line.x, x);
      const value = x === null ? lastOf(line.y) : (line.y[index] ?? null);
      if (x !== null && value !== null && index >= 0 && (!this.state.log || value > 0)) {
        dots.push(svg("circle", { class: `dot s${line.style % 8}`, cx: this.x.at(line.x[index] ?? 0), cy: this.y.at(value), r: 3 }));
      }
      if (!line.thin) items.push(h("span", { title: line.label }, sample(line.style, line.thin), withoutUnit(value, this.options.unit)));
    }
    const inside = x !== null && x >= this.x.domain[0] && x <= this.x.domain[1];
    const at = inside ? this.x.at(x) : 0;
    fill(this.overlay, inside && svg("line", { class: "cursor", x1: at, x2: at, y1: MARGIN.top, y2: this.height - MARGIN.bottom }),
      inside && dots);
    fill(this.values, h("span", { class: "where" }, `${x === null ? "last" : num(x, 5)}${this.state.smoothing ? " smoothed" : ""}`), items);
  }

  listen() {
    /** @type {number | null} */
    let start = null;
    const place = (/** @type {PointerEvent} */ event) => event.clientX - this.plot.getBoundingClientRect().left;
    const value = (/** @type {number} */ position) => this.x?.inverse(Math.min(Math.max(position, MARGIN.left), this.width - MARGIN.right)) ?? 0;
    this.plot.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      if (event.button !== 0 || event.pointerType === "touch" || !this.x) return;
      start = place(event);
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      if (!this.x) return;
      const here = place(event);
      this.move(this.nearestX(value(here)));
      if (start !== null) this.overlay.append(svg("rect", { class: "selection", x: Math.min(start, here), y: MARGIN.top,
        width: Math.abs(here - start), height: this.height - MARGIN.top - MARGIN.bottom }));
    });
    this.plot.addEventListener("pointerup", (/** @type {PointerEvent} */ event) => {
      const [from, to] = [start, place(event)];
      start = null;
      if (from !== null && Math.abs(to - from) > 6) this.options.onRange?.([value(Math.min(from, to)), value(Math.max(from, to))]);
    });
    this.plot.addEventListener("pointerleave", () => start === null && this.move(null));
    this.plot.addEventListener("dblclick", () => this.options.onRange?.(null));
    this.plot.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.press(event));
    this.plot.addEventListener("blur", () => this.move(null));
  }

  /** Returns the x value of the first curve that is nearest to `x`. @param {number} x @returns {number} */
  nearestX(x) {
    const xs = this.lines?.[0]?.x ?? [];
    return xs[nearest(xs, x)] ?? x;
  }

  /** @param {number | null} x */
  move(x) {
    this.showCursor(x);
    this.options.onCursor?.(x);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (!KEYS.includes(event.key) || event.ctrlKey || event.metaKey || !this.x || !this.lines?.length || !this.full) return;
    event.preventDefault();
    const xs = this.lines[0]?.x ?? [];
    const [from, to] = this.x.domain;
    const here = Math.max(nearest(xs, this.cursor ?? to), 0);
    const sign = event.key === "ArrowLeft" ? -1 : 1;
    if (event.key.startsWith("Arrow") && event.shiftKey) this.pan((sign * (to - from)) / 4);
    else if (event.key.startsWith("Arrow")) this.say(xs[Math.min(Math.max(here + sign, 0), xs.length - 1)] ?? from);
    else if (event.key === "Home") this.say(xs[0] ?? from);
    else if (event.key === "End") this.say(xs.at(-1) ?? to);
    else if (event.key === "0" || event.key === "Escape") this.options.onRange?.(null);
    else this.zoom(event.key === "-" ? 2 : 0.5, this.cursor ?? (from + to) / 2);
  }

  /** @param {number} x */
  say(x) {
    this.move(x);
    announce(`${this.options.title} at ${num(x, 5)} ${this.state.xUnit}: ${(this.lines ?? []).map((line) =>
      `${line.label} ${withUnit(line.y[nearest(line.x, x)] ?? null, this.options.unit)}`).join(", ")}`);
  }

  /** @param {number} by */
  pan(by) {
    const [[from, to], [first, last]] = [this.x?.domain ?? [0, 1], this.full ?? [0, 1]];
    const shift = Math.min(Math.max(by, first - from), last - to);
    this.options.onRange?.([from + shift, to + shift]);
  }

  /** @param {number} factor @param {number} centre */
  zoom(factor, centre) {
    const [[from, to], [first, last]] = [this.x?.domain ?? [0, 1], this.full ?? [0, 1]];
    const range = [Math.max(first, centre - (centre - from) * factor), Math.min(last, centre + (to - centre) * factor)];
    const isFull = (range[0] ?? 0) <= first && (range[1] ?? 0) >= last;
    this.options.onRange?.(isFull ? null : /** @type {[number, number]} */ (range));
  }
}
LineChart.count = 0;

/** @param {any[]} lines @param {[number, number]} visible @param {boolean} log */
function yValues(lines, visible, log) {
  return lines.flatMap((line) => line.y.filter((/** @type {number | null} */ value, /** @type {number} */ index) =>
    value !== null && (!log || value > 0) && line.x[index] >= visible[0] && line.x[index] <= visible[1]));
}

/** @param {(number | null)[]} values */
function lastOf(values) {
  return values.findLast((value) => value !== null) ?? null;
}

/** Returns a short line with the style of a curve, for legends. @param {number} style @param {boolean} [thin] @returns {SVGElement} */
export function sample(style, thin = false) {
  return svg("svg", { class: "sample", viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" },
    svg("path", { class: `line s${style % 8}${thin ? " thin" : ""}`, d: "M1,4H21" }));
}
