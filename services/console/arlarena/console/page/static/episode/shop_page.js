/** Shows the text of a WebShop page as a page with buttons. */

import { h, visible } from "../core/dom.js";

const BUTTON = /\[(clicked )?button\] (.{1,300}?) \[(?:clicked )?button_\]/g;
const MAX_CHARS = 40_000;
/** Separates the parts of a page in the observation format without marked buttons. */
const SEPARATOR = " [SEP] ";
const PRODUCT = /^B[0-9A-Z]{9}$/i;
const BUTTONS = new Set(["search", "back to search", "next >", "< prev", "description", "features", "reviews", "attributes", "buy now"]);

/** Whether an observation is a page of WebShop. @param {string} text */
export function isShopPage(text) {
  const start = text.slice(0, MAX_CHARS);
  return (start.includes("[button_]") || start.includes(SEPARATOR)) && /^\s*(WebShop|Instruction:|Thank you)/.test(text);
}

/** The text inside the brackets of an action such as `click[buy now]`. @param {string} action */
export function argument(action) {
  return /^\w+\[(.*)\]$/s.exec(action.trim())?.[1]?.trim().toLowerCase() ?? "";
}

/**
 * Returns the elements of a page.
 * @param {string} text
 * @param {{chosen?: string, actions?: string[] | null, button?: (label: string) => HTMLElement | null}} [options] `chosen`: argument
 *   of the action that was taken; `actions`: admissible actions; `button`: for a person who plays, returns the button with a label, or
 *   null if it cannot be used
 * @returns {HTMLElement}
 */
export function shopPage(text, options = {}) {
  const lines = linesOf(text.slice(0, MAX_CHARS), options.actions ?? []);
  const start = lines.findIndex((line) => line.trim().startsWith("Instruction:"));
  const wanted = start < 0 ? "" : lines[start]?.replace("Instruction:", "").trim() || lines[start + 1]?.trim() || "";
  const rest = lines.filter((line, index) => index !== start && !(index === start + 1 && line.trim() === wanted) && line.trim() !== "WebShop");
  return h("div", { class: "shop" }, h("p", { class: "wanted" }, h("span", { class: "note" }, "Wanted: "), visible(wanted)), blocks(rest, options));
}

/**
 * Returns the lines of a page with marked buttons.
 * @param {string} text @param {string[]} actions @returns {string[]}
 */
function linesOf(text, actions) {
  if (text.includes("[button_]") || !text.includes(SEPARATOR)) return text.split("\n");
  const clicks = new Set(actions.map(argument));
  return text.split(SEPARATOR).flatMap((part) => {
    const name = part.trim().toLowerCase();
    const button = `[button] ${part.trim()} [button_]`;
    if (PRODUCT.test(name)) return ["", button];
    if (BUTTONS.has(name)) return [button];
    return [clicks.has(name) ? `  ${button}` : part];
  });
}

/** @param {string[]} lines @param {{chosen?: string, button?: (label: string) => HTMLElement | null}} options */
function blocks(lines, options) {
  /** @type {HTMLElement[]} */
  const result = [];
  /** @type {HTMLElement | null} */
  let block = null;
  for (const line of lines) {
    if (line.trim() === "") {
      block = null;
      continue;
    }
    if (!block) result.push((block = h("div", { class: "block" })));
    const row = h("div", { class: line.startsWith("  ") ? "row option" : /^\$|^Price/.test(line.trim()) ? "row price" : "row" }, pieces(line, options));
    if (line.startsWith("  ") && block.lastElementChild?.classList.contains("options")) block.lastElementChild.append(...row.childNodes);
    else if (line.startsWith("  ")) block.append(h("div", { class: "row options" }, [...row.childNodes]));
    else if (hasOnlyButtons(row) && block.lastElementChild && hasOnlyButtons(block.lastElementChild)) block.lastElementChild.append(...row.childNodes);
    else block.append(row);
  }
  return result;
}

/** @param {Element} row */
function hasOnlyButtons(row) {
  return row.childElementCount > 0 && ![...row.childNodes].some((child) => child instanceof Text && child.data.trim()) && !row.querySelector("form");
}

/** @param {string} line @param {{chosen?: string, button?: (label: string) => HTMLElement | null}} options */
function pieces(line, options) {
  const parts = [];
  let end = 0;
  for (const found of line.matchAll(BUTTON)) {
    parts.push(visible(line.slice(end, found.index).trimStart()));
    const label = found[2] ?? "";
    const taken = options.chosen !== undefined && options.chosen !== "" && options.chosen === label.toLowerCase();
    const element = options.button?.(label) ?? h("span", { class: `link${taken ? " taken" : ""}` }, visible(label), taken && h("span", { class: "hidden" }, " (clicked)"));
    if (found[1]) element.classList.add("selected");
    parts.push(element);
    end = /** @type {number} */ (found.index) + found[0].length;
  }
  return [...parts, visible(line.slice(end))];
}
