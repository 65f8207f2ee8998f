const WHO = ["The night ferry", "The new archive", "An old lighthouse", "The city library", "A team of surveyors", "The mountain railway", "A retired pilot", "The botanical garden", "The harbour office"];
const DID = ["repaired", "painted", "measured", "discovered", "borrowed", "described", "rebuilt", "translated", "sold", "weighed"];
const WHAT = ["a box of letters", "three kinds of apples", "the oldest map of the coast", "a broken radio", "the sound of the bells", "a recipe for rye bread", "two unfinished songs", "a bridge of oak", "a jar of honey"];
const WHEN = ["before the rain came", "on a Tuesday in March", "after a long winter", "without telling anybody", "for the third time", "as the market closed", "under a clear sky"];
const THEN = ["Nobody had expected it.", "It took longer than planned, and cost less.", "The newspaper gave it four lines.", "It is still there today."];
const JOIN = ["Meanwhile", "Later", "Not far away", "In the same week", "Strangely"];

/**
 * Varied prose of about so many words, the same each time.
 * @param {number} words
 * @returns {string}
 */
export function prose(words) {
  let seed = 20_261;
  const pick = (list) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return list[(seed >>> 12) % list.length];
  };
  const sentences = [];
  for (let written = 0, n = 0; written < words; n++) {
    const who = pick(WHO);
    const begin = n % 3 === 2 ? `${pick(JOIN)}, ${who[0].toLowerCase()}${who.slice(1)}` : who;
    const sentence = n % 5 === 4 ? pick(THEN) : `${begin} ${pick(DID)} ${pick(WHAT)} ${pick(WHEN)}.`;
    written += sentence.split(" ").length;
    sentences.push(sentence, n % 9 === 8 ? "\n\n" : " ");
  }
  return sentences.join("").trimEnd();
}

/** Texts for those who would rather watch first. */
export const EXAMPLES = [
  "I ordered a lamp last week and it arrived broken, how do I get my money back?",
  "something warm and quick to cook with lentils and tomatoes",
  "the database does not answer any more and requests time out",
  "Wo kann ich am Samstag mein Fahrrad reparieren lassen?",
];
