const TALL = 14;
const EARLIER = 36;
const REACH = 2.1;

/** The vector as colours, the newest in a tall row, earlier ones below it. */
export class Strip {
  #canvas;
  #colours;
  #history = [];

  /** @param {HTMLCanvasElement} canvas @param {import("./colour.js").Colours} colours */
  constructor(canvas, colours) {
    this.#canvas = canvas;
    this.#colours = colours;
  }

  /** @param {Float32Array} vector */
  add(vector) {
    this.#history.unshift(vector);
    if (this.#history.length > EARLIER + 1) this.#history.pop();
  }

  clear() {
    this.#history = [];
  }

  draw() {
    const width = this.#history[0]?.length ?? 64;
    const height = TALL + EARLIER;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const lut = this.#colours.diverging;
    this.#history.forEach((vector, age) => {
      const row = age === 0 ? 0 : TALL + age - 1;
      const factor = (127.5 * Math.sqrt(vector.length)) / REACH; // numbers of a unit vector are about 1/sqrt(n)
      for (let x = 0; x < Math.min(width, vector.length); x++) {
        pixels[row * width + x] = lut[Math.max(0, Math.min(255, Math.round(127.5 + vector[x] * factor)))];
      }
    });
    for (let row = 1; row < TALL; row++) pixels.copyWithin(row * width, 0, width);
    context.putImageData(image, 0, 0);
    this.#canvas.ariaLabel = this.#history.length ? `The vector's ${width} numbers as colours` : "The vector: no text yet";
  }
}
