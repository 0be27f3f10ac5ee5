/** Shows the form that starts a game, or the game in the address. */

import { get, send } from "../core/api.js";
import { fill, h } from "../core/dom.js";
import { empty, failure, field, select } from "../core/parts.js";
import { go, href } from "../core/route.js";
import { knownRuns } from "../core/selection.js";
import { GamePage } from "./game.js";

const SPLITS = ["train", "validation", "test"];

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const [, id] = route.path;
  if (id) {
    const page = new GamePage(root, await get(`api/play/${encodeURIComponent(id)}`, {}, signal));
    page.draw();
    page.focus();
    return;
  }
  const { enabled, environments } = await get("api/play/environments", {}, signal);
  fill(root, h("div", { class: "heading" }, h("h1", {}, "Play")), enabled ? form(environments, route.query)
    : empty("Playing is disabled.", "Start ", h("code", {}, "arlarena view … --play"), ". By default, playing is disabled on addresses that other machines can reach."));
  return { update: () => false };
}

/** @param {{name: string, run: string | null}[]} environments @param {URLSearchParams} query */
function form(environments, query) {
  const [run, name] = [query.get("run"), query.get("environment")];
  const preferred = environments.findIndex((each) => (name === null || each.name === name) && (run === null ? name === null || each.run === null : each.run === run));
  let chosen = environments[Math.max(0, preferred)];
  const names = environments.map((each, place) => /** @type {[string, string]} */ ([String(place), each.run ? `${each.name}, as in ${each.run}` : `${each.name}, default options`]));
  const environment = select(names, String(Math.max(0, preferred)), (place) => (chosen = environments[Number(place)]));
  const split = select(SPLITS.map((each) => [each, each]), query.get("split") ?? "test", () => null);
  const index = h("input", { type: "number", min: 0, step: 1, value: query.get("index") ?? 0, required: true });
  const seed = h("input", { type: "number", min: 0, step: 1, value: query.get("seed") ?? 0, required: true });
  const message = h("div", { role: "status" });
  const start = async (/** @type {Event} */ event) => {
    event.preventDefault();
    fill(message, h("p", { class: "note" }, "Starting an environment. The first start takes some seconds…"));
    try {
      const game = await send("POST", "api/play", { environment: chosen?.name, run: chosen?.run ?? null, split: split.value, index: Number(index.value), seed: Number(seed.value) });
      go(href(["play", game.id]));
    } catch (error) {
      fill(message, failure(error));
    }
  };
  return h("form", { class: "panel play-form", onsubmit: start }, h("p", {}, "Play a task yourself. You get the same observations, actions and rewards as the agent. A finished game is recorded in the format of episodes, and as conversations for cloning."),
    h("div", { class: "bar controls" }, field("Environment", environment), field("Split", split), field("Task number", index), field("Seed", seed), h("button", { class: "primary" }, "Start")), message,
    knownRuns().some((run) => run.id === "played") && h("p", {}, h("a", { href: href(["episodes", "played"]) }, "Recorded games")));
}
