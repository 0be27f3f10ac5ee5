/** Server-sent events of all runs. One connection serves all views. */

import { percent } from "./format.js";

const KINDS = ["step", "state", "index", "alarm"];

/** @typedef {(kind: string, data: any) => void} Listener */

/** @type {Set<Listener>} */
const listeners = new Set();
/** @type {Map<string, any>} */
const states = new Map();
/** @type {Map<string, {ready: boolean, progress: number}>} */
const indices = new Map();

/**
 * Calls `listener` for each event until `signal` is aborted.
 * @param {Listener} listener @param {AbortSignal} signal
 */
export function onEvent(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** Returns the last known state of a run, or undefined. @param {string} run */
export function lastState(run) {
  return states.get(run);
}

/**
 * Connects to the server. After an interruption, the EventSource connects again by itself.
 * @param {HTMLElement} status shows how many runs are live, or that the server does not answer
 */
export function connect(status) {
  const source = new EventSource("api/events");
  const show = () => {
    const running = [...states.values()].filter((each) => each.state === "running").length;
    const open = [...indices.values()].filter((each) => !each.ready);
    const share = open.reduce((sum, each) => sum + each.progress, 0) / open.length;
    status.className = running ? "live on" : "live";
    status.title = open.length ? "The index is not complete yet, so lists of episodes are not complete either" : "";
    status.textContent = [running && `${running} live`, open.length && `Indexing ${percent(share, 0)}`].filter(Boolean).join(" · ");
  };
  source.addEventListener("error", () => {
    status.className = "live lost";
    status.textContent = "No connection";
  });
  source.addEventListener("hello", show);
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      const data = JSON.parse(event.data);
      if (kind === "index") indices.set(data.run, data);
      if (kind === "step" || kind === "state") states.set(data.run, { ...states.get(data.run), ...data });
      show();
      for (const listener of listeners) listener(kind, data);
    });
  }
  addEventListener("pagehide", () => source.close());
}
