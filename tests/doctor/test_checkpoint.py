"""What is said of a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streambed import machine
from streambed.doctor import checkpoint as checkpoint_module
from streambed.engine.engine import Engine


def examine(engine: Engine, **info: Any) -> dict[str, tuple[str, str]]:
    """info: what the engine says of itself in other words."""
    told = SimpleNamespace(
        info=SimpleNamespace(**vars(engine.info) | info),
        checkpoint=engine.checkpoint,
        compute=engine.compute,
        prompt=engine.prompt,
    )
    found = checkpoint_module.examine(told, 1.25)  # type: ignore[arg-type]
    return {finding.name: (finding.status, finding.detail) for finding in found}


def test_all_is_well(tiny_engine: Engine) -> None:
    found = examine(tiny_engine)
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["weights"][1].endswith("loaded and measured in 1.2 s")
    assert found["fingerprint"] == ("ok", tiny_engine.info.fingerprint)
    assert found["window"] == ("ok", "512 tokens, all of which can be used")


def test_bfloat16_on_a_processor_without_it(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "multiplies_bfloat16", lambda device: False)
    found = examine(tiny_engine, dtype="bfloat16")["number format"]
    assert found[0] == "warn"
    assert "does not multiply bfloat16" in found[1]


def test_less_memory_than_the_budget(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 30)
    status, detail = examine(tiny_engine, kv_memory=2 << 30)["KV"]
    assert (status, detail.endswith(", but 1.00 GiB are free; lower --kv-memory")) == ("warn", True)
    assert examine(tiny_engine, kv_memory=1 << 30)["KV"][0] == "ok"
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert examine(tiny_engine, kv_memory=2 << 60)["KV"][0] == "ok"
