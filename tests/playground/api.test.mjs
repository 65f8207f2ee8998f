// Requests of the page: what they say of a refusal, and how many texts become vectors.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { ApiError, embedAll, info, promptFor, vectorOf } from "../../src/streambed/server/playground/api.js";

const encoded = (numbers) => Buffer.from(new Float32Array(numbers).buffer).toString("base64");
let replies;
let bodies;

beforeEach(() => {
  replies = [];
  bodies = [];
  mock.method(globalThis, "fetch", async (_, { body }) => {
    const { input } = JSON.parse(body ?? "{}");
    if (body) bodies.push(JSON.parse(body));
    const reply = replies.shift() ?? { data: input.map((text, index) => ({ index, embedding: encoded([text.length]) })), usage: {} };
    return reply instanceof Response ? reply : Response.json(reply);
  });
});

afterEach(() => mock.reset());

test("vectors are little-endian float32", () => {
  assert.deepEqual([...vectorOf(encoded([0.5, -2]))], [0.5, -2]);
});

test("a refusal is told in the server's words, and a proxy's by its status", async () => {
  replies = [Response.json({ error: { message: "busy" } }, { status: 429 }), new Response("<html>", { status: 502 })];
  await assert.rejects(info(), (error) => error instanceof ApiError && error.message === "busy" && error.passing);
  await assert.rejects(info(), { status: 502, message: "The server answered 502." });
  mock.method(globalThis, "fetch", () => Promise.reject(new TypeError()));
  await assert.rejects(info(), { status: 0, passing: true });
});

test("a prompt is asked for where there is one", () => {
  assert.deepEqual(promptFor({ prompts: { query: "" } }, "query"), { input_type: "query" });
  assert.deepEqual(promptFor({ prompts: {} }, "query"), {});
});

test("many texts go in batches, each text once and in order, also past a busy server", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const texts = Array.from({ length: 70 }, (_, n) => "a".repeat(n === 40 ? 70_000 : n + 1));
  const vectors = [];
  const take = (batch, first) => {
    assert.equal(first, vectors.length);
    vectors.push(...batch);
  };
  replies = [Response.json({}, { status: 503 })];
  const all = embedAll({ served_model_names: ["m"] }, texts, take, new AbortController().signal);
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(vectors.length, 0);
  mock.timers.tick(500);
  await all;
  assert.deepEqual(vectors.map(([length]) => length), texts.map((text) => text.length));
  assert.deepEqual(bodies.map(({ input }) => input.length), [32, 32, 8, 1, 29]);
});

test("what does not pass by itself ends the work", async () => {
  replies = [Response.json({ error: { message: "too long" } }, { status: 413 })];
  await assert.rejects(embedAll({ served_model_names: ["m"] }, ["a"], () => {}, new AbortController().signal), { message: "too long" });
});
