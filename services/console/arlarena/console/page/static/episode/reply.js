/** Shows a reply, and marks its tags and format errors. */

import { badge, h, textBlock, visible } from "../core/dom.js";
import { plural } from "../core/format.js";

/** Maximum length of a reply with marks, in characters. Longer replies are shown without marks. */
const MAX_MARKED = 40_000;
const ENDINGS = { stop: "ended with the stop token", length: "cut at the limit of tokens" };

/**
 * @typedef {{start: number, end: number, kind: string}} Mark offsets in code points
 */

/** @param {any} reply the object `reply` of a turn @returns {HTMLElement} */
export function replyView(reply) {
  const text = reply.text ?? "";
  const long = text.length > MAX_MARKED || text === "";
  const block = long ? textBlock(text, { label: "Reply", truncated: reply.truncated })
    : h("pre", { class: "text", tabindex: 0, role: "group", "aria-label": "Reply" }, pieces(text, reply.marks ?? [], reply.format_valid));
  return h("div", {}, h("p", { class: "bar tight" }, reply.format_valid ? badge("good", "format valid") : badge("bad", "format error"),
    reply.finish_reason && badge(reply.finish_reason === "length" ? "warn" : "plain", ENDINGS[/** @type {"stop"} */ (reply.finish_reason)] ?? visible(`ended by ${reply.finish_reason}`)),
    reply.tokens !== null && h("span", { class: "note" }, plural(reply.tokens, "token"))),
    (reply.problems ?? []).length > 0 && h("ul", { class: "problems" }, reply.problems.map((/** @type {string} */ each) => h("li", {}, badge("bad", visible(each))))),
    block);
}

/** @param {string} text @param {Mark[]} marks @param {boolean} valid */
function pieces(text, marks, valid) {
  const points = /[\ud800-\udfff]/.test(text) ? Array.from(text) : null;
  const part = (/** @type {number} */ from, /** @type {number} */ to) => points ? points.slice(from, to).join("") : text.slice(from, to);
  const length = points?.length ?? text.length;
  const problems = valid ? [] : problemRanges(marks, part, length);
  const edges = [...new Set([0, length, ...[...marks, ...problems].flatMap((mark) => [mark.start, mark.end])])].sort((a, b) => a - b);
  return edges.slice(0, -1).map((from, index) => {
    const to = edges[index + 1] ?? length;
    const inside = (/** @type {Mark} */ mark) => mark.start <= from && mark.end >= to;
    const kinds = marks.filter(inside).map((mark) => (["tag", "think", "action"].includes(mark.kind) ? `mark-${mark.kind}` : "mark-other"));
    const wrong = problems.some(inside);
    return h(wrong ? "mark" : "span", { class: [...kinds, wrong && "mark-problem"].filter(Boolean).join(" ") || null, title: wrong ? "format error" : null }, visible(part(from, to)));
  });
}

/**
 * Returns the ranges of unmatched tags, and of text after the last tag. If there are no tags, returns the range
 * of the complete reply.
 * @param {Mark[]} marks @param {(from: number, to: number) => string} part @param {number} length @returns {Mark[]}
 */
function problemRanges(marks, part, length) {
  const tags = marks.filter((mark) => mark.kind === "tag");
  if (tags.length === 0) return [{ start: 0, end: length, kind: "problem" }];
  /** @type {Map<string, Mark>} */
  const open = new Map();
  const found = [];
  for (const tag of tags) {
    const text = part(tag.start, tag.end).toLowerCase();
    const name = text.replace(/[</>]/g, "");
    if (!text.startsWith("</")) open.set(name, tag);
    else if (!open.delete(name)) found.push(tag);
  }
  found.push(...open.values());
  const last = Math.max(...tags.map((tag) => tag.end));
  if (part(last, length).trim()) found.push({ start: last, end: length, kind: "problem" });
  return found;
}
