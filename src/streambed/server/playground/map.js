import { prepared } from "./colour.js";

const TRAIL = 40;
const MARGIN = 16;
const NEAR = 14;
const GLIDE_MS = 160;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** The texts in two dimensions, and the stream as a point that moves among them. */
export class Map2D {
  #canvas;
  #colours;
  #caption;
  #texts = [];
  #places = [];
  #projection = null;
  #box = { left: -1, right: 1, top: -1, bottom: 1 };
  #scores = null;
  #best = -1;
  #trail = [];
  #from = null;
  #since = 0;
  #shown = -1;
  #walk = [];
  #frame = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} caption where the text of a point is told
   * @param {import("./colour.js").Colours} colours
   */
  constructor(canvas, caption, colours) {
    this.#canvas = canvas;
    this.#colours = colours;
    this.#caption = caption;
    for (const type of ["pointermove", "click"]) canvas.addEventListener(type, (event) => this.#show(this.#nearest(event.offsetX, event.offsetY)));
    canvas.addEventListener("pointerleave", () => this.#show(-1));
    canvas.addEventListener("focus", () => this.#show(this.#best));
    canvas.addEventListener("blur", () => this.#show(-1));
    canvas.addEventListener("keydown", (event) => this.#step(event));
    this.#tell();
  }

  /**
   * @param {string[]} texts
   * @param {import("./projection.js").Projection} projection
   * @param {Float32Array} matrix
   * @param {number} dimensions
   */
  lay(texts, projection, matrix, dimensions) {
    this.#texts = texts;
    this.#projection = projection;
    this.#places = texts.map((_, i) => projection.place(matrix, i * dimensions));
    const xs = this.#places.map(([x]) => x);
    const ys = this.#places.map(([, y]) => y);
    this.#box = { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
    this.#walk = texts.map((_, i) => i).sort((a, b) => xs[a] - xs[b]);
    this.#trail = [];
    this.#shown = -1;
    this.#tell();
    this.draw();
  }

  /** Takes the texts away until there are others. */
  clear() {
    this.#texts = [];
    this.#places = [];
    this.#projection = null;
    this.#shown = -1;
    this.rest();
  }

  /** There is no text: the stream is nowhere. */
  rest() {
    this.#trail = [];
    this.#scores = null;
    this.#best = -1;
    this.#tell();
    this.draw();
  }

  /** @param {Float32Array} vector of the stream @param {Float32Array | null} scores @param {number} best */
  move(vector, scores, best) {
    this.#scores = scores;
    this.#best = best;
    if (!this.#projection) return;
    this.#from = this.#trail.at(-1) ?? null;
    this.#trail.push(this.#projection.place(vector));
    if (this.#trail.length > TRAIL) this.#trail.shift();
    this.#since = performance.now();
    if (this.#shown < 0) this.#tell();
    this.draw();
  }

  draw() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  #paint() {
    const { context, width, height } = prepared(this.#canvas);
    const accent = this.#colours.of("accent");
    const at = (place) => this.#pixel(place, width, height);
    const radius = this.#places.length > 600 ? 1.6 : 2.6;
    const most = this.#scores && this.#best >= 0 ? Math.max(this.#scores[this.#best], 0.05) : 1;
    const dots = this.#colours.of("edge");
    this.#places.forEach((place, i) => {
      const [x, y] = at(place);
      const warmth = this.#scores ? Math.max(0, this.#scores[i] / most) ** 3 : 0;
      const isNear = warmth > 0.08;
      context.globalAlpha = isNear ? 0.25 + 0.75 * warmth : 0.55;
      disc(context, [x, y], radius + 1.2 * warmth, isNear ? accent : dots);
    });
    context.globalAlpha = 1;
    this.#paintTrail(context, at);
    if (this.#shown >= 0) this.#ring(context, at(this.#places[this.#shown]), this.#colours.of("ink"));
  }

  #paintTrail(context, at) {
    if (!this.#trail.length) return;
    const moved = still.matches || !this.#from ? 1 : Math.min(1, (performance.now() - this.#since) / GLIDE_MS);
    const eased = 1 - (1 - moved) ** 3;
    const newest = this.#trail.at(-1);
    const place = this.#from ? newest.map((value, k) => this.#from[k] + (value - this.#from[k]) * eased) : newest;
    const points = [...this.#trail.slice(0, -1), place].map(at);
    const warm = this.#colours.of("warm");
    context.strokeStyle = warm;
    context.lineWidth = 1.5;
    context.lineCap = "round";
    for (let i = 1; i < points.length; i++) {
      context.globalAlpha = 0.7 * ((i + TRAIL - points.length) / TRAIL) ** 2;
      context.beginPath();
      context.moveTo(...points[i - 1]);
      context.lineTo(...points[i]);
      context.stroke();
    }
    const [x, y] = points.at(-1);
    if (this.#best >= 0 && this.#places[this.#best]) {
      context.globalAlpha = 0.8;
      context.setLineDash([2, 4]);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(...at(this.#places[this.#best]));
      context.stroke();
      context.setLineDash([]);
    }
    context.globalAlpha = 0.22;
    disc(context, [x, y], 11, warm);
    context.globalAlpha = 1;
    disc(context, [x, y], 5, warm);
    if (moved < 1) this.draw();
  }

  #ring(context, [x, y], colour) {
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, 7, 0, 2 * Math.PI);
    context.stroke();
  }

  #pixel([x, y], width, height) {
    const { left, right, top, bottom } = this.#box;
    const across = right > left ? Math.max(0, Math.min(1, (x - left) / (right - left))) : 0.5;
    const down = bottom > top ? Math.max(0, Math.min(1, (y - top) / (bottom - top))) : 0.5;
    return [MARGIN + across * (width - 2 * MARGIN), MARGIN + down * (height - 2 * MARGIN)];
  }

  #nearest(x, y) {
    let best = -1;
    let least = NEAR ** 2;
    this.#places.forEach((place, i) => {
      const [px, py] = this.#pixel(place, this.#canvas.clientWidth, this.#canvas.clientHeight);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  #step(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by || !this.#walk.length) return;
    event.preventDefault();
    const now = this.#shown < 0 ? (by > 0 ? -1 : 0) : this.#walk.indexOf(this.#shown);
    this.#show(this.#walk[(now + by + this.#walk.length) % this.#walk.length]);
  }

  #show(index) {
    if (index === this.#shown) return;
    this.#shown = index;
    this.#tell();
    this.draw();
  }

  #tell() {
    const index = this.#shown >= 0 ? this.#shown : this.#best;
    let words = this.#texts[index];
    if (words === undefined) words = this.#places.length ? "Point at a dot to read its text." : "The map appears once the texts are embedded.";
    else if (this.#shown < 0) words = `Nearest: ${words}`;
    if (this.#caption.textContent !== words) this.#caption.textContent = words;
  }
}

function disc(context, [x, y], radius, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}
