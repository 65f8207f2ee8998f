"""What Prometheus scrapes: docs/operations.md says what each series is for, `dashboards/` draws them.

Every label has a fixed set of values, and every series is there from the start: no path, model, key or id of a client's
becomes one. (The names of keys are the operator's.) What happens is counted where it happens; how things stand is asked of
the engine and the sessions when somebody scrapes.
"""

import contextlib
import functools
import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import torch
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

import streambed
from streambed import machine
from streambed.engine.engine import Engine
from streambed.engine.sequence import Lane
from streambed.engine.stats import StepReport
from streambed.errors import ERROR_TABLE
from streambed.server.usage import Usage
from streambed.streams.observer import Observer
from streambed.streams.registry import Registry
from streambed.wire import CLIENT_EVENTS

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which says when it was made

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
OUTCOMES = ("ok", "cancelled", "out_of_memory", *(error.code for error in ERROR_TABLE))
LANES = tuple(lane.name.lower() for lane in Lane)
REQUEST_LANES = ("query", "bulk")
"""Those of one-shot requests; how long a stream takes is in `probe_seconds`."""
NO_LANE = "none"
STAGES = ("queue", "tokenize", "compute", "serialize", "total")
Stage = Literal["queue", "tokenize", "compute", "serialize", "total"]
Series = TypeVar("Series", Counter, Histogram)
Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)
OTHER = "other"
"""Label for requests that match no route."""


