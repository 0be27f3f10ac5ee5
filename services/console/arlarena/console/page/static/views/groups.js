/** The recorded groups of a step: siblings side by side, with the advantages of their turns. */

import { largestOf } from "../charts/diverging.js";
import { get, runPath } from "../core/api.js";
import { fill, h } from "../core/dom.js";
import { count, percent, plural } from "../core/format.js";
import { onEvent } from "../core/live.js";
import { bind } from "../core/keys.js";
import { empty, facts, failure, field, loading, runHeading, select, throttled } from "../core/parts.js";
import { go, href, setQuery } from "../core/route.js";
import { rememberRun } from "../core/selection.js";
import { ADVANTAGES, groupCard, hasFigures, scaleLegend } from "./group_card.js";

const FIRST_GROUPS = 8;
/** Number of steps that one request loads. */
const STEPS = 200;
/** @type {[string, string][]} */
const STATUSES = [["", "all"], ["trained", "trained"], ["backfilled", "backfilled"], ["filtered", "filtered"], ["stale", "stale"],
  ["skipped", "skipped"]];

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const page = new Groups(root, route, signal);
  await page.loadSteps();
  onEvent((kind, data) => data.run === page.run && (kind === "step" || kind === "index") && page.refresh(), signal);
  return { update: (next) => page.update(next) };
}

class Groups {
  /** @param {HTMLElement} root @param {import("../app.js").Route} route @param {AbortSignal} signal */
  constructor(root, route, signal) {
    this.signal = signal;
    this.run = route.path[1] ?? "";
    this.status = route.query.get("status") ?? "";
    this.shown = FIRST_GROUPS;
    this.which = route.query.get("advantage") ?? "advantages";
    this.step = Number(route.path[2]) || null;
    rememberRun(this.run);
    this.bar = h("div", { class: "bar controls" });
    this.steps = h("nav", { class: "steps", "aria-label": "Recorded steps" });
    this.body = h("div", { class: "groups-body" });
    fill(root, runHeading("Groups", this.run, (run) => href(["groups", run])), h("div", { class: "split" }, this.steps,
      h("div", {}, this.bar, this.body)));
    bind("View", [
      { keys: ["ArrowLeft", "j"], label: "Previous recorded step", run: () => this.move(1) },
      { keys: ["ArrowRight", "k"], label: "Next recorded step", run: () => this.move(-1) },
    ]);
    this.refresh = throttled(() => void this.loadSteps(false), 1500);
  }

  /** @param {import("../app.js").Route} route */
  update(route) {
    if (route.path[1] !== this.run) return false;
    this.step = Number(route.path[2]) || null;
    this.status = route.query.get("status") ?? "";
    this.which = route.query.get("advantage") ?? "advantages";
    this.shown = FIRST_GROUPS;
    void this.loadSteps();
    return true;
  }

  /** @param {boolean} [all] whether to load the groups too */
  async loadSteps(all = true) {
    const found = await get(runPath(this.run, "steps"), { limit: STEPS }, this.signal);
    this.list = found.steps;
    if (found.total === 0) {
      fill(this.body, empty("No group is recorded.", "The groups of a step appear when the step ends. The settings ",
        h("code", {}, "[trainer] record_groups_every"), " and ", h("code", {}, "record_sample_groups"), " choose the recorded groups."));
      return;
    }
    this.step ??= this.list[0].step;
    fill(this.steps, h("h2", {}, plural(found.total, "recorded step")), h("ul", {}, this.list.map((/** @type {any} */ each) => this.stepLink(each))), this.olderSteps(found.total));
    this.steps.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    if (all) await this.loadGroups();
  }

  /** @param {number} total */
  olderSteps(total) {
    if (this.list.length >= total) return null;
    const more = h("button", { type: "button", class: "wide", onclick: async () => {
      const found = await get(runPath(this.run, "steps"), { limit: STEPS, offset: this.list.length }, this.signal);
      this.list.push(...found.steps);
      this.steps.querySelector("ul")?.append(...found.steps.map((/** @type {any} */ each) => this.stepLink(each)));
      if (this.list.length >= found.total) more.remove();
    } }, "Show older steps");
    return more;
  }

