/** A small curve without axes, for tables. */

import { svg } from "../core/dom.js";

/**
 * @param {(number | null)[]} values @param {string} label text for screen readers @param {[number, number]} [domain]
 * @returns {SVGElement}
 */
export function sparkline(values, label, domain = [0, 1]) {
  const [width, height] = [96, 22];
  const points = values.map((value, index) => value === null ? null
    : `${((index / Math.max(values.length - 1, 1)) * (width - 4) + 2).toFixed(1)},${(height - 2 - ((value - domain[0])
      / (domain[1] - domain[0])) * (height - 4)).toFixed(1)}`).filter(Boolean);
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    points.length > 1 && svg("path", { class: "line s0", d: `M${points.join("L")}` }));
}
