import { embed } from "./api.js";
import { RunningMedian, count, figure } from "./numbers.js";

const NOTES = {
  cold: "A random number before each text defeats this server's cache, so all of it is computed, as on a server without one. Both run here at once, so each slows the other.",
  cached: "The server finds the start of each text in its cache. The text is still sent and tokenised each time.",
};

/** The same keystrokes as whole texts, timed beside the stream. */
export class Repost {
  #part;
  #facts = null;
  #request = null;
  #stream = new Tally();
  #whole = new Tally();
  #overtaken = 0;
  #fault = "";
  #dirty = true;

  /** @param {(id: string) => HTMLElement} part */
  constructor(part) {
    this.#part = part;
    const begin = () => {
      this.#request?.abort();
      this.#request = null;
      this.#stream = new Tally();
      this.#whole = new Tally();
      this.#overtaken = 0;
      this.#fault = "";
      this.#dirty = true;
      part("compare").hidden = !this.#on;
      part("repost-invite").hidden = this.#on;
      part("repost-note").textContent = NOTES[part("repost-cache").checked ? "cached" : "cold"];
      this.draw();
    };
    for (const id of ["repost", "repost-cache"]) part(id).addEventListener("change", begin);
    addEventListener("pageshow", begin); // browsers give the switch back
  }

  get #on() {
    return this.#part("repost").checked;
  }

  /** @param {object} facts of `/info` */
  use(facts) {
    this.#facts = facts;
  }

  /** @param {string} text @param {number} at when the key was struck */
  async write(text, at) {
    if (!this.#on || !this.#facts) return;
    if (this.#request) {
      this.#request.abort();
      this.#overtaken++;
      this.#dirty = true;
    }
    this.#request = null;
    if (!text) return;
    const request = new AbortController();
    this.#request = request;
    try {
      const fields = this.#part("repost-cache").checked ? {} : { instruction: String(Math.random()) };
      const { usage } = await embed(this.#facts, text, { kind: "none", signal: request.signal, fields });
      if (request !== this.#request) return;
      this.#whole.add(performance.now() - at, usage.prompt_tokens - (usage.prompt_tokens_details?.cached_tokens ?? 0));
      this.#fault = "";
    } catch (error) {
      if (request.signal.aborted) return;
      this.#fault = error.message;
    }
    this.#request = null;
    this.#dirty = true;
    this.draw();
  }

  /** @param {import("./stream.js").Embedding} embedding */
  follow({ tripMs, usage }) {
    if (!this.#on || Number.isNaN(tripMs)) return;
    this.#stream.add(tripMs, usage.computed_tokens);
    this.#dirty = true;
  }

  draw() {
    if (!this.#on || !this.#dirty) return;
    this.#dirty = false;
    const slowest = Math.max(this.#stream.median || 0, this.#whole.median || 0, 1);
    for (const [name, tally] of [["stream", this.#stream], ["repost", this.#whole]]) {
      const { cells } = this.#part(`row-${name}`);
      tally.values().forEach((value, k) => (cells[k + 1].textContent = value));
      this.#part(`bar-${name}`).style.transform = `scaleX(${(tally.median || 0) / slowest})`;
    }
    this.#part("compare-words").textContent = this.#fault ? `The whole text got no answer: ${this.#fault}` : this.#verdict();
  }

  #verdict() {
    const [stream, whole] = [this.#stream, this.#whole];
    const overtaken = this.#overtaken ? ` ${count(this.#overtaken)} whole texts were overtaken by the next keystroke.` : "";
    if (!stream.answers || !whole.answers) return `Type to time both.${overtaken}`;
    const ratio = whole.median / stream.median;
    const faster = ratio >= 1 ? `The stream is ${figure(ratio)} times as fast as the whole text` : `The whole text is ${figure(1 / ratio)} times as fast as the stream`;
    return `${faster}. Last change: ${count(stream.lastRows)} rows against ${count(whole.lastRows)}.${overtaken}`;
  }
}

class Tally {
  answers = 0;
  lastRows = 0;
  #times = new RunningMedian();
  #last = NaN;
  #rows = 0;

  add(ms, rows) {
    this.answers++;
    this.#times.add(ms);
    this.#last = ms;
    this.lastRows = rows;
    this.#rows += rows;
  }

  get median() {
    return this.#times.value;
  }

  values() {
    if (!this.answers) return ["–", "–", "–", "–"];
    return [figure(this.median), figure(this.#last), count(this.lastRows), count(this.#rows)];
  }
}
