/** Elements of the page. Text from runs is shown only through `visible` and as text nodes, never as HTML. */

const SVG = "http://www.w3.org/2000/svg";
/** Numbers of characters of a long text: shown at first, and added by each press of "Show more". */
const FIRST_CHARS = 8_000;
const MORE_CHARS = 100_000;
/** Attributes with texts for people. */
const TEXTS = ["title", "aria-label", "alt", "placeholder"];

/**
 * @typedef {Node | string | number | null | undefined | false | Child[]} Child
 * @typedef {Record<string, unknown>} Properties `on…`: a listener; `data`: data attributes; the value `true`: an
 *   empty attribute; the values null and false: no attribute
 */

/** @param {Element} element @param {Properties} properties */
function apply(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name === "data") Object.assign(/** @type {HTMLElement} */ (element).dataset, value);
    else if (name === "value" && !(element instanceof SVGElement)) /** @type {any} */ (element).value = value;
    else element.setAttribute(name, value === true ? "" : TEXTS.includes(name) ? visible(String(value)) : String(value));
  }
}

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : visible(String(child)));
  }
}

/**
 * Returns a new HTML element. Strings become text nodes.
 * @param {string} tag @param {Properties} [properties] @param {...Child} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  append(element, children);
  apply(element, properties);
  return element;
}

/**
 * Returns a new SVG element.
 * @param {string} tag @param {Properties} [properties] @param {...Child} children
 * @returns {any}
 */
export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  append(element, children);
  apply(element, properties);
  return element;
}

/**
 * Replaces the children of an element, and returns the element.
 * @template {Element} T
 * @param {T} element @param {...Child} children @returns {T}
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/**
 * Makes control characters visible, and characters that reorder text. Otherwise a text could look like another text.
 * @param {string} text @returns {string}
 */
export function visible(text) {
  return text.replace(HIDDEN, (found) => {
    const code = found.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

/**
 * Returns a block with a text from a run. If the text is long, the block shows the first part and a button for more.
 * @param {string | null | undefined} text
 * @param {{class?: string, truncated?: boolean, label?: string}} [options] `truncated`: the server has cut the text
 * @returns {HTMLElement}
 */
export function textBlock(text, options = {}) {
  const full = text ?? "";
  const block = h("pre", { class: `text ${options.class ?? ""}`, tabindex: 0, role: "group",
    "aria-label": options.label ?? "Text" });
  let shown = 0;
  const more = h("button", { type: "button", class: "more", onclick: () => show(MORE_CHARS) });
  const note = h("span", { class: "note" }, "The server cut this text at 1,000,000 characters.");
  const show = (/** @type {number} */ count) => {
    block.insertBefore(document.createTextNode(visible(full.slice(shown, shown + count))), more.parentNode && more);
    shown += count;
    if (shown < full.length) {
      more.textContent = `Show more (${shown.toLocaleString("en")} of ${full.length.toLocaleString("en")} characters)`;
      if (!more.parentNode) block.append(more);
    } else {
      more.remove();
      if (options.truncated) block.append(note);
    }
  };
  if (full === "") block.append(h("span", { class: "note" }, "(empty)"));
  else show(FIRST_CHARS);
  return block;
}

/** Makes screen readers read a text. @param {string} text */
export function announce(text) {
  /** @type {HTMLElement} */ (document.getElementById("announce")).textContent = text;
}

/** Returns a mark with an icon and a text, because colour must not be the only signal.
 * @param {"good" | "bad" | "warn" | "plain"} tone @param {string} label @param {string} [title] @returns {HTMLElement} */
export function badge(tone, label, title) {
  const icon = { good: "✓", bad: "✗", warn: "!", plain: "·" }[tone];
  return h("span", { class: `badge ${tone}`, title }, h("span", { "aria-hidden": "true" }, icon), label);
}

/** Returns an abbreviation with its explanation. @param {string} short @param {string} long @returns {HTMLElement} */
export function abbr(short, long) {
  return h("abbr", { title: long }, short);
}

/** Returns the nodes of a name. In symbols such as "A_E", the part after "_" is a subscript. @param {string} name @returns {Node[]} */
export function symbol(name) {
  return name.split(/([A-Zπ]_\w+)/).filter(Boolean).map((part) => {
    const [letter, index] = part.split("_");
    return index === undefined ? document.createTextNode(part) : h("span", {}, letter, h("sub", {}, index));
  });
}
