const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const WINDOW = 101;

/** @param {number} value @returns {string} with thousands apart */
export const count = (value) => whole.format(value);

/** @param {number} value @returns {string} with as many digits as one can use */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  return value && value < 9.95 ? value.toFixed(1) : whole.format(value);
}

/** @param {number} value @returns {string} */
export const score = (value) => (Math.round(value * 100) / 100 + 0).toFixed(2); // no -0.00

/** The median of the newest values. */
export class RunningMedian {
  #values = [];

  /** @param {number} value */
  add(value) {
    this.#values.push(value);
    if (this.#values.length > WINDOW) this.#values.shift();
  }

  /** @returns {number} NaN where there is none */
  get value() {
    const sorted = Float64Array.from(this.#values).sort();
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
}
