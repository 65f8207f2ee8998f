const dark = matchMedia("(prefers-color-scheme: dark)");

// Ends and middle in OKLab, so equal steps look equal; the middle is the page.
const PALETTES = {
  light: [[0.47, -0.06, -0.1], [0.972, 0, 0], [0.56, 0.1, 0.105]],
  dark: [[0.8, -0.07, -0.085], [0.225, -0.004, -0.008], [0.81, 0.055, 0.115]],
};

/** Colours of the page, for canvases; read anew when the scheme changes. */
export class Colours {
  #values = new Map();
  #lut = null;

  /** @param {() => void} changed */
  constructor(changed) {
    dark.addEventListener("change", () => {
      this.#values.clear();
      this.#lut = null;
      changed();
    });
  }

  /** @param {string} name of a custom property, without its dashes @returns {string} */
  of(name) {
    let value = this.#values.get(name);
    if (value === undefined) {
      value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
      this.#values.set(name, value);
    }
    return value;
  }

  /** 256 colours from the lowest to the highest value, as pixels. @returns {Uint32Array} */
  get diverging() {
    this.#lut ??= palette(PALETTES[dark.matches ? "dark" : "light"]);
    return this.#lut;
  }
}

function palette([low, middle, high]) {
  const lut = new Uint32Array(256);
  const bytes = new Uint8ClampedArray(lut.buffer);
  for (let i = 0; i < 256; i++) {
    const t = (i - 127.5) / 127.5;
    const end = t < 0 ? low : high;
    const amount = Math.abs(t) ** 0.75;
    bytes.set([...rgb(middle.map((value, k) => value + (end[k] - value) * amount)), 255], 4 * i);
  }
  return lut;
}

function rgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => 255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
}

/**
 * Fits a canvas to its box and the screen's pixels.
 * @param {HTMLCanvasElement} canvas
 * @returns {{context: CanvasRenderingContext2D, width: number, height: number}} in CSS pixels, cleared
 */
export function prepared(canvas) {
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const context = canvas.getContext("2d");
  const across = Math.round(width * scale);
  const down = Math.round(height * scale);
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
