/** The runs of this server, and the runs that the user viewed last. */

import { get } from "./api.js";

/** @type {any[]} */
let runs = [];
let last = "";
/** @type {string[]} */
let picked = [];

/** Loads the list of runs. @param {AbortSignal} [signal] @returns {Promise<any[]>} */
export async function loadRuns(signal) {
  runs = (await get("api/runs", {}, signal)).runs;
  return runs;
}

/** Returns the list of runs that was loaded last. @returns {any[]} */
export function knownRuns() {
  return runs;
}

/** Remembers the run that is shown. @param {string} run */
export function rememberRun(run) {
  last = run;
}

/** Remembers the runs that are compared. @param {string[]} ids */
export function rememberRuns(ids) {
  picked = ids;
  if (ids.length && !ids.includes(last)) last = ids[0] ?? "";
}

/** Returns the run that was shown last. If it does not exist, returns the run that changed last. @returns {string} */
export function chosenRun() {
  if (runs.some((run) => run.id === last)) return last;
  return [...runs].sort((a, b) => b.updated - a.updated)[0]?.id ?? "";
}

/** Returns the runs that are compared. If none is chosen, returns the run of `chosenRun`. @returns {string[]} */
export function chosenRuns() {
  const found = picked.filter((id) => runs.some((run) => run.id === id));
  return found.length ? found : [chosenRun()].filter(Boolean);
}
