import { enter } from "./api.js";

/** Asks for the key and forgets it as soon as the server has taken it. */
export class KeyForm {
  #form;
  #input;
  #fault;

  /** @param {HTMLFormElement} form @param {() => void} opened */
  constructor(form, opened) {
    this.#form = form;
    this.#input = form.querySelector("input");
    this.#fault = form.querySelector("[role=alert]");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      button.disabled = true;
      this.#fault.textContent = "";
      try {
        await enter(this.#input.value);
        this.#input.value = "";
        form.hidden = true;
        opened();
      } catch (error) {
        this.#fault.textContent = error.status === 401 ? "The server does not accept this key." : error.message;
        this.#input.select();
      } finally {
        button.disabled = false;
      }
    });
  }

  ask() {
    if (!this.#form.hidden) return;
    this.#form.hidden = false;
    if (!document.activeElement.value) this.#input.focus(); // not while somebody types
  }
}
