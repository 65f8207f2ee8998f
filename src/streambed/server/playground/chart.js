import { prepared } from "./colour.js";

const POINTS = 120;
const LEFT = 42;
const USUAL = 0.95;
const PAD = 8;

/**
 * @typedef {object} Series
 * @property {string} colour a custom property of the page
 * @property {string} name for the description in words
 */

/** Lines over the newest changes. */
export class Chart {
  #canvas;
  #colours;
  #series;
  #least;
  #format;
  #clipped;
  #rows = [];

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./colour.js").Colours} colours
   * @param {Series[]} series
   * @param {number} least the smallest top of the scale
   * @param {(value: number) => string} format
   * @param {boolean} [clipped] whether a few high values may leave the scale
   */
  constructor(canvas, colours, series, least, format, clipped = false) {
    this.#clipped = clipped;
    this.#canvas = canvas;
    this.#colours = colours;
    this.#series = series;
    this.#least = least;
    this.#format = format;
  }

  /** @param {number[]} values one a series; NaN where there is none */
  add(values) {
    this.#rows.push(values);
    if (this.#rows.length > POINTS) this.#rows.shift();
  }

  draw() {
    const { context, width, height } = prepared(this.#canvas);
    const top = this.#top();
    const y = (value) => height - PAD - (Math.min(value, top) / top) * (height - 2 * PAD);
    const x = (i) => LEFT + ((width - LEFT - 4) * (i + POINTS - this.#rows.length)) / (POINTS - 1);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.lineWidth = 1;
    for (const value of [0, top / 2, top]) {
      context.strokeStyle = this.#colours.of("line");
      context.fillStyle = this.#colours.of("quiet");
      context.beginPath();
      context.moveTo(LEFT, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
      context.fillText(this.#format(value), LEFT - 8, y(value));
    }
    this.#series.forEach((series, k) => this.#line(context, series, k, x, y));
    this.#describe();
  }

  #line(context, series, k, x, y) {
    context.strokeStyle = context.fillStyle = this.#colours.of(series.colour);
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    let last = null;
    context.beginPath();
    this.#rows.forEach((row, i) => {
      if (Number.isNaN(row[k])) {
        last = null;
        return;
      }
      if (last === null) context.moveTo(x(i), y(row[k]));
      else context.lineTo(x(i), y(row[k]));
      last = [x(i), y(row[k])];
    });
    context.stroke();
    if (!last) return;
    context.beginPath();
    context.arc(...last, 2.5, 0, 2 * Math.PI);
    context.fill();
  }

  /** One, two or five times a power of ten. */
  #top() {
    const values = Float64Array.from(this.#rows.flat().filter((value) => !Number.isNaN(value))).sort();
    const highest = Math.max(this.#least, values[Math.floor((this.#clipped ? USUAL : 1) * (values.length - 1))] || 0);
    const power = 10 ** Math.floor(Math.log10(highest));
    return [1, 2, 5, 10].map((step) => step * power).find((value) => value >= highest * 0.999) ?? highest;
  }

  #describe() {
    const newest = this.#rows.at(-1);
    const words = this.#series
      .map(({ name }, k) => (newest && !Number.isNaN(newest[k]) ? `${name} ${this.#format(newest[k])}` : ""))
      .filter(Boolean)
      .join(", ");
    this.#canvas.ariaLabel = words ? `The last changes; the newest is ${words}` : "No values yet";
  }
}
