import { ApiError, info, streamAddress } from "./api.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 15_000;

/**
 * @typedef {object} Listener
 * @property {(facts: object) => void} opened
 * @property {(event: object) => void} received
 * @property {() => void} closed
 * @property {() => void} locked a key is asked for; nothing is tried until `start`
 * @property {() => void} connecting
 * @property {(until: number, why: string) => void} waiting until a time of `performance.now()`
 */

/** One WebSocket at a time, reopened until `stop`. Knows no sessions. */
export class Connection {
  #listener;
  #socket = null;
  #timer = 0;
  #failures = 0;
  #attempt = null;

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** Connects now, whatever it waited for. */
  async start() {
    this.stop();
    const attempt = new AbortController();
    this.#attempt = attempt;
    this.#listener.connecting();
    let facts;
    try {
      // A browser does not tell why a handshake failed. This does.
      facts = await info(attempt.signal);
    } catch (error) {
      if (attempt.signal.aborted) return;
      if (error instanceof ApiError && error.status === 401) this.#listener.locked();
      else this.#again(error.message);
      return;
    }
    if (!attempt.signal.aborted) this.#open(facts);
  }

  /** Connects now if it waits. */
  hurry() {
    if (this.#timer) this.start();
  }

  /** Gives the socket up and does not try again. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#attempt?.abort();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** Drops a socket that seems dead, and connects anew. */
  drop() {
    if (!this.#socket) return;
    this.stop();
    this.#listener.closed();
    this.#again("The server stopped answering.");
  }

  /** It works: the next failure begins with a short wait. */
  proved() {
    this.#failures = 0;
  }

  /** @param {object} event @returns {boolean} whether there was a socket to take it */
  send(event) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  #open(facts) {
    const socket = new WebSocket(streamAddress());
    this.#socket = socket;
    let open = false;
    socket.onopen = () => {
      open = true;
      if (socket === this.#socket) this.#listener.opened(facts);
    };
    socket.onmessage = (message) => {
      if (socket === this.#socket) this.#listener.received(JSON.parse(message.data));
    };
    socket.onclose = (event) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      if (open) this.#listener.closed();
      this.#again(whyClosed(open, event.code));
    };
  }

  #again(why) {
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures++);
    const wait = longest * (0.75 + Math.random() / 4); // pages that lost the same server do not come back as one
    this.#timer = setTimeout(() => this.start(), wait);
    this.#listener.waiting(performance.now() + wait, why);
  }
}

function whyClosed(open, code) {
  if (!open) return "The server does not accept a WebSocket: too many are open, or a proxy does not pass them on.";
  if (code === 1012) return "The server is shutting down.";
  if (code === 1009) return "That change was too large for one WebSocket frame.";
  return "The connection was lost.";
}
