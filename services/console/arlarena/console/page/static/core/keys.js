/** Keyboard shortcuts of the page and of the current view, and the dialog that lists these shortcuts. */

import { fill, h } from "./dom.js";

/**
 * @typedef {object} Shortcut
 * @property {string[]} keys values of KeyboardEvent.key
 * @property {string} label
 * @property {() => void} run
 */

/** @type {Map<string, Shortcut[]>} */
const scopes = new Map();
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space" };

/** Sets the shortcuts of a scope ("Page" or "View"). An empty list removes the scope.
 * @param {string} scope @param {Shortcut[]} shortcuts */
export function bind(scope, shortcuts) {
  if (shortcuts.length) scopes.set(scope, shortcuts);
  else scopes.delete(scope);
}

/** Whether shortcuts must ignore the event: the user is typing, or the focused element uses the key. @param {KeyboardEvent} event */
function isTaken(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return true;
  const target = /** @type {HTMLElement} */ (event.target);
  if (document.querySelector("dialog[open]")) return true;
  if (target.closest("textarea, select")) return true;
  const input = target.closest("input");
  if (input) return !["checkbox", "radio", "range"].includes(input.type) || event.key.startsWith("Arrow");
  if ((event.key === " " || event.key === "Enter") && target.closest("button, a, summary")) return true;
  return scrolls(target, event.key);
}

/** Whether the focused element is a block that the key scrolls. @param {HTMLElement} block @param {string} key */
function scrolls(block, key) {
  if (!block.matches?.(".scroll, pre, .token-text")) return false;
  if (["ArrowLeft", "ArrowRight"].includes(key)) return block.scrollWidth > block.clientWidth && !block.matches(".token-text");
  return ["ArrowUp", "ArrowDown", "Home", "End", " "].includes(key) && block.scrollHeight > block.clientHeight;
}

/** @param {KeyboardEvent} event */
function press(event) {
  if (isTaken(event)) return;
  for (const shortcut of [...scopes.values()].reverse().flat()) {
    if (shortcut.keys.includes(event.key)) {
      event.preventDefault();
      shortcut.run();
      return;
    }
  }
}

/** Shows the dialog with all shortcuts. */
export function showHelp() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("keys"));
  const tables = [...scopes].reverse().map(([scope, shortcuts]) => [
    h("h3", {}, scope),
    h("dl", { class: "keys" }, shortcuts.map((each) => [
      h("dt", {}, each.keys.map((key) => [h("kbd", {}, NAMES[/** @type {" "} */ (key)] ?? key), " "])),
      h("dd", {}, each.label),
    ])),
  ]);
  const charts = [["← →", "Move the cursor of a focused chart"], ["+ −", "Zoom in and out"], ["Shift ← →", "Move the range"],
    ["0", "Show the full range"]];
  fill(dialog,
    h("h2", { id: "keys-title" }, "Keyboard shortcuts"),
    tables,
    h("h3", {}, "Charts (after Tab to a chart)"),
    h("dl", { class: "keys" }, charts.map(([key, label]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, label)])),
    h("form", { method: "dialog" }, h("button", { autofocus: true }, "Close")));
  dialog.showModal();
}

/** Starts to handle key presses. */
export function listen() {
  addEventListener("keydown", press);
}