  /** @param {number} step */
  address(step) {
    return href(["groups", this.run, step], { status: this.status, advantage: this.which === "advantages" ? "" : this.which });
  }

  /** @param {any} step */
  stepLink(step) {
    const unused = step.filtered + step.stale + step.skipped;
    return h("li", {}, h("a", { href: this.address(step.step),
      "aria-current": step.step === this.step ? "true" : null,
      title: `${plural(step.recorded, "recorded group")}: ${step.trained} trained, ${step.backfilled} backfilled, ${step.filtered} filtered, ${step.stale} stale, ${step.skipped} skipped` },
      h("strong", {}, `Step ${step.step}`), h("span", {}, percent(step.success, 0)),
      h("span", { class: "note" }, `${plural(step.recorded, "group")}${unused ? `, ${unused} unused` : ""}${step.complete === false ? ", sample" : ""}`)));
  }

  /** @param {number} by distance in the list; the list begins with the newest step */
  move(by) {
    const place = this.list?.findIndex((/** @type {any} */ each) => each.step === this.step) ?? -1;
    const next = this.list?.[place + by];
    if (next) go(this.address(next.step));
  }

  async loadGroups() {
    fill(this.body, loading());
    try {
      this.found = await get(runPath(this.run, "steps", this.step ?? 0, "groups"), {}, this.signal);
      this.draw();
    } catch (error) {
      if (!this.signal.aborted) fill(this.body, failure(error, () => void this.loadGroups()));
    }
  }

  draw() {
    const { head, groups } = this.found;
    const chosen = groups.filter((/** @type {any} */ group) => !this.status || group.status === this.status);
    const all = groups.flatMap((/** @type {any} */ group) => group.members.flatMap((/** @type {any} */ member) => member[this.which] ?? []));
    const largest = largestOf(all);
    const numbers = STATUSES.map(([status, label]) => /** @type {[string, string]} */ ([status,
      `${label} (${status ? groups.filter((/** @type {any} */ group) => group.status === status).length : groups.length})`]));
    fill(this.bar, field("Status", select(numbers, this.status, (status) => {
      this.status = status;
      this.shown = FIRST_GROUPS;
      setQuery({ status });
      this.draw();
    })), field("Coloured by", select(ADVANTAGES, this.which, (which) => {
      this.which = which;
      setQuery({ advantage: which });
      this.draw();
    })), all.length > 0 && scaleLegend(largest));
    fill(this.body, h("h2", {}, `Step ${this.step}`), head && this.head(head),
      !head && h("p", { class: "note" }, "No advantages and no ratios are recorded for this step."),
      chosen.slice(0, this.shown).map((/** @type {any} */ group) => groupCard(group, this.run, { which: this.which, largest, figures: hasFigures(groups) })),
      chosen.length === 0 && empty("No group has this status.", "Choose “all”."),
      chosen.length > this.shown && h("button", { type: "button", class: "wide", onclick: () => {
        this.shown += 24;
        this.draw();
      } }, `Show more groups (${chosen.length - this.shown} left)`));
  }

  /** @param {any} head */
  head(head) {
    const level = head.ratio_level ? `one ratio per ${head.ratio_level}` : "–";
    const counts = Object.entries(head.groups).filter(([, number]) => number).map(([name, number]) => `${count(/** @type {number} */ (number))} ${name}`).join(", ");
    const range = head.clip_low === null ? "no clip" : `[${1 - head.clip_low}, ${1 + head.clip_high}]`;
    return facts([["Method", head.recipe], ["Groups of the step", counts], ["Recorded", head.complete ? "all groups" : "a sample"],
      ["Importance ratio", level], ["Range of the clip", range], ["Sequence mask", head.mask_delta === null ? "none" : `δ = ${head.mask_delta}`],
      ["Weights", h("code", { class: "cut", title: head.weights }, head.weights)]]);
  }
}

