/** Numbers and times as text. */

const NONE = "–";

/**
 * Returns a number with about `digits` significant digits, or "–".
 * @param {number | null | undefined} value @param {number} [digits] @returns {string}
 */
export function num(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return minus(value.toExponential(Math.max(digits - 2, 1)));
  if (Number.isInteger(value)) return minus(value.toLocaleString("en"));
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1)));
  return minus(value.toLocaleString("en", { maximumFractionDigits: decimals, minimumFractionDigits: 0 }));
}

/** @param {string} text */
const minus = (text) => text.replaceAll("-", "−");

/** Returns a number with a fixed number of decimals and with a sign. 0 has no sign. @param {number | null | undefined} value
 * @param {number} [decimals] @returns {string} */
export function signed(value, decimals = 2) {
  if (value === null || value === undefined) return NONE;
  const text = Math.abs(value).toFixed(decimals);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}

/** Returns a number with a fixed number of decimals. @param {number | null | undefined} value @param {number} [decimals] */
export function fixed(value, decimals = 2) {
  if (value === null || value === undefined) return NONE;
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? text.replace("-", "") : minus(text);
}

/** Returns a share as per cent. @param {number | null | undefined} value @param {number} [decimals] @returns {string} */
export function percent(value, decimals = 1) {
  return value === null || value === undefined ? NONE : `${(100 * value).toFixed(decimals)} %`;
}

/** Returns an integer with separators. @param {number | null | undefined} value @returns {string} */
export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en");
}

/** Returns a duration. @param {number | null | undefined} seconds @returns {string} */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${num(seconds, 3)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Returns the time since a Unix time. @param {number | null | undefined} seconds @returns {string} */
export function ago(seconds) {
  if (!seconds) return NONE;
  const passed = Date.now() / 1000 - seconds;
  return passed < 5 ? "now" : `${passed < 172_800 ? duration(Math.max(0, passed)) : `${Math.floor(passed / 86_400)} days`} ago`;
}

/** Formats a metric value without its unit. Shares are formatted as per cent.
 * @param {number | null | undefined} value @param {string} unit @returns {string} */
export function withoutUnit(value, unit) {
  return unit === "share" ? percent(value) : num(value);
}

/** Formats a metric value with its unit. @param {number | null | undefined} value @param {string} unit */
export function withUnit(value, unit) {
  if (value === null || value === undefined) return NONE;
  return unit === "share" ? percent(value) : `${num(value)}${unit && !["loss", "ratio", "norm", "rate"].includes(unit) ? ` ${unit}` : ""}`;
}

/** Returns the singular or plural. @param {number} n @param {string} one @param {string} [many] @returns {string} */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
