/** Texts by nearness to a vector. Knows neither page nor network. */
export class Ranking {
  #matrix = new Float32Array(0);
  #dimensions = 0;
  #size = 0;
  #scores = new Float32Array(0);
  #order = new Uint32Array(0);

  /** @param {number} capacity how many vectors will come */
  constructor(capacity) {
    this.capacity = capacity;
  }

  get size() {
    return this.#size;
  }

  get dimensions() {
    return this.#dimensions;
  }

  /** All vectors, one after the other. */
  get matrix() {
    return this.#matrix;
  }

  /** Of the last `rank`, by index. */
  get scores() {
    return this.#scores;
  }

  /** @param {Float32Array[]} vectors of unit length */
  add(vectors) {
    if (!this.#dimensions) {
      this.#dimensions = vectors[0].length;
      this.#matrix = new Float32Array(this.capacity * this.#dimensions);
    }
    for (const vector of vectors) this.#matrix.set(vector, this.#dimensions * this.#size++);
    this.#scores = new Float32Array(this.#size);
    this.#order = Uint32Array.from({ length: this.#size }, (_, i) => i);
  }

  /**
   * @param {Float32Array} vector of unit length
   * @returns {Uint32Array} indices, the nearest first; good until the next call
   */
  rank(vector) {
    const matrix = this.#matrix;
    const scores = this.#scores;
    for (let i = 0, at = 0; i < this.#size; i++) {
      let sum = 0;
      for (let k = 0; k < vector.length; k++) sum += matrix[at++] * vector[k];
      scores[i] = sum;
    }
    return this.#order.sort((a, b) => scores[b] - scores[a] || a - b);
  }
}

/** @param {Float32Array} a @param {Float32Array} b both of unit length @returns {number} */
export function cosine(a, b) {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}
