/** A text area that tells each settled change. */
export class Editor {
  #area;
  #changed;
  #composing = false;
  #typing = 0;

  /** @param {HTMLTextAreaElement} area @param {(text: string, at: number) => void} changed */
  constructor(area, changed) {
    this.#area = area;
    this.#changed = changed;
    area.addEventListener("compositionstart", () => (this.#composing = matchMedia("(pointer: fine)").matches));
    area.addEventListener("compositionend", (event) => {
      this.#composing = false;
      this.#tell(event.timeStamp);
    });
    area.addEventListener("input", (event) => {
      // What an input method shows while it asks is not text yet.
      if (!this.#composing) this.#tell(event.timeStamp);
    });
    for (const type of ["keydown", "beforeinput"]) area.addEventListener(type, () => this.stop());
  }

  /** Well-formed, since half a surrogate pair cannot travel; the places of everything else stay. */
  get text() {
    return this.#area.value.toWellFormed?.() ?? this.#area.value;
  }

  /** @param {string} text */
  set(text) {
    this.stop();
    this.#area.focus();
    this.#area.select();
    document.execCommand(text ? "insertText" : "delete", false, text); // unlike .value, can be undone
  }

  /** @param {string} text put at the end, and the caret after it */
  append(text) {
    this.set(this.#area.value + text);
    this.#area.focus();
    this.#area.setSelectionRange(this.#area.value.length, this.#area.value.length);
    this.#area.scrollTop = this.#area.scrollHeight;
  }

  /** Types as a person would, until something else is typed. @param {string} text @param {number} perSecond */
  type(text, perSecond) {
    this.stop();
    this.#area.value = "";
    const characters = Array.from(text);
    let next = 0;
    this.#typing = setInterval(() => {
      this.#area.value += characters[next++];
      this.#area.scrollTop = this.#area.scrollHeight;
      this.#tell(performance.now());
      if (next >= characters.length) this.stop();
    }, 1000 / perSecond);
  }

  /** Ends what `type` began. */
  stop() {
    clearInterval(this.#typing);
  }

  #tell(at) {
    this.#changed(this.text, at);
  }
}
