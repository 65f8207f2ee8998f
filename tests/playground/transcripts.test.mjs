// The page's stream says and hears what tests/transcripts/ demands of every client; the Python ledger passes the same.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { Page } from "./page.mjs";

const TRANSCRIPTS = new URL("../transcripts/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, TRANSCRIPTS), "utf8"));
const EVENTS = read("events.json");

for (const name of readdirSync(TRANSCRIPTS).filter((each) => each.endsWith(".json") && each !== "events.json")) {
  test(name, (context) => {
    context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
    const page = new Page();
    const ids = {};
    const steps = {
      connection: (what) => (what === "opens" ? page.stream.opened({}) : page.stream.closed()),
      writes: (text) => page.stream.write(text, NaN),
      server(event) {
        const event_id = event.event_id && { event_id: ids[event.event_id] };
        page.stream.received({ ...EVENTS[event.type], ...event, ...event_id });
      },
      later: () => context.mock.timers.tick(1000),
      sees(expected) {
        const seen = { text: page.stream.text, acknowledged: page.acknowledged, told: page.told };
        for (const key in expected) assert.equal(seen[key], expected[key], key);
      },
    };
    for (const [number, { only = "page", as: given, ...step }] of read(name).entries()) {
      if (only !== "page") continue;
      const [[kind, what]] = Object.entries(step);
      if (kind === "client") {
        const frame = page.sent.shift();
        assert.deepEqual(Object.fromEntries(Object.keys(what).map((key) => [key, frame?.[key]])), what, `step ${number}`);
        if (given) ids[given] = frame.event_id;
      } else {
        assert.deepEqual(page.sent, [], `step ${number}: sent beside what it must`);
        steps[kind](what);
      }
    }
    assert.deepEqual(page.sent, []);
  });
}
