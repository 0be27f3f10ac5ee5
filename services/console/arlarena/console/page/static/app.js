/** Starts the page: the header, the shortcuts of all views, and the view in the address. */

import { fill, h, visible } from "./core/dom.js";
import { bind, listen, showHelp } from "./core/keys.js";
import { connect } from "./core/live.js";
import { failure, loading } from "./core/parts.js";
import { current, go, href } from "./core/route.js";
import { chosenRun, chosenRuns, loadRuns } from "./core/selection.js";
import { startTheme } from "./core/theme.js";

/**
 * @typedef {import("./core/route.js").Route} Route
 * @typedef {object} View
 * @property {(route: Route) => boolean} [update] shows another route in the same view; returns false if the view cannot show it
 * @typedef {(root: HTMLElement, route: Route, signal: AbortSignal) => Promise<View | void> | View | void} Mount
 */

/** The module of a view is loaded when the view is first shown.
 * @type {Record<string, () => Promise<{mount: Mount}>>} */
const VIEWS = {
  runs: () => import("./views/runs.js"),
  run: () => import("./views/run.js"),
  curves: () => import("./views/curves.js"),
  groups: () => import("./views/groups.js"),
  episodes: () => import("./views/episodes.js"),
  episode: () => import("./episode/episode.js"),
  behaviour: () => import("./views/behaviour.js"),
  play: () => import("./play/play.js"),
};
const NAV = [["runs", "Runs", "r"], ["curves", "Curves", "c"], ["groups", "Groups", "g"], ["episodes", "Episodes", "e"],
  ["behaviour", "Behaviour", "b"], ["play", "Play", "y"]];

/** Views with a run in their address. */
const OF_A_RUN = ["run", "groups", "episodes", "episode", "behaviour"];

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
let aborter = new AbortController();
/** @type {View | void} */
let view;
let shown = "";

/** Returns the address of a view. The view shows the run that was viewed last. @param {string} name */
function target(name) {
  if (name === "runs") return href(["runs"]);
  if (name === "play") return href(["play"], { run: chosenRun() });
  if (name === "curves") return href(["curves"], { runs: chosenRuns().join(",") });
  return chosenRun() ? href([name, chosenRun()]) : href(["runs"]);
}

/** @param {string} name */
function showNav(name) {
  const active = { run: "runs", episode: "episodes" }[name] ?? name;
  fill(/** @type {HTMLElement} */ (document.getElementById("nav")), NAV.map(([view = "", label, key]) =>
    h("a", { href: target(view), "aria-current": view === active ? "page" : null, title: `${label} (${key})` }, label)));
}

async function show() {
  const route = current();
  const name = route.path[0] ?? "runs";
  const [first, before] = [shown === "", shown];
  showNav(name);
  if (shown === name && view?.update?.(route)) return;
  aborter.abort();
  const own = (aborter = new AbortController());
  bind("View", []);
  view = undefined;
  const load = VIEWS[name];
  const root = h("div", { class: `view ${name}` });
  fill(main, root);
  if (!load) {
    fill(root, h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/runs" }, "All runs")));
    return;
  }
  fill(root, loading());
  try {
    await loadRuns();
    const { mount } = await load();
    if (own.signal.aborted) return;
    root.replaceChildren();
    shown = name;
    view = await mount(root, route, own.signal);
  } catch (error) {
    if (own.signal.aborted) return;
    fill(root, h("h1", {}, "The page cannot be shown"), failure(error, show));
  }
  showNav(name);
  const heading = root.querySelector("h1");
  const run = OF_A_RUN.includes(name) ? visible(route.path[1] ?? "") : "";
  document.title = [heading?.textContent, run, "ARLArena"].filter(Boolean).join(" · ");
  heading?.setAttribute("tabindex", "-1");
  if (!first && !root.contains(document.activeElement)) heading?.focus({ preventScroll: true });
  if (!first && name !== before) scrollTo(0, 0); // in the same view, keep the scroll position: the user may compare siblings
  main.dataset.ready = name;
}

const nextTheme = startTheme(/** @type {HTMLButtonElement} */ (document.getElementById("theme")));
document.getElementById("help")?.addEventListener("click", showHelp);
document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // the link must not change the state of the page, which is after "#" in the address
  main.focus();
});
bind("Page", [
  ...NAV.map(([name = "", label, key = ""]) => ({ keys: [key], label: `Go to ${label}`, run: () => go(target(name)) })),
  { keys: ["t"], label: "Change the theme", run: nextTheme },
  { keys: ["?"], label: "Show this list", run: showHelp },
]);
listen();
connect(/** @type {HTMLElement} */ (document.getElementById("live")));
addEventListener("hashchange", () => void show());
void show();
