import { Stream } from "../../src/streambed/server/playground/stream.js";

/** A stream without a socket or a document: keeps what it sends, and what it tells its user. */
export class Page {
  sent = [];
  updates = []; // of watches, which other clients may not have
  acknowledged = 0;
  told = null;
  asleep = false;
  embeddings = [];
  connected = [];

  constructor() {
    const connection = {
      send: (event) => (event.type === "session.update" ? this.updates : this.sent).push(event) > 0,
      proved() {},
      start: () => this.connected.push("start"),
      stop: () => this.connected.push("stop"),
      drop: () => this.connected.push("drop"),
    };
    this.stream = new Stream(connection, {
      attached: () => (this.told = null),
      flowing: () => (this.told = null),
      held: (kind, words) => (this.told = words),
      asleep: () => (this.asleep = true),
      acknowledged: (revision) => (this.acknowledged = revision),
      embedded: (embedding) => this.embeddings.push(embedding),
      triggered() {},
      watchRefused: (words) => (this.told = words),
    });
  }
}
