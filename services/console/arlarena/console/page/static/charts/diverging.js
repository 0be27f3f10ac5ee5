/** The colours of advantages: one hue above 0, and one below. A sign is also shown, because some users cannot distinguish hues. */

const LEVELS = 5;

/**
 * Returns the class of a value: "p1" to "p5" above 0, "m1" to "m5" below 0, "z" at 0, "" for an unknown value.
 * @param {number | null | undefined} value @param {number} largest the value with the strongest colour, above 0 @returns {string}
 */
export function level(value, largest) {
  if (value === null || value === undefined) return "";
  const size = Math.min(LEVELS, Math.ceil((Math.abs(value) / (largest || 1)) * LEVELS - 1e-9));
  if (size === 0 || Math.abs(value) < 1e-9) return "z";
  return `${value > 0 ? "p" : "m"}${size}`;
}

/** Returns the sign of a value as a character. @param {number | null | undefined} value @returns {string} */
export function sign(value) {
  if (value === null || value === undefined) return "";
  return Math.abs(value) < 1e-9 ? "0" : value > 0 ? "+" : "−";
}

/** Returns the largest absolute value, at least 1e-9. @param {(number | null | undefined)[]} values @returns {number} */
export function largestOf(values) {
  return values.reduce((/** @type {number} */ most, value) => Math.max(most, Math.abs(value ?? 0)), 1e-9);
}
