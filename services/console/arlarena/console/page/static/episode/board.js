/** Finds and draws the board in an observation of Sokoban. */

import { svg } from "../core/dom.js";

const CELL = 34;
const GLYPHS = /^[#_OX√PS]+$/u;
const NAMES = { "#": "wall", _: "floor", O: "target", X: "box", "√": "box on target", P: "player", S: "player on target" };
/** Maximum number of rows, and of columns, of a board that is drawn. */
const MAX_SIZE = 40;

/**
 * Returns the rows of the board in an observation, or null if there is no board.
 * @param {string} text @returns {string[] | null}
 */
export function roomOf(text) {
  /** @type {string[]} */
  let rows = [];
  for (const line of text.slice(0, 20_000).split("\n")) {
    const row = line.trim();
    const fits = GLYPHS.test(row) && row.length >= 3 && row.length <= MAX_SIZE;
    if (fits && (rows.length === 0 || [...(rows[0] ?? "")].length === [...row].length)) rows.push(row);
    else if (rows.length >= 3) break;
    else rows = fits ? [row] : [];
  }
  return rows.length >= 3 && rows.length <= MAX_SIZE && rows.some((row) => /[PS]/.test(row)) ? rows : null;
}

/** @param {string} glyph @param {number} x @param {number} y */
function cell(glyph, x, y) {
  const parts = [svg("rect", { class: glyph === "#" ? "wall" : "floor", x, y, width: CELL, height: CELL })];
  const [cx, cy] = [x + CELL / 2, y + CELL / 2];
  if ("O√S".includes(glyph)) {
    parts.push(svg("circle", { class: "goal", cx, cy, r: 11 }), svg("circle", { class: "goal inner", cx, cy, r: 4 }));
  }
  if ("X√".includes(glyph)) {
    parts.push(svg("rect", { class: glyph === "√" ? "box done" : "box", x: x + 4, y: y + 4, width: CELL - 8, height: CELL - 8, rx: 3 }));
    parts.push(glyph === "√" ? svg("path", { class: "tick-mark", d: `M${x + 10},${cy}l5,5l9,-10` })
      : svg("path", { class: "planks", d: `M${x + 8},${y + 8}l${CELL - 16},${CELL - 16}M${x + CELL - 8},${y + 8}l${16 - CELL},${CELL - 16}` }));
  }
  if ("PS".includes(glyph)) {
    parts.push(svg("circle", { class: "player", cx, cy, r: 11 }), svg("circle", { class: "eye", cx: cx - 4, cy: cy - 2, r: 1.8 }),
      svg("circle", { class: "eye", cx: cx + 4, cy: cy - 2, r: 1.8 }), svg("path", { class: "smile", d: `M${cx - 4},${cy + 4}q4,3 8,0` }));
  }
  return parts;
}

/** Returns the picture of a board. @param {string[]} rows @returns {SVGElement} */
export function board(rows) {
  const cells = rows.map((row) => [...row]);
  const [width, height] = [(cells[0]?.length ?? 1) * CELL, cells.length * CELL];
  return svg("svg", { class: "board", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(cells) },
    cells.map((row, y) => row.map((glyph, x) => cell(glyph, x * CELL, y * CELL))));
}

/** @param {string[][]} cells */
function describe(cells) {
  const found = cells.flatMap((row, y) => row.flatMap((glyph, x) => "#_".includes(glyph) ? []
    : `${NAMES[/** @type {"X"} */ (glyph)]} in row ${y}, column ${x}`));
  return `Board of ${cells.length} rows: ${found.join("; ")}`;
}
