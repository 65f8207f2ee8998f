const ROUNDS = 24;
const SLICE_MS = 8;

/**
 * The two directions along which vectors differ most.
 * @typedef {object} Projection
 * @property {(vector: Float32Array, at?: number) => [number, number]} place of the vector that begins at `at`
 */

/**
 * Principal components by power iteration; pauses every few milliseconds, so typing is never held up.
 * @param {Float32Array} matrix rows one after the other
 * @param {number} rows
 * @param {number} dimensions
 * @param {AbortSignal} signal
 * @returns {Promise<Projection>}
 */
export async function principal(matrix, rows, dimensions, signal) {
  const mean = new Float64Array(dimensions);
  for (let i = 0, at = 0; i < rows; i++) for (let k = 0; k < dimensions; k++) mean[k] += matrix[at++] / rows;
  const axes = [];
  let since = performance.now();
  for (let axis = 0; axis < 2; axis++) {
    let direction = start(dimensions, axis);
    for (let round = 0; round < ROUNDS; round++) {
      const next = new Float64Array(dimensions);
      const middle = dot(mean, direction, 0);
      let total = 0;
      for (let i = 0, at = 0; i < rows; i++, at += dimensions) {
        const weight = dot(matrix, direction, at) - middle;
        total += weight;
        for (let k = 0; k < dimensions; k++) next[k] += weight * matrix[at + k];
        if ((i & 63) === 63 && performance.now() - since > SLICE_MS) {
          await new Promise((resolve) => setTimeout(resolve));
          signal.throwIfAborted();
          since = performance.now();
        }
      }
      for (let k = 0; k < dimensions; k++) next[k] -= total * mean[k];
      for (const earlier of axes) {
        const along = dot(next, earlier, 0);
        for (let k = 0; k < dimensions; k++) next[k] -= along * earlier[k];
      }
      const length = Math.sqrt(dot(next, next, 0)) || 1;
      direction = next.map((value) => value / length);
    }
    axes.push(direction);
  }
  const middles = axes.map((axis) => dot(mean, axis, 0));
  return { place: (vector, at = 0) => axes.map((axis, k) => dot(vector, axis, at) - middles[k]) };
}

function dot(a, b, at) {
  let sum = 0;
  for (let k = 0; k < b.length; k++) sum += a[at + k] * b[k];
  return sum;
}

/** The same for the same size, so a map does not turn. */
function start(dimensions, axis) {
  return Float64Array.from({ length: dimensions }, (_, k) => Math.sin((k + 1) * (axis + 1.7)));
}
