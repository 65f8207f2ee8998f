import { promptFor, vectorOf } from "./api.js";
import { applied, beginning, difference } from "./difference.js";

const SILENCE_MS = 20_000;
const RETRY_MS = 1000;
const PASSING = new Set(["overloaded", "not_ready", "storage_full", "internal", "deadline"]);
const LOST = new Set(["revision_conflict", "revision_gap", "offset_conflict", "offset_gap"]);

/**
 * @typedef {object} Embedding
 * @property {Float32Array} vector
 * @property {number} revision
 * @property {number} offset
 * @property {number | undefined} drift
 * @property {Record<string, number>} usage
 * @property {number} serverMs
 * @property {number} tripMs from the input event to the reply; NaN where no keystroke asked for it
 */

/**
 * @typedef {object} Listener
 * @property {(embedding: Embedding) => void} embedded
 * @property {(revision: number, offset: number) => void} acknowledged
 * @property {(watch: string, score: number, offset: number) => void} triggered
 * @property {(words: string) => void} attached
 * @property {(kind: "overloaded" | "refused", words: string) => void} held
 * @property {() => void} flowing
 * @property {() => void} asleep
 * @property {(words: string) => void} watchRefused
 */

/**
 * One session that follows a local text through lost sockets and restarted servers: the text at the acknowledged revision
 * (null where the server's is not known: it is replaced), and the changes sent since, each with the text after it.
 */
export class Stream {
  #connection;
  #listener;
  #facts = null;
  #session = null;
  #attached = false;
  #local = "";
  #localAt = NaN;
  #base = { revision: 0, text: "" };
  #pending = [];
  #lost = false;
  #held = false;
  #told = false;
  #sleeping = false;
  #asked = new Map();
  #watches = [];
  #watched = [];
  #limits = { max_frame_bytes: 1 << 20 };
  #credit = 65_536;
  #ids = 0;
  #openId = "";
  #updateId = "";
  #retry = 0;
  #heard = 0;
  #pulse = 0;

  /** @param {import("./connection.js").Connection} connection @param {Listener} listener */
  constructor(connection, listener) {
    this.#connection = connection;
    this.#listener = listener;
  }

  /** The text as the server will have it. */
  get text() {
    return this.#local;
  }

  /** @param {string} text the whole text as it is now @param {number} at when the key was struck */
  write(text, at) {
    this.#local = text;
    this.#localAt = at;
    if (this.#sleeping) {
      this.#sleeping = false;
      this.#connection.start();
      return;
    }
    if (this.#held) this.#resume();
    else this.#sync();
  }

  /** @param {{id: string, text: string, threshold: number}[]} watches all of them */
  watch(watches) {
    this.#watches = watches;
    if (!this.#attached || watches === this.#watched) return;
    this.#watched = watches;
    this.#updateId = this.#id();
    this.#send({ type: "session.update", event_id: this.#updateId, watch: watches });
  }

  /** @param {object} facts of `/info` */
  opened(facts) {
    this.#facts = facts;
    this.#heard = performance.now();
    this.#open();
  }

  closed() {
    this.#attached = this.#held = false;
    this.#openId = this.#updateId = "";
    this.#watched = null;
    this.#asked.clear();
    this.#localAt = NaN;
    clearTimeout(this.#retry);
    clearInterval(this.#pulse);
    this.#pulse = 0;
  }

  /** Ends the session, whose text is erased. */
  end() {
    if (this.#session) this.#send({ type: "session.close" });
    this.#session = null;
    this.#lost = false;
    this.closed();
  }

  /** @param {object} event */
  received(event) {
    this.#heard = performance.now();
    if (event.session && event.session !== this.#session?.id && event.type !== "session.created") return;
    switch (event.type) {
      case "session.created":
        this.#base = { revision: event.revision, text: "" };
        this.#pending = [];
        this.#attach(event, this.#lost ? "The server had lost the session; a new one has the whole text." : "");
        break;
      case "session.resumed":
        this.#resumed(event);
        break;
      case "session.closed":
        this.#closedBy(event.reason);
        break;
      case "input_text.ack":
        this.#acknowledge(event.revision, event.offset);
        this.#listener.acknowledged(event.revision, event.offset);
        this.#sync();
        break;
      case "embedding.done":
        this.#embedded(event);
        break;
      case "watch.triggered":
        this.#listener.triggered(event.watch, event.score, event.offset);
        break;
      case "error":
        this.#refused(event);
        break;
    }
  }

  #id() {
    return String(++this.#ids);
  }

  #send(event) {
    return this.#connection.send({ ...event, session: this.#session.id });
  }

  #open() {
    if (this.#openId) return;
    this.#openId = this.#id();
    if (this.#session) {
      const { id, token } = this.#session;
      this.#connection.send({ type: "session.resume", event_id: this.#openId, session: id, resume_token: token });
      return;
    }
    this.#watched = this.#watches;
    this.#connection.send({
      type: "session.create",
      event_id: this.#openId,
      emit: { on: "append" },
      offset_unit: "utf16",
      encoding_format: "base64",
      watch: this.#watches,
      ...promptFor(this.#facts, "query"),
    });
  }

  /** The session is lost: a new one gets the whole text. */
  #beginAgain() {
    this.#session = null;
    this.#lost = true;
    this.#attached = false;
    this.#open();
  }

  #attach(event, words) {
    this.#openId = "";
    this.#session = { id: event.session, token: event.resume_token };
    this.#limits = event.limits;
    this.#credit = Math.max(event.credit, 1024);
    this.#attached = true;
    this.#held = this.#told = this.#lost = false;
    this.#connection.proved();
    this.#listener.attached(words);
    this.#listener.acknowledged(this.#base.revision, event.offset);
    this.watch(this.#watches);
    this.#sync();
  }

  #resumed(event) {
    if (event.revision < this.#base.revision) this.#replace(event.revision);
    else this.#acknowledge(event.revision, event.offset);
    for (const change of this.#pending) this.#send(change.event);
    this.#attach(
      event,
      event.kv === "cold" ? "Resumed: the server kept only its text and computes it again." : "Resumed where it was.",
    );
  }

  #closedBy(reason) {
    if (["expired", "closed", "taken_over"].includes(reason)) return this.#beginAgain();
    this.closed();
    if (reason !== "idle") return;
    this.#sleeping = true;
    this.#connection.stop();
    this.#listener.asleep();
  }

  #acknowledge(revision, offset) {
    while (this.#pending.length && this.#base.revision < revision) {
      const change = this.#pending.shift();
      this.#base = { revision: change.event.base_revision + 1, text: change.after };
    }
    const { revision: known, text } = this.#base;
    const ours = known === revision ? text === null || text.length === offset : known > revision;
    if (!ours) this.#replace(revision);
  }

  /** The server's text is not what was made here: the whole text takes its place. */
  #replace(revision) {
    this.#base = { revision, text: null };
    this.#pending = [];
  }

