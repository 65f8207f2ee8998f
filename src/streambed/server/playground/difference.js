/**
 * @typedef {object} Change
 * @property {number} start UTF-16 offset where the old text gives way
 * @property {number} end where it goes on; this place is not replaced
 * @property {string} text what takes its place
 */

const isHigh = (unit) => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit) => unit >= 0xdc00 && unit <= 0xdfff;

/**
 * The one smallest range that makes `after` of `before`; never cuts a surrogate pair. Null where they are equal.
 * @param {string} before @param {string} after @returns {Change | null}
 */
export function difference(before, after) {
  if (before === after) return null;
  const shorter = Math.min(before.length, after.length);
  let start = 0;
  while (start < shorter && before.charCodeAt(start) === after.charCodeAt(start)) start++;
  if (start > 0 && isHigh(before.charCodeAt(start - 1))) start--;
  let tail = 0;
  const room = shorter - start;
  while (tail < room && before.charCodeAt(before.length - 1 - tail) === after.charCodeAt(after.length - 1 - tail)) tail++;
  if (tail > 0 && isLow(before.charCodeAt(before.length - tail))) tail--;
  return { start, end: before.length - tail, text: after.slice(start, after.length - tail) };
}

/** @param {string} text @param {Change} change @returns {string} */
export function applied(text, change) {
  return text.slice(0, change.start) + change.text + text.slice(change.end);
}

/** The first characters, never half a pair. @param {string} text @param {number} most @returns {string} */
export function beginning(text, most) {
  return text.slice(0, most < text.length && isHigh(text.charCodeAt(most - 1)) ? most - 1 : most);
}
