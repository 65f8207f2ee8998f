import { embed } from "./api.js";
import { count, score } from "./numbers.js";
import { cosine } from "./ranking.js";

const LOOSE = 0.02; // a watch of the server's is armed again only that far below its threshold
const MOST = 64;

/**
 * @typedef {object} Watch
 * @property {string} id
 * @property {string} text
 * @property {number} threshold
 */

/** Texts to watch for. The server reports when one is reached; how near it is until then is computed here. */
export class Watches {
  #part;
  #changed;
  #facts = null;
  #entries = [];
  #vector = null;
  #ids = 0;

  /** @param {(id: string) => HTMLElement} part @param {(watches: Watch[]) => void} changed */
  constructor(part, changed) {
    this.#part = part;
    this.#changed = changed;
    const text = part("watch-text");
    part("watch-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!text.value.trim()) return;
      if (this.#entries.length >= MOST) {
        this.refused(`A session has up to ${MOST} watches. Remove one first.`);
        return;
      }
      this.add(text.value.trim(), Number(part("watch-threshold").value));
      text.value = "";
      text.focus();
    });
  }

  /** @param {string} text @param {number} threshold */
  add(text, threshold) {
    this.refused("");
    const entry = new Entry(this.#part("watches"), { id: `w${++this.#ids}`, text, threshold }, () => this.#remove(entry));
    this.#entries.push(entry);
    this.#embed(entry);
    this.#tell();
  }

  /** @param {string} words why the server does not take them */
  refused(words) {
    this.#part("watch-fault").textContent = words;
  }

  /** @param {object} facts of `/info` */
  use(facts) {
    const same = this.#facts?.fingerprint === facts.fingerprint;
    this.#facts = facts;
    for (const entry of this.#entries) if (!same || !entry.vector) this.#embed(entry);
  }

  /** @param {string} id @param {number} value @param {number} offset */
  triggered(id, value, offset) {
    const entry = this.#entries.find((each) => each.watch.id === id);
    if (!entry) return;
    entry.trigger(value, offset);
    this.#part("watch-news").textContent = `Watch reached: ${entry.watch.text}, ${score(value)}`;
  }

  /** @param {Float32Array | null} vector of the stream; null where there is no text */
  follow(vector) {
    this.#vector = vector;
    for (const entry of this.#entries) entry.follow(vector);
  }

  draw() {
    for (const entry of this.#entries) entry.draw();
  }

  async #embed(entry) {
    if (!this.#facts) return;
    try {
      const { vectors } = await embed(this.#facts, entry.watch.text);
      entry.vector = vectors[0];
      entry.follow(this.#vector);
      entry.draw();
    } catch {
      // It still lights up when the server says so; the next connection tries again.
    }
  }

  #remove(entry) {
    const index = this.#entries.indexOf(entry);
    this.#entries.splice(index, 1);
    entry.remove();
    const next = this.#entries[Math.min(index, this.#entries.length - 1)];
    if (next) next.focus();
    else this.#part("watch-text").focus();
    this.#tell();
  }

  #tell() {
    this.#changed(this.#entries.map((entry) => entry.watch));
  }
}

class Entry {
  vector = null;
  #item = document.createElement("li");
  #said;
  #bar;
  #lit = false;
  #value = NaN;
  #reached = "";

  constructor(list, watch, remove) {
    this.watch = watch;
    this.#item.innerHTML = `<span class="lamp" aria-hidden="true"></span><span class="words" dir="auto"></span>
      <button type="button" class="plain remove">Remove</button>
      <span class="gauge" aria-hidden="true"><span></span><i></i></span><span class="said"></span>`;
    const [words, button, mark, bar, said] = [".words", ".remove", ".gauge i", ".gauge span", ".said"].map((name) => this.#item.querySelector(name));
    words.textContent = watch.text;
    button.ariaLabel = `Remove the watch: ${watch.text}`;
    button.addEventListener("click", remove);
    mark.style.left = `${100 * watch.threshold}%`;
    this.#bar = bar;
    this.#said = said;
    list.append(this.#item);
    this.draw();
  }

  trigger(value, offset) {
    this.#lit = true;
    this.#value = value;
    this.#reached = `reached at character ${count(offset)}`;
    this.draw();
  }

  follow(vector) {
    if (!vector) {
      this.#lit = false;
      this.#value = NaN;
    } else if (this.vector?.length === vector.length) {
      this.#value = cosine(this.vector, vector);
      if (this.#value < this.watch.threshold - LOOSE) this.#lit = false;
    }
    if (!this.#lit) this.#reached = "";
  }

  draw() {
    const value = this.#value;
    this.#item.dataset.lit = String(this.#lit);
    this.#bar.style.transform = `scaleX(${Number.isNaN(value) ? 0 : Math.max(0, value)})`;
    const said = `${Number.isNaN(value) ? "–" : score(value)} of ${score(this.watch.threshold)}${this.#lit ? `, ${this.#reached}` : ""}`;
    if (this.#said.textContent !== said) this.#said.textContent = said;
  }

  focus() {
    this.#item.querySelector(".remove").focus();
  }

  remove() {
    this.#item.remove();
  }
}
