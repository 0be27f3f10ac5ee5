/** The state of a run as a mark. */

import { badge } from "../core/dom.js";

/** @type {Record<string, ["good" | "bad" | "warn" | "plain", string]>} */
const STATES = {
  running: ["good", "the run is training"],
  finished: ["plain", "the run has ended as planned"],
  stopped: ["warn", "a signal ended the run"],
  failed: ["bad", "an error ended the run"],
  inactive: ["warn", "unfinished, and no file changed for two minutes"],
};

/** @param {string} state @returns {HTMLElement} */
export function stateBadge(state) {
  const [tone, title] = STATES[state] ?? ["plain", ""];
  return badge(tone, state, title);
}
