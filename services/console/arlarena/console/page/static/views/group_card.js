/** Shows one group: a table with a row for each sibling, and a cell for each turn. */

import { level, sign } from "../charts/diverging.js";
import { abbr, badge, h, svg, visible } from "../core/dom.js";
import { fixed, num, percent, signed } from "../core/format.js";
import { table } from "../core/parts.js";
import { go, href } from "../core/route.js";

/** @type {[string, string][]} */
export const ADVANTAGES = [["advantages", "advantage in the loss"], ["episode_advantages", "A_E (episode)"], ["step_advantages", "A_S (step)"]];
const CELL = 18;
/** Maximum number of cells of a row. The number of the remaining turns is shown as text. */
const MAX_CELLS = 40;
/** @type {Record<string, "good" | "bad" | "warn" | "plain">} */
const TONES = { trained: "good", backfilled: "plain", filtered: "warn", stale: "warn", skipped: "bad", no_action: "warn", not_trained: "plain" };
const WORDS = { no_action: "no action", not_trained: "not trained" };

/** Returns the mark of a status, with its reason. @param {string | null} status @param {string | null} reason */
export function statusBadge(status, reason) {
  if (!status) return h("span", { class: "note" }, "not recorded");
  return badge(TONES[status] ?? "plain", WORDS[/** @type {"no_action"} */ (status)] ?? status, reason ?? "");
}

/** Returns the legend of the colours. @param {number} largest */
export function scaleLegend(largest) {
  const steps = ["m5", "m3", "m1", "z", "p1", "p3", "p5"];
  const [size, middle] = [CELL, CELL / 2];
  return h("span", { class: "scale" }, `−${num(largest, 2)}`,
    svg("svg", { width: steps.length * size, height: size, role: "img", "aria-label": "from negative to positive advantages" }, steps.map((name, index) => [
      svg("rect", { class: `cell ${name}`, x: index * size + 0.5, y: 0.5, width: size - 1, height: size - 1 }),
      svg("text", { class: "sign", x: index * size + middle, y: middle + 4 }, name === "z" ? "0" : name[0] === "m" ? "−" : "+")])),
    `+${num(largest, 2)}`);
}

/** Whether at least one group has advantages or ratios. @param {any[]} groups @returns {boolean} */
export function hasFigures(groups) {
  return groups.some((group) => group.members.some((/** @type {any} */ member) => member.advantages?.length || member.mean_ratio !== null));
}

/**
 * @typedef {object} Colours
 * @property {string} which the kind of advantage
 * @property {number} largest the value with the strongest colour
 * @property {boolean} figures whether a group of the step has advantages or ratios; all groups then have columns for them
 */

/** @param {any} group @param {string} run @param {Colours} colours @returns {HTMLElement} */
export function groupCard(group, run, colours) {
  const unused = group.status && !["trained", "backfilled"].includes(group.status);
  const { figures, which } = colours;
  const columns = [["Sibling"], ["Outcome"],
    ...(figures ? [[`Turns, ${ADVANTAGES.find(([name]) => name === which)?.[1]}`, "one cell for each turn, from left to right", "strip-cell"],
      ["Mean A", "mean advantage over the turns", "n"]] : []),
    ["Return", "sum of the rewards", "n"], ["Turns", "", "n"], ["Invalid", "turns with an invalid action or format", "n minor"], ["Tokens", "tokens of the replies", "n minor"],
    ...(figures ? [["Ratio", "mean importance ratio over the tokens", "n minor"], ["Outside", "share of tokens outside the range of the clip", "n minor"],
      ["Age", "training steps between sampling and training", "n minor"]] : []), ["Use"]];
  return h("section", { class: `panel group ${unused ? "unused" : ""}`, "aria-label": `Group ${group.id}` },
    h("header", {}, h("h3", {}, visible(group.task)), group.kind && h("span", { class: "tag" }, visible(group.kind)),
      h("span", {}, `${group.success} of ${group.size} solved`), statusBadge(group.status, group.reason),
      group.reason && h("span", { class: "reason" }, visible(group.reason)),
      group.update !== null && group.update !== undefined && h("span", { class: "note" }, `update ${group.update + 1} of the step`),
      h("a", { class: "right", href: href(["episodes", run], { group: group.id }) }, `Episodes of ${group.id}`)),
    table(`Siblings of ${group.id}`, h("tr", {}, columns.map(([label = "", title, kind]) => h("th", { scope: "col", class: kind }, title ? abbr(label, title) : label))),
      group.members.map((/** @type {any} */ member) => memberRow(member, group.reason, run, colours))));
}

/** @param {any} member @param {string} groupReason the reason in the heading of the group; it is not repeated in rows @param {string} run @param {Colours} colours */
function memberRow(member, groupReason, run, { which, largest, figures }) {
  const values = member[which]?.length ? member[which] : Array(member.turns).fill(null);
  const open = (/** @type {number} */ turn) => go(href(["episode", run, member.episode, turn]));
  return h("tr", { class: member.status && !["trained", null].includes(member.status) ? "unused" : null },
    h("th", { scope: "row" }, h("a", { href: href(["episode", run, member.episode, 0]) }, `#${member.member}`)),
    h("td", {}, member.success ? badge("good", "solved") : badge("bad", "failed")),
    figures && [h("td", { class: "strip-cell" }, strip(values, largest, open),
      values.length > MAX_CELLS && h("span", { class: "note" }, ` +${values.length - MAX_CELLS} turns`)),
    h("td", { class: "n" }, signed(member.advantage))],
    h("td", { class: "n" }, fixed(member.return)), h("td", { class: "n" }, member.turns), h("td", { class: "n minor" }, member.invalid),
    h("td", { class: "n minor" }, member.tokens ?? "–"),
    figures && [h("td", { class: "n minor" }, fixed(member.mean_ratio, 4)),
      h("td", { class: "n minor" }, percent(member.outside)), h("td", { class: "n minor" }, member.age ?? "–")],
    h("td", {}, statusBadge(member.status, member.reason), member.kept === false && badge("warn", "masked", "the sequence mask removed a turn from the loss"),
      member.reason && member.reason !== groupReason && h("span", { class: "reason" }, ` ${visible(member.reason)}`)));
}

/**
 * Returns a row of cells. A click on a cell opens its turn. Keyboard users follow the link of the
 * row, and then choose the turn.
 * @param {(number | null)[]} values @param {number} largest @param {(turn: number) => void} open
 */
function strip(values, largest, open) {
  if (values.length === 0) return h("span", { class: "note" }, "–");
  const cells = values.slice(0, MAX_CELLS).map((value, turn) => svg("g", { onclick: () => open(turn) },
    svg("title", {}, `turn ${turn}: ${signed(value, 3)}`),
    svg("rect", { class: `cell ${level(value, largest)}`, x: turn * CELL + 0.5, y: 0.5, width: CELL - 1, height: CELL - 1 }),
    svg("text", { class: "sign", x: turn * CELL + CELL / 2, y: CELL / 2 + 4 }, sign(value))));
  const size = { width: cells.length * CELL, height: CELL, viewBox: `0 0 ${cells.length * CELL} ${CELL}` };
  return svg("svg", { class: "strip", ...size, role: "img",
    "aria-label": values.every((value) => value === null) ? "no advantages" : values.slice(0, MAX_CELLS).map((value) => signed(value, 2)).join(", ") }, cells);
}
