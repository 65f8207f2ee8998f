import { leave } from "./api.js";
import { Chart } from "./chart.js";
import { Colours } from "./colour.js";
import { Connection } from "./connection.js";
import { Editor } from "./editor.js";
import { KeyForm } from "./key.js";
import { Map2D } from "./map.js";
import { count, figure, score } from "./numbers.js";
import { EXAMPLES, prose } from "./prose.js";
import { Repost } from "./repost.js";
import { Search } from "./search.js";
import { Status } from "./status.js";
import { Stream } from "./stream.js";
import { Strip } from "./strip.js";
import { Watches } from "./watches.js";

const LONG_WORDS = 2000;
const TYPED_PER_SECOND = 15;

const part = (id) => document.getElementById(id);
const set = (id, words) => {
  if (part(id).textContent !== words) part(id).textContent = words;
};

const colours = new Colours(() => drawAll());
const strip = new Strip(part("strip"), colours);
const latency = new Chart(part("latency"), colours, [{ colour: "accent", name: "server" }, { colour: "warm", name: "round trip" }], 10, figure, true);
const drift = new Chart(part("drift"), colours, [{ colour: "accent", name: "drift" }], 0.1, score);
const map = new Map2D(part("map"), part("map-text"), colours);
const search = new Search(part, map);
const status = new Status(part);
const repost = new Repost(part);

let newest = null;
let frame = 0;

const connection = new Connection({
  connecting: () => status.show("connecting"),
  opened(facts) {
    set("model", `${facts.served_model_names[0]} · ${count(facts.dimensions)} dimensions · ${facts.dtype} · ${facts.device}`);
    part("forget").hidden = !localStorage.keyed;
    stream.opened(facts);
    watches.use(facts);
    repost.use(facts);
    search.use(facts);
  },
  received: (event) => stream.received(event),
  closed: () => stream.closed(),
  waiting: (until, why) => status.show("waiting", `${why} What you type is kept, and sent later.`, { until }),
  locked() {
    status.show("locked", stream.text ? "The server requires the key again. Your text is kept." : "");
    part("forget").hidden = true;
    delete localStorage.keyed;
    keyForm.ask();
  },
});

const stream = new Stream(connection, {
  attached: (words) => status.show("live", words, { passing: true }),
  flowing: () => status.show("live"),
  held: (kind, words) => status.show(kind, kind === "overloaded" ? `${sentence(words)} Trying again in a second.` : `${sentence(words)} The vector still shows the text before this change.`),
  asleep: () => status.show("asleep", "The idle connection was closed. Type to continue."),
  acknowledged(revision, offset) {
    set("revision", count(revision));
    set("offset", count(offset));
    if (offset === 0) rest();
  },
  embedded(embedding) {
    if (!stream.text) return; // of a text that was cleared meanwhile
    newest = embedding;
    const heard = performance.now();
    strip.add(embedding.vector);
    drift.add([embedding.drift ?? NaN]);
    latency.add([embedding.serverMs, embedding.tripMs]);
    search.follow(embedding.vector, embedding.offset);
    watches.follow(embedding.vector);
    repost.follow(embedding);
    draw(heard);
  },
  triggered: (watch, value, offset) => watches.triggered(watch, value, offset),
  watchRefused: (words) => watches.refused(`Refused: ${words}`),
});

const watches = new Watches(part, (list) => stream.watch(list));

const editor = new Editor(part("text"), (text, at) => {
  stream.write(text, at);
  repost.write(text, at);
});

const keyForm = new KeyForm(part("key"), () => {
  localStorage.keyed = 1; // the cookie itself cannot be seen
  part("text").focus();
  connection.start();
});

/** The empty text has no vector. */
function rest() {
  newest = null;
  strip.clear();
  search.rest();
  watches.follow(null);
  map.rest();
  draw(NaN);
}

/** Many replies may come between two frames; the page shows the newest. */
function draw(heard) {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    paint();
    if (!Number.isNaN(heard)) measure(heard);
  });
}

function paint() {
  strip.draw();
  latency.draw();
  drift.draw();
  search.draw();
  watches.draw();
  repost.draw();
  paintNumbers();
}

function paintNumbers() {
  const { prompt_tokens: all = 0, cached_tokens: cached = 0, computed_tokens: computed = 0 } = newest?.usage ?? {};
  set("tokens", count(all));
  set("cached", count(cached));
  set("computed", count(computed));
  part("cached-bar").style.flexGrow = String(cached);
  part("computed-bar").style.flexGrow = String(computed);
  part("computed-bar").hidden = !computed;
  set("server-ms", newest ? figure(newest.serverMs) : "–");
  set("trip-ms", newest ? figure(newest.tripMs) : "–");
}

/** From the reply to the frame that shows it, for browsers' tools and the benchmark. */
function measure(heard) {
  const channel = new MessageChannel();
  channel.port1.onmessage = () => {
    performance.measure("reply to screen", { start: heard, end: performance.now() });
    performance.clearMeasures("reply to screen");
    channel.port1.close();
  };
  channel.port2.postMessage(null); // comes after the frame was painted
}

function drawAll() {
  map.draw();
  draw(NaN);
}

function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

let example = 0;
part("example").addEventListener("click", () => {
  editor.type(EXAMPLES[example++ % EXAMPLES.length], TYPED_PER_SECOND);
});
part("long").addEventListener("click", () => editor.append((editor.text && "\n\n") + prose(LONG_WORDS)));
part("clear").addEventListener("click", () => {
  editor.set("");
  part("text").focus();
});
part("retry").addEventListener("click", () => {
  connection.hurry();
  part("text").focus(); // the button goes away
});
part("forget").addEventListener("click", async () => {
  stream.end();
  connection.stop();
  await leave().catch(() => {});
  connection.start();
});
addEventListener("locked", () => {
  stream.closed();
  connection.start();
});
addEventListener("online", () => connection.hurry());
addEventListener("pagehide", () => {
  stream.end();
  connection.stop();
});
addEventListener("pageshow", () => {
  if (editor.text) stream.write(editor.text, NaN); // what browsers give back
  connection.start();
});
new ResizeObserver(drawAll).observe(document.querySelector("main"));

watches.add("I want my money back", 0.5);
watches.add("The server is down", 0.5);
drawAll();
