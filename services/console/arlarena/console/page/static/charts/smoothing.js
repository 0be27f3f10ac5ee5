/** Smooths curves, and finds values in curves. */

/**
 * Returns the exponential moving average with bias correction, as in Adam: s_t = β s_{t−1} + (1 − β) y_t, divided by
 * 1 − β^t. Missing values stay missing, and do not affect the average.
 * @param {(number | null)[]} values @param {number} beta in [0, 1) @returns {(number | null)[]}
 */
export function smooth(values, beta) {
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = beta * sum + (1 - beta) * value;
    weight = beta * weight + (1 - beta);
    return sum / weight;
  });
}

/**
 * Returns the index of the value that is nearest to `wanted`, or −1 if there are no values.
 * @param {(number | null)[]} sorted @param {number} wanted @returns {number}
 */
export function nearest(sorted, wanted) {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (/** @type {number} */ (sorted[middle]) < wanted) low = middle;
    else high = middle;
  }
  if (high < 0) return -1;
  const [left, right] = [Number(sorted[low]), Number(sorted[high])];
  return wanted - left <= right - wanted ? low : high;
}