  #sync() {
    if (!this.#attached || this.#held) return;
    const sent = this.#pending.length ? this.#pending.at(-1).after : this.#base.text;
    const change = sent === null ? { start: 0, end: 0, text: this.#local } : difference(sent, this.#local);
    if (!change) return this.#flow();
    const most = Math.floor((this.#limits.max_frame_bytes - 1024) / 6); // JSON writes a character in up to six bytes
    const text = beginning(change.text, most);
    const inFlight = this.#pending.reduce((sum, each) => sum + each.event.text.length, 0);
    if (this.#pending.length && inFlight + text.length > this.#credit) return;
    const event = {
      ...this.#eventOf({ ...change, text }, sent),
      event_id: this.#id(),
      base_revision: this.#base.revision + this.#pending.length,
    };
    this.#pending.push({ event, after: applied(sent ?? "", { ...change, text }) });
    this.#asked.set(event.base_revision + 1, this.#localAt);
    this.#send(event);
    this.#listen();
    if (text !== change.text) return this.#sync(); // the rest comes later
    this.#localAt = NaN;
  }

  #eventOf({ start, end, text }, sent) {
    if (sent === null) return { type: "input_text.set", text };
    if (start === sent.length) return { type: "input_text.append", text };
    return { type: "input_text.replace", start, end, text };
  }

  /** Browsers do not notice a dead link; silence while an answer is due counts as one. */
  #listen() {
    this.#pulse ||= setInterval(() => {
      if (!this.#pending.length) {
        clearInterval(this.#pulse);
        this.#pulse = 0;
      } else if (performance.now() - this.#heard > SILENCE_MS) this.#connection.drop();
    }, 1000);
    if (this.#pending.length === 1) this.#heard = performance.now();
  }

  #embedded(event) {
    const at = this.#asked.get(event.revision) ?? NaN;
    for (const revision of this.#asked.keys()) if (revision <= event.revision) this.#asked.delete(revision);
    this.#listener.embedded({
      vector: vectorOf(event.embedding),
      revision: event.revision,
      offset: event.offset,
      drift: event.drift,
      usage: event.usage,
      serverMs: event.timing_ms.total,
      tripMs: performance.now() - at,
    });
  }

  #refused({ error, event_id, revision }) {
    const opening = event_id && event_id === this.#openId;
    if (opening) this.#openId = "";
    if (error.code === "not_found" && this.#session) return this.#beginAgain();
    if (opening) return this.#hold(error);
    if (event_id && event_id === this.#updateId) return this.#listener.watchRefused(error.message);
    const index = this.#pending.findIndex((change) => change.event.event_id === event_id);
    if (index < 0) return; // made to a change that was refused: it says nothing new
    if (LOST.has(error.code)) {
      this.#replace(revision ?? this.#base.revision);
      this.#sync();
      return;
    }
    this.#pending.length = index;
    this.#hold(error);
  }

  #hold(error) {
    const kind = PASSING.has(error.code) ? "overloaded" : "refused";
    this.#held = this.#told = true;
    this.#listener.held(kind, error.message);
    clearTimeout(this.#retry);
    if (kind === "overloaded") this.#retry = setTimeout(() => this.#resume(), RETRY_MS);
  }

  #resume() {
    clearTimeout(this.#retry);
    this.#held = false;
    if (this.#attached) this.#sync();
    else this.#open();
  }

  #flow() {
    if (this.#told) this.#listener.flowing();
    this.#told = false;
  }
}
