/** Assigns metrics to the sections of the curves. */

/**
 * @typedef {{title: string, unit: string, description: string, note?: string, metrics: string[]}} ChartSpec
 * @typedef {{title: string, note?: string, cells?: boolean, charts: ChartSpec[]}} Section
 */

/** @type {[string, string, string[]][]} title, note, metrics */
const SECTIONS = [
  ["Training", "", ["success_rate", "return_mean", "turns_mean", "solve_all", "solve_none", "loss", "policy_loss", "learning_rate",
    "response_tokens", "format_valid", "action_valid", "no_action_share"]],
  ["Diagnostics", "", ["entropy", "reference_kl", "off_policy_kl", "grad_norm", "clip_negative_low", "clip_positive_high", "outside",
    "ratio_mean", "ratio_min", "ratio_max", "rows_masked", "mismatch_k3", "mismatch_max", "advantage_abs", "anchor_size",
    "correction_mean", "corrected_away_negative", "corrected_away_positive", "updates_applied", "updates_skipped", "zero_gradient_steps"]],
  ["Throughput", "", ["tokens_per_s", "seconds", "collect_seconds", "tokens", "episodes", "rows"]],
  ["Queue and staleness", "groups that were used, dropped or too old", ["groups_kept", "groups_filtered", "groups_backfilled", "groups_stale",
    "age_mean", "age_max"]],
  ["Weight pushes", "from the trainer to the policy servers", ["push_seconds", "push_bytes", "probe_difference"]],
  ["Behaviour of the agent", "", ["steps_to_success", "steps_to_failure", "repeated_actions", "idle_turns", "back_and_forth",
    "format_valid_trained"]],
];
const TITLES = { clip_negative_low: "A < 0 with low ratio", clip_positive_high: "A > 0 with high ratio" };
const AXES = new Set(["step", "run_seconds", "environment_steps"]);
const CELLS = ["negative", "positive"].flatMap((sign) => ["low_entropy", "high_entropy"].flatMap((entropy) =>
  ["ratio_below", "ratio_above"].map((ratio) => [sign, entropy, ratio])));
const WORDS = { negative: "A < 0", positive: "A > 0", low_entropy: "low entropy", high_entropy: "high entropy", ratio_below: "ratio < 1",
  ratio_above: "ratio > 1" };

/**
 * Returns the sections with the given metrics. Sections without metrics are left out.
 * @param {{name: string, unit: string, description: string}[]} metrics @returns {Section[]}
 */
export function sections(metrics) {
  const left = new Map(metrics.filter((metric) => !AXES.has(metric.name)).map((metric) => [metric.name, metric]));
  const take = (/** @type {string} */ name) => {
    const found = left.get(name);
    left.delete(name);
    return found;
  };
  const cells = cellSection(take);
  /** @type {Section[]} */
  const result = SECTIONS.map(([title, note, names]) => ({ title, note, charts: names.flatMap((name) => spec(take(name))) }));
  result.splice(2, 0, cells);
  result.push({ title: "Other metrics", charts: [...left.values()].flatMap(spec) });
  return result.filter((section) => section.charts.length > 0);
}

/** @param {{name: string, unit: string, description: string} | undefined} metric @returns {ChartSpec[]} */
function spec(metric) {
  if (!metric) return [];
  const title = TITLES[/** @type {"clip_negative_low"} */ (metric.name)] ?? metric.name.replaceAll("_", " ").replace(/\bkl\b/, "KL");
  return [{ title, unit: metric.unit, description: `${metric.name}: ${metric.description.replaceAll("`", "")}`,
    note: unitNote(title, metric.unit), metrics: [metric.name] }];
}

/** Returns the unit, or "" if the title or the labels of the axis contain the unit. @param {string} title @param {string} unit */
function unitNote(title, unit) {
  return ["share", "ratio"].includes(unit) || title.toLowerCase().includes(unit) ? "" : unit;
}

/** @param {(name: string) => {unit: string, description: string} | undefined} take @returns {Section} */
function cellSection(take) {
  const charts = CELLS.flatMap((parts) => {
    const name = parts.join("/");
    const [kl, rows] = [take(`kl_share/${name}`), take(`rows_share/${name}`)];
    if (!kl) return [];
    const title = parts.map((part) => WORDS[/** @type {"negative"} */ (part)]).join(" · ");
    return [{ title, unit: "share", description: `${kl.description.replaceAll("`", "")} (${title})`,
      metrics: rows ? [`kl_share/${name}`, `rows_share/${name}`] : [`kl_share/${name}`] }];
  });
  return { title: "The eight cells", cells: true, charts,
    note: "Lines: share of the KL divergence, by sign of the advantage A, entropy and ratio. Thin dotted lines: share of the rows. All charts have the same y axis." };
}
