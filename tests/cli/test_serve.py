"""`streambed serve`: what it refuses before it has loaded a model."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streambed.cli import serve as serve_module
from streambed.errors import StreambedError
from streambed.settings import Settings
from streambed.vectors.reducers import CARD, WEIGHTS, Card, Reducer

Spoil = Callable[[Path], object]


@pytest.fixture
def reducer(tmp_path: Path) -> Path:
    card = Card(
        format=1, method="pca", metric="cosine", input_dimensions=64, dimensions=2, model="tiny",
        model_fingerprint="0" * 32, texts=100,
    )  # fmt: skip
    weight = np.eye(2, 64, dtype=np.float32)
    Reducer.build(card, ((weight, np.zeros(2, dtype=np.float32)),)).save(tmp_path / "small")
    return tmp_path / "small"


def change_card(**values: object) -> Spoil:
    def change(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text()) | values
        (folder / CARD).write_text(json.dumps(card))

    return change


SPOILED: dict[str, tuple[Spoil, str]] = {
    "no card": (lambda folder: (folder / CARD).unlink(), "reducer.json: cannot be read: No such file or directory"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "reducer.safetensors: cannot be read: No such file"),
    "no json": (lambda folder: (folder / CARD).write_text("{"), "reducer.json: is no reducer's card: "),
    "a wrong card": (change_card(method="magic"), "reducer.json: is no reducer's card: method"),
    "another size": (change_card(dimensions=3), "reducer.safetensors: its last layer gives 2 numbers"),
    "cut short": (lambda folder: (folder / WEIGHTS).write_bytes(b"\0" * 9), "reducer.safetensors: "),
}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is loaded, and this process keeps its handlers and its logs."""
    monkeypatch.setattr("streambed.model.checkpoint.find_checkpoint", None)
    monkeypatch.setattr("streambed.server.logs.set_up", lambda _: None)
    monkeypatch.setattr(serve_module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serve_module, "_raise_file_limit", lambda: None)
    with contextlib.ExitStack() as opened:
        listen = serve_module._listen
        monkeypatch.setattr(serve_module, "_listen", lambda *where: opened.enter_context(listen(*where)))
        yield


def refused(**settings: object) -> str:
    with pytest.raises(StreambedError) as error:
        serve_module.run(Settings(port=0, **settings))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", SPOILED)
def test_a_wrong_reducer_is_refused_before_the_model_is_loaded(reducer: Path, name: str) -> None:
    spoil, said = SPOILED[name]
    spoil(reducer)
    assert refused(reducer=(f"small={reducer}",)).startswith(f"{reducer}/{said}")


@pytest.mark.usefixtures("no_model")
def test_a_path_of_no_reducer(reducer: Path) -> None:
    """Each that is named is looked at, not only the first."""
    for path in (reducer / "nowhere", reducer / CARD):
        message = refused(reducer=(f"good={reducer}", f"bad={path}"))
        assert re.match(rf"{path}/reducer.json: cannot be read: (No such file|Not a directory)", message)


@pytest.mark.usefixtures("no_model")
def test_other_files_are_looked_at_before_too(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("text")
    for settings, said in (
        ({"journal": str(tmp_path / "nowhere" / "a.db")}, f"--journal {tmp_path}/nowhere/a.db: "),
        ({"journal": str(tmp_path)}, f"--journal {tmp_path}: "),
        ({"journal": str(file / "a.db")}, f"--journal {file}/a.db: "),
        ({"tls_cert": str(file), "tls_key": str(file)}, f"--tls-cert {file}, --tls-key {file}: "),
        ({"tls_cert": "nowhere", "tls_key": str(file)}, "--tls-cert nowhere: cannot be read: No such file"),
        ({"tls_cert": str(file), "tls_key": "nowhere"}, "--tls-key nowhere: cannot be read: No such file"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1:0: "),
        ({"metrics_port": 0, "metrics_host": "192.0.2.1"}, "--metrics-port: cannot listen on 192.0.2.1:0: "),
    ):
        assert refused(**settings).startswith(said)
