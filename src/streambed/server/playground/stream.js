import { promptFor, vectorOf } from "./api.js";
import { difference } from "./difference.js";

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
 * @property {{prompt_tokens: number, cached_tokens: number, computed_tokens: number}} usage
 * @property {number} serverMs
 * @property {number} tripMs from the input event to the reply; NaN where no keystroke asked for it
 */

/**
 * @typedef {object} Listener
 * @property {(embedding: Embedding) => void} embedded
 * @property {(revision: number, offset: number) => void} acknowledged
 * @property {(watch: string, score: number, offset: number) => void} triggered
 * @property {(words: string) => void} attached and what became of the session, if anything
 * @property {(kind: "overloaded" | "refused", words: string) => void} held
 * @property {() => void} flowing again
 * @property {() => void} asleep until the next change
 * @property {(words: string) => void} watchRefused
 */

/**
 * One session that follows a local text through lost sockets and restarted servers: the text at the acknowledged revision,
 * and the changes sent since, each with its revision.
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
  #unknown = false;
  #held = false;
  #told = false;
  #sleeping = false;
  #asked = new Map();
  #watches = [];
  #watched = [];
  #limits = { max_frame_bytes: 1 << 20 };
  #credit = 65_536;
  #ids = 0;
  #createId = "";
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
    if (this.#held) {
      clearTimeout(this.#retry);
      this.#held = false;
      if (!this.#attached) this.#create();
    }
    this.#sync();
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
    if (this.#session) {
      this.#connection.send({ type: "session.resume", session: this.#session.id, resume_token: this.#session.token });
    } else this.#create();
  }

  closed() {
    this.#attached = this.#held = false;
    this.#createId = this.#updateId = "";
    this.#watched = null;
    this.#asked.clear(); // what is sent later was not waited for since its keystroke
    this.#localAt = NaN;
    clearTimeout(this.#retry);
    clearInterval(this.#pulse);
    this.#pulse = 0;
  }

  /** Ends the session, whose text is erased. */
  end() {
    if (this.#session) this.#send({ type: "session.close" });
    this.#session = null;
    this.closed();
  }

  /** @param {object} event */
  received(event) {
    this.#heard = performance.now();
    if (event.session && this.#session && event.session !== this.#session.id && event.type !== "session.created") return;
    switch (event.type) {
      case "session.created":
        this.#base = { revision: event.revision, text: "" };
        this.#pending = [];
        this.#unknown = false;
        this.#attach(event, this.#session ? "The server had lost the session; a new one has the whole text." : "");
        break;
      case "session.resumed":
        this.#resumed(event);
        break;
      case "session.closed":
        this.#closedBy(event.reason);
        break;
      case "input_text.ack":
        this.#acknowledge(event.revision);
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

  #create() {
    if (this.#createId) return; // each change to a lost session says that it is lost
    this.#createId = this.#id();
    this.#watched = this.#watches;
    this.#connection.send({
      type: "session.create",
      event_id: this.#createId,
      emit: { on: "append" },
      offset_unit: "utf16",
      encoding_format: "base64",
      watch: this.#watches,
      ...promptFor(this.#facts, "query"),
    });
  }

  #attach(event, words) {
    this.#createId = "";
    this.#session = { id: event.session, token: event.resume_token };
    this.#limits = event.limits;
    this.#credit = Math.max(event.credit, 1024);
    this.#attached = true;
    this.#held = this.#told = false;
    this.#connection.proved();
    this.#listener.attached(words);
    this.#listener.acknowledged(this.#base.revision, event.offset);
    this.watch(this.#watches); // they may have changed meanwhile
    this.#sync();
  }

  #resumed(event) {
    const known = event.revision - this.#base.revision;
    if (known >= 0 && known <= this.#pending.length) {
      this.#acknowledge(event.revision);
      this.#unknown = this.#base.text.length !== event.offset;
    } else this.#unknown = true;
    if (this.#unknown) {
      this.#base = { revision: event.revision, text: "" };
      this.#pending = [];
    }
    for (const change of this.#pending) this.#send(change.event);
    this.#attach(
      event,
      event.kv === "cold" ? "Resumed: the server kept only its text and computes it again." : "Resumed where it was.",
    );
  }

  #closedBy(reason) {
    this.#attached = false;
    if (["expired", "closed", "taken_over"].includes(reason)) this.#create();
    if (reason !== "idle") return; // the socket ends too, and the next one resumes
    this.closed();
    this.#sleeping = true;
    this.#connection.stop();
    this.#listener.asleep();
  }

  #acknowledge(revision) {
    while (this.#pending.length && this.#base.revision < revision) {
      const change = this.#pending.shift();
      this.#base = { revision: change.event.base_revision + 1, text: change.after };
    }
  }

  #sync() {
    if (!this.#attached || this.#held) return;
    const newest = this.#pending.at(-1);
    const sent = newest ? newest.after : this.#base.text;
    const change = this.#unknown ? { start: 0, end: 0, text: this.#local } : difference(sent, this.#local);
    if (!change) return this.#flow();
    const inFlight = this.#pending.reduce((sum, each) => sum + each.event.text.length, 0);
    if (this.#pending.length && inFlight + change.text.length > this.#credit) return; // the next acknowledgement comes here again
    const event = {
      ...this.#eventOf(change, sent.length),
      event_id: this.#id(),
      base_revision: this.#base.revision + this.#pending.length,
    };
    if (change.text.length * 3 > this.#limits.max_frame_bytes - 1024 && !this.#fits(event)) {
      this.#hold("refused", "This change is too large for one WebSocket frame. Paste it in pieces.");
      return;
    }
    this.#unknown = false;
    this.#pending.push({ event, after: this.#local });
    this.#asked.set(event.base_revision + 1, this.#localAt);
    this.#localAt = NaN;
    this.#send(event);
    this.#listen();
  }

  #eventOf({ start, end, text }, length) {
    if (this.#unknown) return { type: "input_text.set", text };
    if (start === length) return { type: "input_text.append", text };
    return { type: "input_text.replace", start, end, text };
  }

  #fits(event) {
    return new TextEncoder().encode(JSON.stringify(event)).length < this.#limits.max_frame_bytes - 128;
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
    if (event_id === this.#createId && !this.#attached) {
      this.#createId = "";
      this.#hold(PASSING.has(error.code) ? "overloaded" : "refused", error.message, () => this.#create());
      return;
    }
    if (event_id && event_id === this.#updateId) {
      this.#listener.watchRefused(error.message);
      return;
    }
    if (error.code === "not_found") {
      this.#attached = false;
      this.#create();
      return;
    }
    const index = this.#pending.findIndex((change) => change.event.event_id === event_id);
    if (index < 0) return; // made to a change that was refused: it says nothing new
    this.#pending.length = index;
    if (LOST.has(error.code)) {
      this.#base = { revision: revision ?? this.#base.revision, text: "" };
      this.#pending = [];
      this.#unknown = true;
      this.#sync();
    } else this.#hold(PASSING.has(error.code) ? "overloaded" : "refused", error.message, () => this.#sync());
  }

  #hold(kind, words, again) {
    this.#held = this.#told = true;
    this.#listener.held(kind, words);
    clearTimeout(this.#retry);
    if (kind !== "overloaded") return;
    this.#retry = setTimeout(() => {
      this.#held = false;
      again();
    }, RETRY_MS);
  }

  #flow() {
    if (this.#told) this.#listener.flowing();
    this.#told = false;
  }
}
