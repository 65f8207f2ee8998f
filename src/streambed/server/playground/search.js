import { ApiError, embedAll } from "./api.js";
import { count, score } from "./numbers.js";
import { principal } from "./projection.js";
import { Ranking } from "./ranking.js";
import { BadTexts, parse, read, samples } from "./texts.js";

const FIRST_ROWS = 12;
const MORE_ROWS = 24;
const MOST_MARKS = 40;

/** The list of texts, ranked anew at each embedding. */
export class Search {
  #part;
  #root;
  #map;
  #facts = null;
  #texts = [];
  #ranking = new Ranking(0);
  #loading = new AbortController();
  #rows = [];
  #wanted = FIRST_ROWS;
  #vector = null;
  #best = -1;
  #settled = 0;
  #length = 0;
  #changes = [];
  #order = null;
  #source = null;

  /** @param {(id: string) => HTMLElement} part @param {import("./map.js").Map2D} map */
  constructor(part, map) {
    this.#part = part;
    this.#root = part("search");
    this.#map = map;
    this.#part("more").addEventListener("click", () => {
      this.#wanted = this.#wanted === FIRST_ROWS ? FIRST_ROWS + MORE_ROWS : FIRST_ROWS;
      this.draw();
    });
    this.#listenForFiles();
  }

  /** @param {object} facts of `/info`; vectors of another model do not compare, so its texts are embedded anew */
  async use(facts) {
    const same = this.#facts?.fingerprint === facts.fingerprint && this.#ranking.size === this.#texts.length && this.#texts.length;
    this.#facts = facts;
    if (same) return;
    if (this.#texts.length) this.#load(this.#texts);
    else await this.#take(() => samples());
  }

  /**
   * @param {Float32Array} vector
   * @param {number} length characters of the text
   */
  follow(vector, length) {
    this.#vector = vector;
    this.#changes = this.#changes.map((each) => Math.min(each, length));
    this.#settled = Math.min(this.#settled, length);
    this.#length = length;
    this.#rank(true);
  }

  /** There is no text. */
  rest() {
    this.#vector = null;
    this.#best = -1;
    this.#settled = this.#length = 0;
    this.#changes = [];
    this.#ranking.scores.fill(0);
  }

  #rank(isChange) {
    if (!this.#vector || !this.#ranking.size || this.#ranking.dimensions !== this.#vector.length) return;
    this.#order = this.#ranking.rank(this.#vector);
    if (this.#order[0] !== this.#best) {
      this.#best = this.#order[0];
      if (isChange) {
        this.#settled = this.#length;
        this.#changes.push(this.#length);
      }
    }
    this.#map.move(this.#vector, this.#ranking.scores, this.#best);
  }

  async #take(source) {
    this.#fault("");
    this.#source = source;
    try {
      const texts = await source();
      if (source === this.#source) await this.#load(texts);
    } catch (error) {
      this.#fault(error instanceof BadTexts ? error.message : "The texts cannot be read.");
    }
  }

  async #load(texts) {
    this.#loading.abort();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    this.#texts = texts;
    this.#ranking = new Ranking(texts.length);
    this.#order = null;
    this.#best = -1;
    this.#changes = [];
    this.#map.clear();
    this.#fault("");
    if (!this.#facts) return;
    const progress = this.#part("progress");
    progress.max = texts.length;
    progress.value = 0;
    progress.hidden = false;
    this.draw();
    try {
      await embedAll(this.#facts, texts, (vectors, first) => {
        if (signal.aborted) return;
        this.#ranking.add(vectors);
        progress.value = first + vectors.length;
        this.#rank(false);
        this.draw();
      }, signal);
      const { matrix, size, dimensions } = this.#ranking;
      const projection = await principal(matrix, size, dimensions, signal);
      this.#map.lay(texts, projection, matrix, dimensions);
      this.#rank(false);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.#fault(error.status === 0 ? "The texts will be embedded when the server is back." : `The texts could not be embedded: ${error.message}`);
    } finally {
      if (!signal.aborted) {
        progress.hidden = true;
        this.draw();
      }
    }
  }

  #fault(words) {
    this.#part("search-fault").textContent = words;
  }

  /** Puts what was computed on the page. */
  draw() {
    const total = this.#texts.length;
    const ready = this.#ranking.size;
    this.#part("count").textContent = ready < total ? `embedding ${count(ready)} of ${count(total)}` : total ? `${count(total)} texts` : "";
    const shown = Math.min(this.#wanted, total);
    const ranked = this.#vector && this.#order;
    this.#part("results").classList.toggle("ranked", Boolean(ranked));
    while (this.#rows.length < shown) this.#rows.push(new Row(this.#part("results")));
    while (this.#rows.length > shown) this.#rows.pop().remove();
    this.#rows.forEach((row, i) => {
      const index = ranked ? this.#order[i] : i;
      if (index === undefined) row.show(this.#texts[i], NaN);
      else row.show(this.#texts[index], ranked ? this.#ranking.scores[index] : NaN);
    });
    const more = this.#part("more");
    more.hidden = total <= FIRST_ROWS;
    more.textContent = this.#wanted === FIRST_ROWS ? "Show more" : "Show fewer";
    this.#renderSettled();
  }

  #renderSettled() {
    const words = this.#part("settled");
    if (!this.#vector || this.#best < 0) words.textContent = "The ranking is updated after each change.";
    else if (!this.#changes.length) words.textContent = "This is the ranking for the current text.";
    else words.innerHTML = `Settled after <b>${count(this.#settled)}</b> of <b>${count(this.#length)}</b> characters`;
    this.#root.dataset.settled = this.#best < 0 ? "" : `${this.#settled}/${this.#length}`;
    const track = this.#part("track");
    const places = this.#best < 0 ? [] : [...new Set(this.#changes)].slice(-MOST_MARKS);
    while (track.children.length > places.length) track.lastChild.remove();
    while (track.children.length < places.length) track.append(document.createElement("i"));
    const percent = (at) => `${(100 * at) / Math.max(this.#length, 1)}%`;
    places.forEach((at, i) => (track.children[i].style.left = percent(at)));
    track.style.setProperty("--settled", places.length ? percent(this.#settled) : "0%");
  }

  #listenForFiles() {
    const lines = this.#part("own-lines");
    const file = this.#part("own-file");
    this.#part("own-use").addEventListener("click", () => this.#take(() => parse(lines.value, "the pasted text")));
    this.#part("own-choose").addEventListener("click", () => file.click());
    this.#part("own-samples").addEventListener("click", () => this.#take(() => samples()));
    file.addEventListener("change", () => {
      if (file.files[0]) this.#take(() => read(file.files[0]));
      file.value = "";
    });
    const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
    // A file that misses the list would otherwise replace the page, and with it the text.
    for (const type of ["dragover", "drop"]) addEventListener(type, (event) => carriesFile(event) && event.preventDefault());
    this.#root.addEventListener("dragover", (event) => this.#root.classList.toggle("over", carriesFile(event)));
    this.#root.addEventListener("dragleave", () => this.#root.classList.remove("over"));
    this.#root.addEventListener("drop", (event) => {
      this.#root.classList.remove("over");
      if (!carriesFile(event)) return;
      event.preventDefault();
      if (event.dataTransfer.files.length > 1) this.#fault("One file at a time.");
      else this.#take(() => read(event.dataTransfer.files[0]));
    });
  }
}

/** A place in the list. Its text changes; its elements stay, so nothing jumps. */
class Row {
  #item = document.createElement("li");
  #bar = document.createElement("span");
  #text = document.createElement("span");
  #score = document.createElement("span");

  constructor(list) {
    this.#bar.className = "bar";
    this.#bar.ariaHidden = "true";
    this.#text.className = "words";
    this.#text.dir = "auto";
    this.#score.className = "score";
    this.#item.append(this.#text, this.#score, this.#bar);
    list.append(this.#item);
  }

  show(text, value) {
    if (this.#text.textContent !== text) {
      this.#text.textContent = text;
      this.#text.title = text.length > 90 ? text.slice(0, 1000) : "";
    }
    this.#score.textContent = Number.isNaN(value) ? "" : score(value);
    this.#bar.style.transform = `scaleX(${Number.isNaN(value) ? 0 : Math.max(0, value)})`;
  }

  remove() {
    this.#item.remove();
  }
}
