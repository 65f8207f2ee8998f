const PASSING_MS = 5000;

/**
 * @typedef {"connecting" | "live" | "waiting" | "locked" | "overloaded" | "refused" | "asleep"} State
 */

const WORDS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Reconnecting",
  locked: "Needs a key",
  overloaded: "Overloaded",
  refused: "Refused",
  asleep: "Asleep",
};

/** How the stream stands, in words. */
export class Status {
  #part;
  #ticking = 0;
  #passing = 0;

  /** @param {(id: string) => HTMLElement} part */
  constructor(part) {
    this.#part = part;
  }

  /**
   * @param {State} state
   * @param {string} [detail] a sentence
   * @param {{until?: number, passing?: boolean}} [more] when it ends by itself; whether the sentence is of the moment
   */
  show(state, detail = "", { until, passing = false } = {}) {
    clearInterval(this.#ticking);
    clearTimeout(this.#passing);
    this.#part("state").dataset.state = state;
    this.#part("retry").hidden = state !== "waiting";
    this.#say("state-words", WORDS[state]);
    this.#say("state-detail", detail);
    if (passing) this.#passing = setTimeout(() => this.#say("state-detail", ""), PASSING_MS);
    const count = () => {
      const left = Math.max(1, Math.ceil((until - performance.now()) / 1000));
      this.#say("state-count", until === undefined ? "" : ` in ${left} s`);
    };
    count();
    if (until !== undefined) this.#ticking = setInterval(count, 250);
  }

  /** The same words are not said again: a screen reader would repeat them. */
  #say(id, words) {
    if (this.#part(id).textContent !== words) this.#part(id).textContent = words;
  }
}