class Metrics(Observer):
    """A server's series. The `Observer` of its streams; safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = functools.partial(Counter, namespace="streambed", registry=self.registry)
        histogram = functools.partial(Histogram, namespace="streambed", registry=self.registry)
        seconds, rows = functools.partial(histogram, buckets=SECONDS), functools.partial(histogram, buckets=ROWS)
        self._requests = counter("requests", "HTTP requests that have ended.", ("route", "lane", "outcome"))
        stages = seconds("request_seconds", "Seconds of one-shot requests for vectors.", ("lane", "stage"))
        self._stages = _expect(stages, REQUEST_LANES, STAGES)
        about = "HTTP requests in progress."
        self.in_progress = Gauge("requests_in_progress", about, namespace="streambed", registry=self.registry)
        events = counter("events", "Changes and embeddings asked of sessions.", ("type", "outcome"))
        self._events = _expect(events, (*CLIENT_EVENTS, OTHER), OUTCOMES)
        about = "Tokens of what was embedded, instruction and end token counted."
        self._tokens = _expect(counter("tokens", about, ("lane", "kind")), LANES, ("prompt", "cached", "computed"))
        self._step_seconds = seconds("step_seconds", "Seconds of the network's steps.")
        self._step_rows = rows("step_rows", "Rows of the network's steps, probes included.")
        self._probe_seconds = seconds("probe_seconds", "Seconds from the last character to the vector.")
        self._probe_rows = rows("probe_rows", "Rows computed for a session's vector.")
        self._skipped = counter("emits_skipped", "Automatic embeddings that gave way to a newer one.")
        self._commits = seconds("journal_commit_seconds", "Seconds of the journal's transactions.")
        entries = counter("journal_entries", "Entries of the journal.", ("outcome",))
        self._entries = _expect(entries, ("written", "refused"))

    def expect(self, lanes: Mapping[str, Iterable[str]]) -> None:
        """Has the series of these routes, templates such as `/v1/sessions/{session}`, in the lanes of each; anything else
        counts as `other`."""
        for route, each in {**lanes, OTHER: (NO_LANE,)}.items():
            _expect(self._requests, (route,), each, OUTCOMES)

    def watch(self, engine: Engine, registry: Registry, sockets: Any, usage: Usage, threshold: float) -> None:
        """Registers these for scrapes, and itself for the engine's steps. threshold: of `/readyz`."""
        self.registry.register(_Present(engine, registry, sockets, threshold))
        self.registry.register(_Keys(registry, sockets, usage))
        engine.compute.step_listeners.append(self._step)

    # What happens

    def request(self, route: str, lane: str, outcome: str) -> None:
        """An HTTP request has ended."""
        self._requests.labels(route, lane, outcome).inc()

    def stage(self, lane: str, stage: Stage, seconds: float) -> None:
        """A request for vectors has spent so long on something."""
        self._stages.labels(lane, stage).observe(seconds)

    def tokens(self, lane: str, prompt: int, cached: int, computed: int) -> None:
        """So many were embedded."""
        for kind, count in (("prompt", prompt), ("cached", cached), ("computed", computed)):
            self._tokens.labels(lane, kind).inc(count)

    def event(self, kind: str, outcome: str) -> None:
        self._events.labels(kind, outcome).inc()

    def probed(self, seconds: float, prompt_tokens: int, cached_tokens: int, computed_tokens: int) -> None:
        self._probe_seconds.observe(seconds)
        self._probe_rows.observe(computed_tokens)
        self.tokens("stream", prompt_tokens, cached_tokens, computed_tokens)

    def skipped(self) -> None:
        self._skipped.inc()

    def committed(self, entries: int, refused: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._entries.labels("written").inc(entries - refused)
        self._entries.labels("refused").inc(refused)

    def unwatch(self, engine: Engine) -> None:
        """Unregisters; the engine may go on."""
        engine.compute.step_listeners.remove(self._step)

    def _step(self, report: StepReport) -> None:
        self._step_seconds.observe(report.seconds)
        self._step_rows.observe(report.rows)

    async def serve(self, request: Request) -> Response:
        """All series, in Prometheus' text format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


def _expect(metric: Series, *values: Iterable[str]) -> Series:
    """With the series of all combinations of labels from the start."""
    for labels in itertools.product(*values):
        metric.labels(*labels)
    return metric


class _Present(Collector):
    """Present values, read at a scrape. Never waits for a step."""

    def __init__(self, engine: Engine, registry: Registry, sockets: Any, threshold: float) -> None:
        self._engine = engine
        self._registry = registry
        self._sockets = sockets
        self._threshold = threshold

    def collect(self) -> Iterator[Any]:
        engine, stats, info = self._engine, self._engine.stats(), self._engine.info
        stalled = stats.last_progress_s
        ready = engine.ready and stalled <= self._threshold
        yield _gauge("ready", "1 where /readyz says so.", float(ready))
        yield _gauge("engine_stalled_seconds", "Seconds that work waits without a step ending.", stalled)
        rows = CounterMetricFamily("streambed_rows", "Rows computed, and rows of padding beside them.", labels=["kind"])
        yield _filled(rows, {"wanted": stats.rows, "padding": stats.padding})
        waiting = {lane: queue.waiting for lane, queue in stats.lanes.items()}
        yield _gauges("queue_tasks", "Texts that wait to begin.", "lane", waiting)
        oldest = {lane: queue.oldest_s for lane, queue in stats.lanes.items()}
        yield _gauges("queue_oldest_seconds", "Age of the oldest of them.", "lane", oldest)
        yield _gauge("step_budget_rows", "Rows that a step may have, as measured from steps so far.", stats.step_rows)
        yield CounterMetricFamily("streambed_evictions", "Texts whose KV was evicted.", stats.evictions)
        yield CounterMetricFamily("streambed_rebuilds", "Sessions computed again after that.", stats.rebuilds)
        yield _gauge("kv_bytes", "Memory that KV takes.", stats.kv_bytes)
        yield _gauge("kv_budget_bytes", "Memory that it may take.", info.kv_memory)
        yield _gauge("cached_texts", "Finished texts whose KV is kept for later ones.", stats.cached_texts)
        warm, attached, total = self._registry.census()
        sessions = {"warm": warm, "cold": total - warm}
        yield _gauges("sessions", "Open sessions, by whether their KV is there.", "kv", sessions)
        yield _gauge("sessions_attached", "Sessions that a socket holds.", attached)
        yield _gauge("sockets", "Open WebSockets.", len(self._sockets))
        yield from _memory(engine)
        yield InfoMetricFamily(
            "streambed_build", "What runs here.",
            {"version": streambed.__version__, "torch": torch.__version__, "python": platform.python_version()},
        )  # fmt: skip
        yield InfoMetricFamily(
            "streambed_model", "What is served.",
            {"model": info.model, "fingerprint": info.fingerprint, "dtype": info.dtype, "device": info.device},
        )  # fmt: skip


class _Keys(Collector):
    """What each key with a name has asked for, and has."""

    def __init__(self, registry: Registry, sockets: Any, usage: Usage) -> None:
        self._registry, self._sockets, self._usage = registry, sockets, usage

    def collect(self) -> Iterator[Any]:
        requests = CounterMetricFamily("streambed_key_requests", "HTTP requests of a key.", labels=["key", "outcome"])
        tokens = CounterMetricFamily("streambed_key_tokens", "Tokens computed for a key.", labels=["key"])
        sessions = GaugeMetricFamily("streambed_key_sessions", "Open sessions of a key.", labels=["key"])
        sockets = GaugeMetricFamily("streambed_key_sockets", "Open WebSockets of a key.", labels=["key"])
        by_owner = self._sockets.by_owner()
        for owner, name, outcomes, computed in self._usage.by_name():
            for outcome, count in outcomes.items():
                requests.add_metric([name, outcome], count)
            tokens.add_metric([name], computed)
            sessions.add_metric([name], self._registry.count(owner))
            sockets.add_metric([name], by_owner[owner])
        yield from (requests, tokens, sessions, sockets)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"streambed_{name}", about, value)


def _gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    return _filled(GaugeMetricFamily(f"streambed_{name}", about, labels=[label]), values)


def _filled(family: Family, values: Mapping[str, float]) -> Family:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _memory(engine: Engine) -> Iterator[GaugeMetricFamily]:
    gpu, sizes = {}, machine.meminfo()
    names = {"total": "MemTotal", "available": "MemAvailable"}
    host = {kind: sizes[name] for kind, name in names.items() if name in sizes}  # not on every platform
    yield _gauges("host_memory_bytes", "Memory of the machine.", "kind", host)
    with contextlib.suppress(RuntimeError):  # a broken device is for /readyz to tell, and the rest is wanted then
        if (memory := engine.compute.memory()) is not None:
            gpu = {"total": memory.total, "used": memory.total - memory.free, "reserved": memory.reserved}
    yield _gauges("gpu_memory_bytes", "Memory of the accelerator, if one is used.", "kind", gpu)
