import { count } from "./numbers.js";

const MOST_TEXTS = 2000;
const MOST_BYTES = 8 << 20;
const MOST_CHARACTERS = 8000;

/** Something about a file that its owner can mend, in words. */
export class BadTexts extends Error {}

/** The texts that ship. @returns {Promise<string[]>} */
export async function samples() {
  const response = await fetch(new URL("samples.json", import.meta.url));
  if (!response.ok) throw new BadTexts("The sample texts cannot be loaded.");
  return response.json();
}

/** @param {File} file @returns {Promise<string[]>} */
export async function read(file) {
  if (file.size > MOST_BYTES) throw new BadTexts(`${file.name} is larger than the 8 MB that this page accepts.`);
  let content;
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new BadTexts(`${file.name} is not UTF-8 text.`);
  }
  return parse(content, file.name);
}

/**
 * @param {string} content
 * @param {string} name whose ending says how it is to be read
 * @returns {string[]}
 */
export function parse(content, name) {
  const kind = name.toLowerCase().split(".").at(-1);
  if (kind === "csv") throw new BadTexts("Columns cannot be read here. Save the one with the texts as .txt, one text a line.");
  const reader = { json: array, jsonl: objects, ndjson: objects }[kind] ?? lines;
  const texts = reader(content, name);
  return checked(texts.map((text) => text.trim()).filter(Boolean), name);
}

const lines = (content) => content.split(/\r\n|\n|\r/);

function array(content, name) {
  let value;
  try {
    value = JSON.parse(content);
  } catch (error) {
    throw new BadTexts(`${name} is not JSON: ${error.message}`);
  }
  if (!Array.isArray(value)) throw new BadTexts(`${name} must be an array of strings.`);
  return value.map((each, i) => textOf(each, `Item ${i + 1} of ${name}`));
}

function objects(content, name) {
  return lines(content).flatMap((line, i) => {
    if (!line.trim()) return [];
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      throw new BadTexts(`Line ${i + 1} of ${name} is not JSON.`);
    }
    return [textOf(value, `Line ${i + 1} of ${name}`)];
  });
}

function textOf(value, where) {
  const text = typeof value === "string" ? value : value?.text;
  if (typeof text !== "string") throw new BadTexts(`${where} is neither a string nor an object with a “text”.`);
  return text;
}

function checked(texts, name) {
  if (!texts.length) throw new BadTexts(`There is no text in ${name}.`);
  if (texts.length > MOST_TEXTS) {
    throw new BadTexts(`${name} has ${count(texts.length)} texts; this page accepts up to ${count(MOST_TEXTS)}.`);
  }
  const long = texts.findIndex((text) => text.length > MOST_CHARACTERS);
  if (long >= 0) throw new BadTexts(`Text ${long + 1} of ${name} has more than ${count(MOST_CHARACTERS)} characters.`);
  return texts.map((text) => text.toWellFormed?.() ?? text);
}
