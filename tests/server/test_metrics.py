"""What is counted is what happened; series are there from the start and clients cannot make more."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streambed import Engine
from streambed.errors import ERROR_TABLE, Internal
from streambed.server.guard import Admission
from streambed.server.metrics import OUTCOMES, SECONDS, Metrics
from streambed.settings import Settings
from tests.checkpoints import load_engine
from tests.server.conftest import Live, Serve, guard_of, until
from tests.server.test_process import Process
from tests.server.test_socket import open_peer

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(live: Live) -> Series:
    reply = live.client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return series(reply.text)


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def rise(live: Live, before: Series, name: str, **labels: str) -> float:
    return value(scrape(live), name, **labels) - value(before, name, **labels)


def test_everything_is_there_before_the_first_request(serve: Serve) -> None:
    found = scrape(serve())
    for (name, labels), number in found.items():
        if re.fullmatch(
            r"streambed_(requests|events|tokens|journal_entries|emits_skipped)_total|.*_(bucket|count)", name
        ):
            assert number == 0 or ("route", "/metrics") in labels, (name, labels)
    routes = {dict(labels)["route"] for name, labels in found if name == "streambed_requests_total"}
    assert {"/v1/embeddings", "/v1/embeddings/prefixes", "/v1/sessions/{session}/append", "/livez", "other"} <= routes
    for outcome in OUTCOMES:
        assert value(found, "streambed_requests_total", route="/v1/embeddings", lane="bulk", outcome=outcome) == 0
    stages = {tuple(sorted(labels)) for name, labels in found if name == "streambed_request_seconds_count"}
    assert len(stages) == 2 * 5
    bounds = {dict(labels)["le"] for name, labels in found if name == "streambed_step_seconds_bucket"}
    assert bounds == {str(each) for each in SECONDS} | {"+Inf"}
    assert (SECONDS[0], SECONDS[-1]) == (0.001, 60)


def test_a_request_and_its_stages(live: Live) -> None:
    before = scrape(live)
    body = live.post(["a brook", "the sea and more"]).json()
    labels = {"route": "/v1/embeddings", "lane": "query", "outcome": "ok"}
    assert rise(live, before, "streambed_requests_total", **labels) == 1
    for stage in ("queue", "tokenize", "compute", "serialize", "total"):
        assert rise(live, before, "streambed_request_seconds_count", lane="query", stage=stage) == 1
    after = scrape(live)

    def seconds(stage: str) -> float:
        name, labels = "streambed_request_seconds_sum", {"lane": "query", "stage": stage}
        return value(after, name, **labels) - value(before, name, **labels)

    assert seconds("total") >= seconds("tokenize") + seconds("serialize") > 0
    tokens = {
        kind: rise(live, before, "streambed_tokens_total", lane="query", kind=kind) for kind in ("prompt", "computed")
    }
    assert tokens["prompt"] == body["usage"]["prompt_tokens"]
    assert rise(live, before, "streambed_step_rows_sum") == tokens["computed"]
    assert rise(live, before, "streambed_rows_total", kind="wanted") == tokens["computed"]
    live.post("a brook again and again")
    before = scrape(live)
    live.post("a brook again and again")
    assert rise(live, before, "streambed_tokens_total", lane="query", kind="cached") > 0


def test_lanes(live: Live) -> None:
    before = scrape(live)
    live.post("a", priority="bulk")
    assert rise(live, before, "streambed_requests_total", route="/v1/embeddings", lane="bulk", outcome="ok") == 1
    live.post("a", priority="bulk", dimensions=1)
    labels = {"route": "/v1/embeddings", "lane": "bulk", "outcome": "invalid_request"}
    assert rise(live, before, "streambed_requests_total", **labels) == 1
    live.client.post("/v1/embeddings/prefixes", json={"model": live.model, "input": "a brook. the sea."})
    labels = {"route": "/v1/embeddings/prefixes", "lane": "query", "outcome": "ok"}
    assert rise(live, before, "streambed_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("method", "path", "more", "route", "lane", "outcome"),
    [
        ("GET", "/none/of/these", {}, "other", "none", "not_found"),
        ("POST", "/v1/embeddings", {"content": b"{"}, "/v1/embeddings", "query", "unsupported_media"),
        ("POST", "/v1/embeddings", {"json": {"input": "a"}}, "/v1/embeddings", "query", "invalid_request"),
        ("POST", "/v1/embeddings", {"json": {"input": "a", "model": "x"}}, "/v1/embeddings", "query", "not_found"),
        ("GET", "/v1/embeddings", {}, "/v1/embeddings", "query", "invalid_request"),
        ("GET", "/v1/sessions/ses_x", {}, "/v1/sessions/{session}", "stream", "not_found"),
        ("POST", "/tokenize", {"json": {"input": "a"}}, "/tokenize", "none", "ok"),
        ("GET", "/livez", {}, "/livez", "none", "ok"),
        ("GET", "/playground/app.js", {}, "/playground", "none", "ok"),
        (
            "POST",
            "/v1/sessions",
            {"headers": {"Origin": "https://a.example"}},
            "/v1/sessions",
            "stream",
            "forbidden_origin",
        ),
    ],
)
def test_outcomes(live: Live, method: str, path: str, more: Any, route: str, lane: str, outcome: str) -> None:
    before = scrape(live)
    live.client.request(method, path, **more)

    def risen() -> list[Any]:
        after = scrape(live)
        return [
            labels
            for (name, labels), number in before.items()
            if name == "streambed_requests_total"
            and after[name, labels] != number
            and ("route", "/metrics") not in labels
        ]

    until(lambda: risen())  # a file's request ends a moment after its last byte
    (labels,) = risen()
    assert dict(labels) == {"route": route, "lane": lane, "outcome": outcome}


def test_timeout_and_overload(serve: Serve) -> None:
    live = serve(Settings(drain=5.0, max_requests=1))
    labels = {"route": "/v1/embeddings", "lane": "query"}
    before = scrape(live)
    assert live.post("word " * 400, timeout_ms=1).status_code == 504
    assert rise(live, before, "streambed_requests_total", outcome="deadline", **labels) == 1
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with live.connect() as connection:
        connection.sendall(head + b"Content-Length: 9\r\n\r\n{")  # its body does not end
        until(lambda: value(scrape(live), "streambed_requests_in_progress") == 2)
        with guard_of(live, Admission).places["http"].open("") as place:
            place.take(1)
            assert live.post("a").status_code == 429
        assert rise(live, before, "streambed_requests_total", outcome="overloaded", **labels) == 1
    until(lambda: rise(live, before, "streambed_requests_total", outcome="cancelled", **labels) == 1)
    assert value(scrape(live), "streambed_requests_in_progress") == 1, "the scrape itself"


def test_memory_that_runs_out_is_told_apart(engine: Engine, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    before = scrape(live)

    def fail(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(engine.compute._device, "run", fail)
    assert live.post("a text that is in no cache").status_code == 500
    labels = {"route": "/v1/embeddings", "lane": "query", "outcome": "out_of_memory"}
    assert rise(live, before, "streambed_requests_total", **labels) == 1
    monkeypatch.undo()
    assert live.post("a").status_code == 200
    live.errors.clear()
    error = Internal("x")
    assert error.outcome == "internal"
    assert set(OUTCOMES) == {"ok", "cancelled", "out_of_memory"} | {each.code for each in ERROR_TABLE}


def test_streams(live: Live) -> None:
    before = scrape(live)
    with open_peer(live) as peer:
        created = peer.create(emit={"on": "append"})
        session = created["session"]
        peer.ask("input_text.append", session=session, text="a brook")
        peer.until("embedding.done", revision=1)
        peer.ask("embedding.create", session=session)
        peer.ask("input_text.append", session=session, text="x", base_revision=7)
        peer.ask("input_text.nonsense", session=session)
        after = scrape(live)
        assert value(after, "streambed_sockets") == 1
        assert value(after, "streambed_sessions", kv="warm") >= 1
        assert value(after, "streambed_sessions_attached") == 1
        counts = {
            (dict(labels)["type"], dict(labels)["outcome"]): after[name, labels] - number
            for (name, labels), number in before.items()
            if name == "streambed_events_total" and after[name, labels] != number
        }
        assert counts == {
            ("session.create", "ok"): 1,
            ("input_text.append", "ok"): 1,
            ("input_text.append", "revision_gap"): 1,
            ("embedding.create", "ok"): 1,
            ("other", "invalid_request"): 1,
        }
        assert rise(live, before, "streambed_probe_seconds_count") == 2
        assert rise(live, before, "streambed_probe_rows_count") == 2
        assert rise(live, before, "streambed_tokens_total", lane="stream", kind="prompt") > 0
        live.engine.evict()
        assert value(scrape(live), "streambed_sessions", kv="cold") >= 1
        peer.ask("embedding.create", session=session)
        assert rise(live, before, "streambed_rebuilds_total") == 1
        peer.ask("session.close", session=session)
    until(lambda: value(scrape(live), "streambed_sockets") == 0)


def test_skipped_emits(live: Live) -> None:
    before = scrape(live)
    with open_peer(live) as peer:
        session = peer.create(emit={"on": "append"})["session"]
        for _ in range(200):
            peer.send("input_text.append", session=session, text="word ")
        peer.until("embedding.done", revision=200)
        told = sum(event["type"] == "embedding.skipped" for event in peer.seen)
        assert rise(live, before, "streambed_emits_skipped_total") >= told
        peer.ask("session.close", session=session)


def test_the_journal(serve: Serve, tmp_path: Path) -> None:
    live = serve(Settings(drain=5.0, journal=str(tmp_path / "journal")))
    with open_peer(live) as peer:
        session = peer.create()["session"]
        peer.ask("input_text.append", session=session, text="a")
        peer.ask("session.close", session=session)
    found = scrape(live)
    assert value(found, "streambed_journal_entries_total", outcome="written") == 3
    assert value(found, "streambed_journal_entries_total", outcome="refused") == 0
    assert 1 <= value(found, "streambed_journal_commit_seconds_count") <= 3


def test_work_that_waits(engine: Engine, serve: Serve) -> None:
    live = serve()
    entered, free = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        free.wait(20)

    holder = threading.Thread(target=lambda: engine.compute._call(hold))
    holder.start()
    entered.wait(20)
    asker = threading.Thread(target=lambda: live.post("a text that waits"))
    asker.start()
    try:
        until(lambda: value(scrape(live), "streambed_queue_tasks", lane="query") == 1)
        found = scrape(live)
        assert value(found, "streambed_queue_oldest_seconds", lane="query") > 0
        assert value(found, "streambed_queue_tasks", lane="bulk") == 0
        assert value(found, "streambed_engine_stalled_seconds") > 0
        assert value(found, "streambed_ready") == 1
    finally:
        free.set()
        asker.join()
        holder.join()
    assert value(scrape(live), "streambed_queue_tasks", lane="query") == 0


def test_ready(serve: Serve, tiny_checkpoint: Path) -> None:
    with load_engine(tiny_checkpoint) as own:
        live = serve(engine=own)
        assert value(scrape(live), "streambed_ready") == 1
        own.close()
        assert value(scrape(live), "streambed_ready") == 0
        (model,) = [dict(labels) for name, labels in scrape(live) if name == "streambed_model_info"]
        assert model["fingerprint"] == own.info.fingerprint


def test_clients_make_no_series(serve: Serve) -> None:
    live = serve(Settings(drain=5.0), keys=("key",))
    before = set(scrape(live))
    for number in range(40):
        live.client.get(f"/path/{number}")
        live.client.request(f"METHOD{number}", "/v1/embeddings")
        live.client.post("/v1/embeddings", json={"model": f"m{number}", "input": "a"})
        live.client.get("/v1/models", headers={"Authorization": f"Bearer {number}"})
        live.client.get(f"/v1/sessions/ses_{number}", headers={"X-Request-Id": f"id-{number}"})
    assert set(scrape(live)) == before


@pytest.mark.slow
def test_ten_thousand_make_none_either(serve: Serve) -> None:
    live = serve(Settings(drain=5.0), keys=("key",))
    before = set(scrape(live))
    for number in range(10_000):
        path = ("/v1/models", f"/v1/models/{number}", f"/v1/sessions/{number}")[number % 3]
        live.client.get(path, headers={"Authorization": f"Bearer k{number}"} if number % 2 else {})
        if number % 10 == 0:
            live.client.post("/v1/embeddings", json={"model": f"model {number}", "input": f"{number}"})
    assert set(scrape(live)) == before


def test_the_key_is_needed(serve: Serve) -> None:
    live = serve(Settings(drain=5.0), keys=("key",))
    assert live.client.get("/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
    assert scrape(live)


def test_a_listener_of_its_own(tiny_checkpoint: Path) -> None:
    common = ("--model", tiny_checkpoint, "--port", "0", "--threads", "1", "--dtype", "float32")
    process = Process(*common, "--metrics-port", "0", "--api-key", "secret").ready()
    try:
        match = re.search(r"Metrics: (http://127.0.0.1:\d+/metrics)", process.output)
        assert match
        found = series(httpx.get(match[1], trust_env=False).text)
        assert value(found, "streambed_ready") == 1
        assert value(found, "process_resident_memory_bytes") > 1e7
        assert process.client.get("/metrics", headers={"Authorization": "Bearer secret"}).status_code == 404
        port = match[1].split(":")[2].split("/")[0]
        other = Process(*common, "--metrics-port", port)
        assert other.end() == 1
        assert f"--metrics-port: cannot listen on 127.0.0.1:{port}" in other.output
        assert "Traceback" not in other.output
        other.close()
    finally:
        process.close()


def test_names_follow_prometheus_rules(live: Live) -> None:
    families = list(text_string_to_metric_families(live.client.get("/metrics").text))
    assert not [name for name, count in Counter(family.name for family in families).items() if count > 1]
    for family in families:
        assert family.documentation.endswith("."), family.name
        if family.name.startswith("streambed_"):
            assert re.fullmatch(r"[a-z_]+", family.name)
            for sample in family.samples:
                assert set(sample.labels) <= {
                    "route", "lane", "outcome", "stage", "kind", "type", "kv", "le", "version", "torch", "python",
                    "model", "fingerprint", "dtype", "device",
                }  # fmt: skip


def test_counted_by_many_threads() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.committed(2, 1, 0.001)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.registry.get_sample_value("streambed_journal_entries_total", {"outcome": "refused"}) == 2000
