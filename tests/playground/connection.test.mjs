// One socket at a time, opened again until it is stopped.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Connection } from "../../src/streambed/server/playground/connection.js";

class Socket {
  static OPEN = 1;
  static all = [];
  readyState = 0;
  sent = [];

  constructor(address) {
    this.address = String(address);
    Socket.all.push(this);
  }

  send(data) {
    this.sent.push(JSON.parse(data));
  }

  close() {
    this.readyState = 3;
  }

  opens() {
    this.readyState = 1;
    this.onopen();
  }

  ends(code) {
    this.readyState = 3;
    this.onclose({ code });
  }
}

let told;
let answer;
let connection;
const settled = () => new Promise((resolve) => setImmediate(resolve));

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(Math, "random", () => 1);
  mock.method(globalThis, "fetch", async () => {
    if (answer instanceof Error) throw answer;
    return Response.json(answer.body, { status: answer.status });
  });
  globalThis.WebSocket = Socket;
  Socket.all = [];
  told = [];
  answer = { status: 200, body: { dtype: "float32" } };
  const tell = (kind) => (what) => told.push(what === undefined ? [kind] : [kind, what]);
  connection = new Connection({
    opened: tell("opened"), received: tell("received"), closed: tell("closed"), locked: tell("locked"),
    connecting: tell("connecting"), waiting: (until, why) => told.push(["waiting", why]),
  });
});

afterEach(() => mock.reset());

async function open() {
  await connection.start();
  Socket.all.at(-1).opens();
}

const kinds = () => told.splice(0).map(([kind]) => kind);

test("opens where the server's facts came from, and passes events on", async () => {
  assert.equal(connection.send({ type: "a" }), false, "there is none yet");
  await open();
  const [socket] = Socket.all;
  assert.match(socket.address, /\/v1\/embeddings$/);
  assert.deepEqual(told, [["connecting"], ["opened", { dtype: "float32" }]]);
  assert.equal(connection.send({ type: "a" }), true);
  assert.deepEqual(socket.sent, [{ type: "a" }]);
  socket.onmessage({ data: '{"type": "b"}' });
  assert.deepEqual(told.at(-1), ["received", { type: "b" }]);
});

test("comes back after longer and longer waits, and soon again once it was proved", async () => {
  await open();
  kinds();
  Socket.all[0].ends(1012);
  assert.deepEqual(told, [["closed"], ["waiting", "The server is shutting down."]]);
  answer = new TypeError("refused");
  for (const wait of [400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]) {
    kinds();
    mock.timers.tick(wait - 1);
    assert.deepEqual(told, []);
    mock.timers.tick(1);
    await settled();
    assert.deepEqual(told, [["connecting"], ["waiting", "The server cannot be reached."]]);
  }
  answer = { status: 200, body: {} };
  mock.timers.tick(15_000);
  await settled();
  Socket.all[1].opens();
  connection.proved();
  Socket.all[1].ends(1006);
  mock.timers.tick(400);
  await settled();
  assert.equal(Socket.all.length, 3);
});

test("a key that is asked for stops it", async () => {
  answer = { status: 401, body: { error: { message: "a key" } } };
  await connection.start();
  assert.deepEqual(kinds(), ["connecting", "locked"]);
  mock.timers.tick(60_000);
  assert.deepEqual(told, []);
});

test("what it is told when no socket opens", async () => {
  await connection.start();
  Socket.all[0].ends(1006);
  assert.match(told.at(-1)[1], /does not accept a WebSocket/);
  answer = { status: 503, body: { error: { message: "still loading" } } };
  mock.timers.tick(400);
  await settled();
  assert.deepEqual(told.at(-1), ["waiting", "still loading"]);
});

test("nothing of a socket that was given up comes through", async () => {
  await open();
  const [old] = Socket.all;
  connection.stop();
  kinds();
  old.onmessage({ data: "{}" });
  old.ends(1006);
  mock.timers.tick(60_000);
  assert.deepEqual(told, []);
  assert.equal(connection.send({}), false);
});

test("a socket that is dropped is closed at once and replaced", async () => {
  await open();
  kinds();
  connection.drop();
  assert.equal(Socket.all[0].readyState, 3);
  assert.deepEqual(kinds(), ["closed", "waiting"]);
  connection.hurry();
  await settled();
  assert.equal(Socket.all.length, 2);
  connection.hurry(); // it no longer waits
  assert.equal(Socket.all.length, 2);
});

test("of two attempts the newer one counts", async () => {
  let first;
  mock.method(globalThis, "fetch", (_, { signal }) => new Promise((resolve, reject) => {
    if (first) resolve(Response.json({}));
    else signal.addEventListener("abort", () => reject(signal.reason));
    first = true;
  }));
  await Promise.all([connection.start(), connection.start()]);
  assert.equal(Socket.all.length, 1);
  assert.deepEqual(kinds(), ["connecting", "connecting"]);
});
