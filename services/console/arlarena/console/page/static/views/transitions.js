/** Merges similar actions, and converts counts of transitions to shares. */

const PRODUCT = /^click\[(?=[a-z0-9]*\d)[a-z0-9]{5,}\]?$/i;
const PAGES = /^click\[(buy|back|next|<|prev|description|features|reviews|attributes)/i;
/** Maximum number of actions of a flow. If there are more, the least frequent actions become "other". */
const MAX_ACTIONS = 8;

/** Returns an action in which the argument in brackets is replaced by the kind of the argument. @param {string} word @returns {string} */
export function mergedAction(word) {
  if (word === "-") return "invalid";
  if (PRODUCT.test(word)) return "click[product]";
  const page = PAGES.exec(word);
  if (page) return `click[${{ "<": "prev" }[/** @type {"<"} */ (page[1])] ?? page[1]?.toLowerCase()}]`;
  if (/^click\[/i.test(word)) return "click[option]";
  const bracket = word.indexOf("[");
  return bracket > 0 ? `${word.slice(0, bracket)}[…]` : word;
}

/**
 * Returns the counts of the transitions of one outcome. Similar actions are merged.
 * @param {Record<string, number>} counts keys are "a>b" @returns {Map<string, {from: string, to: string, count: number}>}
 */
export function merged(counts) {
  const result = new Map();
  for (const [pair, count] of Object.entries(counts)) {
    const [from, to] = split(pair);
    const key = `${from} → ${to}`;
    const found = result.get(key) ?? { from, to, count: 0 };
    found.count += count;
    result.set(key, found);
  }
  return result;
}

/** @param {string} pair */
function split(pair) {
  // `pair` joins the first words of two actions with ">". A first word may be ">", but it contains no further ">".
  const place = pair.indexOf(">", 1);
  return [mergedAction(pair.slice(0, place)), mergedAction(pair.slice(place + 1))];
}

/**
 * Returns the most frequent actions of all counts. "other" is the last item.
 * @param {Map<string, {from: string, to: string, count: number}>[]} all @returns {string[]}
 */
export function frequentActions(all) {
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const counts of all) {
    const total = sum(counts) || 1;
    for (const { from, to, count } of counts.values()) for (const each of [from, to]) sums.set(each, (sums.get(each) ?? 0) + count / total);
  }
  const sorted = [...sums].sort((a, b) => b[1] - a[1]).map(([action]) => action);
  return sorted.length <= MAX_ACTIONS ? sorted : [...sorted.slice(0, MAX_ACTIONS - 1), "other"];
}

/** @param {Map<string, {count: number}>} counts @returns {number} */
export function sum(counts) {
  return [...counts.values()].reduce((total, each) => total + each.count, 0);
}

/**
 * Returns the transitions as shares of all transitions. Actions that are not in `actions` become "other".
 * @param {Map<string, {from: string, to: string, count: number}>} counts @param {string[]} actions
 * @returns {import("../charts/flow.js").Transition[]}
 */
export function shares(counts, actions) {
  const total = sum(counts) || 1;
  const name = (/** @type {string} */ action) => (actions.includes(action) ? action : "other");
  /** @type {Map<string, import("../charts/flow.js").Transition>} */
  const result = new Map();
  for (const { from, to, count } of counts.values()) {
    const key = `${name(from)}>${name(to)}`;
    const found = result.get(key) ?? { from: name(from), to: name(to), count: 0, share: 0 };
    found.count += count;
    found.share = found.count / total;
    result.set(key, found);
  }
  return [...result.values()];
}
