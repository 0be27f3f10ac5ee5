/** The list of episodes of a run, with filters. The address of the page contains the filters. */

import { get, runPath } from "../core/api.js";
import { badge, fill, h, visible } from "../core/dom.js";
import { count, fixed, percent, signed } from "../core/format.js";
import { bind } from "../core/keys.js";
import { empty, failure, loading, pager, runHeading, table } from "../core/parts.js";
import { go, href, setQuery } from "../core/route.js";
import { rememberRun } from "../core/selection.js";
import { FilterForm } from "./episode_filters.js";
import { statusBadge } from "./group_card.js";

const LIMIT = 50;
/** @type {[string, string, string?, string?][]} label, sort key, title, class */
const COLUMNS = [["Episode", "position"], ["Set", "", "", "minor"], ["Step", "step", "training step", "n minor"], ["Task", ""], ["Outcome", ""], ["Return", "return", "sum of the rewards", "n"],
  ["Turns", "turns", "", "n"], ["Invalid", "invalid", "turns with an invalid action or format", "n"], ["Tokens", "tokens", "tokens of the replies", "n minor"],
  ["Mean A", "", "mean advantage over the turns", "n"], ["Use in training", ""], ["First action", ""]];

/** @type {import("../app.js").Mount} */
export async function mount(root, route, signal) {
  const page = new Episodes(root, route, signal);
  await page.start();
  return { update: (next) => page.update(next) };
}

class Episodes {
  /** @param {HTMLElement} root @param {import("../app.js").Route} route @param {AbortSignal} signal */
  constructor(root, route, signal) {
    this.signal = signal;
    this.run = route.path[1] ?? "";
    this.query = new URLSearchParams(route.query);
    rememberRun(this.run);
    this.body = h("div", { class: "list" });
    this.filters = h("div");
    fill(root, runHeading("Episodes", this.run, (run) => href(["episodes", run])), h("div", { class: "split" }, this.filters, this.body));
    bind("View", [{ keys: ["/"], label: "Search texts", run: () => {
      /** @type {HTMLDetailsElement | null} */ (this.filters.querySelector("details"))?.setAttribute("open", "");
      /** @type {HTMLElement | null} */ (this.filters.querySelector("input[type=search]"))?.focus();
    } }]);
  }

  async start() {
    const facets = await get(runPath(this.run, "facets"), {}, this.signal);
    this.form = new FilterForm(facets, this.query, (query) => this.change(query));
    fill(this.filters, this.form.element);
    await this.load();
  }

  /** @param {import("../app.js").Route} route */
  update(route) {
    if (route.path[1] !== this.run) return false;
    this.query = new URLSearchParams(route.query);
    this.form?.show(this.query);
    void this.load();
    return true;
  }

  /** @param {URLSearchParams} query */
  change(query) {
    for (const name of ["sort", "order"]) if (this.query.has(name)) query.set(name, this.query.get(name) ?? "");
    this.query = query;
    history.replaceState(null, "", href(["episodes", this.run], query));
    void this.load();
  }

  async load() {
    this.request?.abort();
    const request = (this.request = new AbortController());
    this.body.setAttribute("aria-busy", "true");
    if (!this.body.firstChild) fill(this.body, loading());
    try {
      const offset = Number(this.query.get("offset")) || 0;
      const found = await get(runPath(this.run, "episodes"), { ...Object.fromEntries(this.query), offset, limit: LIMIT }, request.signal);
      this.draw(found);
    } catch (error) {
      if (!request.signal.aborted) fill(this.body, failure(error, () => void this.load()));
    } finally {
      if (!request.signal.aborted) this.body.removeAttribute("aria-busy");
    }
  }

  /** Whether the address has a filter. */
  get filtered() {
    return [...this.query.keys()].some((name) => !["sort", "order", "offset"].includes(name));
  }

  /** @param {any} found */
  draw(found) {
    const turn = (/** @type {number} */ offset) => {
      setQuery({ offset: offset || null });
      this.query.set("offset", String(offset));
      void this.load();
      scrollTo(0, 0);
    };
    const page = { offset: found.offset, limit: LIMIT, total: found.total, noun: "episode" };
    const back = href(["episodes", this.run], this.query).split("?")[1];
    fill(this.body,
      found.indexed < 1 && h("p", { class: "note", role: "status" }, `The index is being built (${percent(found.indexed, 0)}): the list is not complete yet.`),
      found.total === 0 && !this.filtered ? empty("No episode is recorded.", "This list contains the episodes of evaluations and of recorded groups.") : found.total === 0 ? empty("No episode matches.", "Remove a filter, or ", h("button", { type: "button", onclick: () => go(href(["episodes", this.run])) }, "show all episodes")) : [
        pager(page, turn), table("Episodes", h("tr", {}, COLUMNS.map((column) => this.column(column))), found.episodes.map((/** @type {any} */ each) => row(each, this.run, back))),
        found.total > LIMIT && pager({ ...page, label: "Pages, below the list" }, turn)]);
  }

  /** @param {[string, string, string?, string?]} column */
  column([label, key, title, kind]) {
    if (!key) return h("th", { scope: "col", class: kind, title }, label);
    const active = (this.query.get("sort") ?? "position") === key;
    const descending = this.query.get("order") === "desc";
    const next = active && !descending ? "desc" : "asc";
    return h("th", { scope: "col", class: kind, title, "aria-sort": active ? (descending ? "descending" : "ascending") : null },
      h("button", { type: "button", class: "sort", onclick: () => {
        this.query.set("sort", key);
        this.query.set("order", next);
        this.query.delete("offset");
        setQuery({ sort: key, order: next, offset: null });
        void this.load();
      } }, label, h("span", { "aria-hidden": "true" }, active ? (descending ? "▼" : "▲") : "")));
  }
}

/** @param {any} each @param {string} run @param {string | undefined} back */
function row(each, run, back) {
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: href(["episode", run, each.id, 0], { list: back }) }, each.id)),
    h("td", { class: "minor" }, each.label ? `${each.source}, ${each.label}` : each.source), h("td", { class: "n minor" }, each.step ?? "–"),
    h("td", { class: "cut", title: visible(each.task) }, visible(each.task.replace(`${each.environment}/`, "")), each.kind && h("span", { class: "tag" }, visible(each.kind))),
    h("td", {}, each.success ? badge("good", "solved") : badge("bad", "failed"), each.outcome !== "ok" && badge("warn", each.outcome)),
    h("td", { class: "n" }, fixed(each.return)), h("td", { class: "n" }, count(each.turns)), h("td", { class: "n" }, count(each.invalid)),
    h("td", { class: "n minor" }, count(each.tokens)), h("td", { class: "n" }, signed(each.advantage)),
    h("td", {}, each.status ? statusBadge(each.group_status === "filtered" ? "filtered" : each.status, "") : h("span", { class: "note" }, "–")),
    h("td", { class: "cut" }, each.first_action ? visible(each.first_action) : h("span", { class: "note" }, "none")));
}
