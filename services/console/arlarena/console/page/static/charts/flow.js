/** Draws a flow diagram of transitions: actions on the left, the next actions on the right. */

import { svg } from "../core/dom.js";
import { percent } from "../core/format.js";

/** @typedef {{from: string, to: string, share: number, count: number}} Transition shares of one outcome sum to 1 */

const WIDTH = 420;
const LABEL = 112;
const NODE = 9;
const GAP = 7;
/** Height of the headings. */
const TOP = 24;

/**
 * Returns the flow. Actions have the same order and colour in each flow.
 * @param {Transition[]} transitions @param {string[]} actions the order of the actions @param {string} label
 * @returns {SVGElement}
 */
export function flow(transitions, actions, label) {
  const total = (/** @type {"from" | "to"} */ end) => actions.map((action) => transitions.filter((each) => each[end] === action).reduce((sum, each) => sum + each.share, 0));
  const [left, right] = [total("from"), total("to")];
  const rows = Math.max(left.filter(Boolean).length, right.filter(Boolean).length, 1);
  const scale = 190;
  const height = TOP + scale + GAP * rows + 8;
  const [starts, ends] = [stack(left, scale), stack(right, scale)];
  const [x0, x1] = [LABEL + NODE, WIDTH - LABEL - NODE];
  const [outs, ins] = [[...starts], [...ends]];
  const ribbons = [];
  for (const [i, from] of actions.entries()) {
    for (const [j, to] of actions.entries()) {
      const found = transitions.find((each) => each.from === from && each.to === to);
      if (!found) continue;
      const thick = found.share * scale;
      const [a, b] = [outs[i] ?? 0, ins[j] ?? 0];
      outs[i] = a + thick;
      ins[j] = b + thick;
      const middle = (x0 + x1) / 2;
      ribbons.push(svg("path", { class: `ribbon f${i % 8}`,
        d: `M${x0},${a}C${middle},${a} ${middle},${b} ${x1},${b}v${thick}C${middle},${b + thick} ${middle},${a + thick} ${x0},${a + thick}Z` },
      svg("title", {}, `${from} → ${to}: ${percent(found.share)} of the transitions (${found.count.toLocaleString("en")})`)));
    }
  }
  return svg("svg", { class: "flow", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `${label}. ${summary(transitions)}` },
    svg("text", { class: "share", x: LABEL + NODE, y: 14, "text-anchor": "end" }, "action"), svg("text", { class: "share", x: WIDTH - LABEL - NODE, y: 14 }, "next action"),
    ribbons, nodes(actions, left, starts, scale, LABEL, "end"), nodes(actions, right, ends, scale, WIDTH - LABEL - NODE, "start"));
}

/** Returns the upper edge of each node. @param {number[]} shares @param {number} scale */
function stack(shares, scale) {
  let y = TOP;
  return shares.map((share) => {
    const start = y;
    if (share > 0) y += share * scale + GAP;
    return start;
  });
}

/** @param {string[]} actions @param {number[]} shares @param {number[]} starts @param {number} scale @param {number} x @param {"start" | "end"} anchor */
function nodes(actions, shares, starts, scale, x, anchor) {
  return actions.map((action, index) => {
    const share = shares[index] ?? 0;
    const y = starts[index] ?? 0;
    if (share === 0) return null;
    const text = action.length > 15 ? `${action.slice(0, 14)}…` : action;
    return [svg("rect", { class: `node f${index % 8}`, x, y, width: NODE, height: Math.max(1.5, share * scale) }, svg("title", {}, `${action} ${percent(share)}`)),
      share * scale > 5 && svg("text", { x: anchor === "end" ? x - 5 : x + NODE + 5, y: y + (share * scale) / 2 + 4, "text-anchor": anchor },
        svg("title", {}, action), `${text} `, svg("tspan", { class: "share" }, percent(share, 0)))];
  });
}

/** @param {Transition[]} transitions */
function summary(transitions) {
  return [...transitions].sort((a, b) => b.share - a.share).slice(0, 5).map((each) => `${each.from} to ${each.to} ${percent(each.share)}`).join(", ");
}
