// What the page's stream does that no other client has to: see transcripts.test.mjs for what all do.
import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Page } from "./page.mjs";

const OPEN = { type: "session.created", session: "one", resume_token: "secret", revision: 0, offset: 0, kv: "warm", credit: 65_536, limits: { max_frame_bytes: 1 << 20 } };

let page;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  page = new Page();
});

function open(fields = {}) {
  page.stream.opened({ prompts: { query: "" } });
  page.stream.received({ ...OPEN, ...fields });
  return page.sent.splice(0);
}

const acknowledge = (revision, offset) => page.stream.received({ type: "input_text.ack", session: "one", revision, offset });

test("a session is opened with what the page counts and shows", () => {
  page.stream.watch([{ id: "w", text: "a", threshold: 0.5 }]);
  const [created] = open();
  assert.equal(created.offset_unit, "utf16");
  assert.equal(created.encoding_format, "base64");
  assert.equal(created.input_type, "query");
  assert.deepEqual(created.watch, [{ id: "w", text: "a", threshold: 0.5 }]);
  assert.deepEqual(page.updates, [], "and not told again what it was opened with");
});

test("places are in UTF-16, and no change cuts a pair", () => {
  open();
  page.stream.write("🌊 and 🌋", 0);
  page.stream.write("🌊 or 🌋", 0);
  page.stream.write("🌋 or 🌋", 0);
  const [, second, third] = page.sent;
  assert.deepEqual([second.start, second.end, second.text], [3, 6, "or"]);
  assert.deepEqual([third.start, third.end, third.text], [0, 2, "🌋"]);
});

test("what no frame has room for goes in pieces, and a whole text too", () => {
  const text = "🌊\u0000".repeat(5000);
  open({ limits: { max_frame_bytes: 8192 }, credit: 4096 });
  page.stream.write(text, 0);
  let held = "";
  for (let revision = 1; page.sent.length; revision++) {
    for (const frame of page.sent.splice(0)) {
      assert.ok(JSON.stringify(frame).length < 8192);
      assert.ok(frame.text.isWellFormed());
      assert.equal(frame.type, "input_text.append");
      held += frame.text;
      acknowledge(frame.base_revision + 1, held.length);
    }
  }
  assert.equal(held, text);
  page.stream.closed();
  page.stream.opened({});
  page.sent.length = 0;
  page.stream.received({ ...OPEN, type: "session.resumed", revision: 99, offset: 3 });
  assert.equal(page.sent[0].type, "input_text.set");
  assert.equal(page.sent[0].base_revision, 99);
  held = "";
  while (page.sent.length) {
    for (const frame of page.sent.splice(0)) {
      held += frame.text;
      acknowledge(frame.base_revision + 1, held.length);
    }
  }
  assert.equal(held, text);
});

test("no more is on its way than there is credit for", () => {
  open({ credit: 1024 });
  page.stream.write("a".repeat(1000), 0);
  page.stream.write("a".repeat(1020), 0);
  page.stream.write("a".repeat(1040), 0);
  assert.equal(page.sent.length, 2);
  acknowledge(1, 1000);
  assert.deepEqual(page.sent.map((frame) => frame.text.length), [1000, 20, 20]);
});

test("a refused change is made again from what is then there", () => {
  open();
  page.stream.write("a", 0);
  const id = page.sent[0].event_id;
  page.stream.received({ type: "error", session: "one", event_id: id, error: { code: "overloaded", message: "busy" } });
  page.stream.write("ab", 0); // before its time
  assert.deepEqual(page.sent.map((frame) => [frame.base_revision, frame.text]), [[0, "a"], [0, "ab"]]);
  mock.timers.tick(10_000);
  assert.equal(page.sent.length, 2, "once");
});

test("an idle stream sleeps until something is written", () => {
  open();
  page.stream.received({ type: "session.closed", session: "one", reason: "idle" });
  assert.ok(page.asleep);
  assert.deepEqual(page.connected, ["stop"]);
  page.stream.write("a", 0);
  assert.deepEqual(page.connected, ["stop", "start"]);
  page.stream.opened({});
  page.stream.received({ ...OPEN, type: "session.resumed" });
  assert.deepEqual(page.sent.map((frame) => frame.type), ["session.resume", "input_text.append"]);
});

test("silence while an answer is due is a lost connection", (context) => {
  open();
  const now = context.mock.method(performance, "now", () => 0);
  page.stream.write("a", 0);
  now.mock.mockImplementation(() => 21_000);
  mock.timers.tick(1000);
  assert.deepEqual(page.connected, ["drop"]);
});

test("what an answer waited for since its keystroke", (context) => {
  open();
  context.mock.method(performance, "now", () => 30);
  page.stream.write("a", 10);
  const vector = Buffer.from(new Float32Array([0.5, -1]).buffer).toString("base64");
  page.stream.received({ type: "embedding.done", session: "one", revision: 1, offset: 1, embedding: vector, usage: {}, timing_ms: { total: 5 } });
  const [embedding] = page.embeddings;
  assert.deepEqual([...embedding.vector], [0.5, -1]);
  assert.equal(embedding.tripMs, 20);
});

test("refused watches are told, and those of a lost session go to the next", () => {
  open();
  page.stream.watch([{ id: "w" }]);
  const [update] = page.updates;
  page.stream.received({ type: "error", session: "one", event_id: update.event_id, error: { code: "too_large", message: "too long" } });
  assert.equal(page.told, "too long");
  page.stream.received({ type: "error", session: "one", event_id: update.event_id, error: { code: "not_found", message: "gone" } });
  assert.deepEqual(page.sent.map((frame) => [frame.type, frame.watch]), [["session.create", [{ id: "w" }]]]);
});

test("a stream that was ended begins anew, and what comes late is not for it", () => {
  open();
  page.stream.write("a", 0);
  page.stream.end();
  assert.equal(page.sent.at(-1).type, "session.close");
  page.stream.received({ type: "input_text.ack", session: "one", revision: 1, offset: 1 });
  assert.equal(page.acknowledged, 0);
  page.sent.length = 0;
  page.stream.opened({});
  page.stream.received({ ...OPEN, session: "two" });
  assert.deepEqual(page.sent.map((frame) => [frame.type, frame.text]), [["session.create", undefined], ["input_text.append", "a"]]);
  assert.equal(page.told, null);
});
