/** Scales and ticks of charts. */

/**
 * @typedef {object} Scale
 * @property {(value: number) => number} at the position of a value
 * @property {(position: number) => number} inverse
 * @property {number[]} ticks
 * @property {[number, number]} domain
 */

/**
 * Returns a linear scale.
 * @param {[number, number]} domain @param {[number, number]} range @param {number} count approximate number of ticks
 * @returns {Scale}
 */
export function linear(domain, range, count) {
  const [low, high] = domain[0] === domain[1] ? padded(domain[0]) : domain;
  const factor = (range[1] - range[0]) / (high - low);
  return {
    at: (value) => range[0] + (value - low) * factor,
    inverse: (position) => low + (position - range[0]) / factor,
    ticks: linearTicks(low, high, count),
    domain: [low, high],
  };
}

/**
 * Returns a logarithmic scale. The domain must be positive.
 * @param {[number, number]} domain @param {[number, number]} range @param {number} count @returns {Scale}
 */
export function logarithmic(domain, range, count) {
  const [low, high] = domain[0] === domain[1] ? [domain[0] / 2, domain[1] * 2] : domain;
  const inner = linear([Math.log10(low), Math.log10(high)], range, count);
  const powers = [];
  for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) powers.push(10 ** power);
  const step = Math.ceil(powers.length / count);
  const ticks = powers.length >= 2 ? powers.filter((_, index) => index % step === 0) : linearTicks(low, high, count);
  return { at: (value) => inner.at(Math.log10(value)), inverse: (position) => 10 ** inner.inverse(position), ticks,
    domain: [low, high] };
}

/** @param {number} value @returns {[number, number]} */
function padded(value) {
  if (value >= 0) return [0, value * 2 || 1];
  return [value * 2, 0];
}

/** @param {number} low @param {number} high @param {number} count */
function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? rough;
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) ticks.push(index * step);
  return ticks;
}

/**
 * Returns the labels of ticks. All labels have the same number of decimals.
 * @param {number[]} ticks @param {string} unit "share" is shown as per cent @returns {string[]}
 */
export function tickLabels(ticks, unit) {
  const factor = unit === "share" ? 100 : 1;
  const sizes = ticks.map((tick) => Math.abs(tick * factor)).filter(Boolean);
  const gap = ticks.length > 1 ? Math.abs(/** @type {number} */ (ticks[1]) - /** @type {number} */ (ticks[0])) * factor : 1;
  const largest = Math.max(...sizes, 0);
  return ticks.map((tick) => `${oneLabel(tick * factor, largest, gap)}${unit === "share" ? " %" : ""}`);
}

/** Returns the labels of the ticks of a logarithmic axis. @param {number[]} ticks @param {string} unit @returns {string[]} */
export function logLabels(ticks, unit) {
  return ticks.map((tick) => {
    const value = Number((unit === "share" ? 100 * tick : tick).toPrecision(3));
    const text = value < 1e-3 || value >= 1e6 ? value.toExponential() : String(value);
    return minus(unit === "share" ? `${text} %` : text);
  });
}

/** @param {number} value @param {number} largest @param {number} gap */
function oneLabel(value, largest, gap) {
  if (value === 0) return "0";
  if (largest < 1e-3 || largest >= 1e13) return minus(value.toExponential(decimals(gap / 10 ** Math.floor(Math.log10(Math.abs(value)) + 1e-9))));
  const [divisor, suffix] = largest >= 1e9 ? [1e9, " G"] : largest >= 1e6 ? [1e6, " M"] : largest >= 1e4 ? [1e3, " k"] : [1, ""];
  return `${minus((value / divisor).toFixed(decimals(gap / divisor)))}${suffix}`;
}

/** Returns the number of decimals that multiples of `step` need. @param {number} step @returns {number} */
function decimals(step) {
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const whole = Math.abs(step * 10 ** places - Math.round(step * 10 ** places)) < 1e-6;
  return Math.min(6, whole ? places : places + 1); // a step such as 2.5 needs one more decimal
}

/** @param {string} text */
const minus = (text) => text.replaceAll("-", "−");
