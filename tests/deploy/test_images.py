"""The Dockerfile, built and run as docs/operations.md, the manifest of Kubernetes and the compose file say."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streambed import Engine
from tests.deploy.conftest import Built
from tests.deploy.images import BASE, SAFELY, Container
from tests.deploy.test_manifests import compose_server, kubernetes_container

pytestmark = pytest.mark.slow

KEY = "a-key"
ASK = f"""
import json, sys, urllib.request
method, url, body = sys.argv[1:]
headers = {{"Authorization": "Bearer {KEY}", "Content-Type": "application/json"}}
request = urllib.request.Request(url, body.encode() if body else None, headers, method=method)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def ask(server: Container, path: str, body: object = None, method: str = "POST", port: int = 30000) -> str:
    """The answer to a request from within the container: nothing outside it can reach it."""
    url = f"http://127.0.0.1:{port}{path}"
    return server.execute("python", "-c", ASK, method, url, "" if body is None else json.dumps(body))


def got(server: Container, path: str, body: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask(server, path, body))
    return answer


@pytest.fixture
def journal(built: Built) -> Iterator[str]:
    name = built.images.podman("volume", "create")
    yield name
    built.images.podman("volume", "rm", "--force", name)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """One that the user of the image may read; safetensors writes weights for their owner alone."""
    copied = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copied


def options(environment: dict[str, str], journal: str, checkpoint: Path) -> list[str]:
    variables = environment | {"STREAMBED_API_KEY": KEY, "STREAMBED_DTYPE": "float32"}
    return [
        *(f"--env={name}={value}" for name, value in variables.items()),
        f"--volume={journal}:/journal",
        f"--volume={checkpoint}:/models/tiny:ro",
    ]


def test_sizes(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{built.told}")
    client, server, base = (built.images.bytes_of(name) for name in (built.client, built.server, BASE))
    assert base < client < server


def test_a_server_as_in_kubernetes_and_then_as_in_compose(
    built: Built, journal: str, checkpoint: Path, tiny_engine: Engine
) -> None:
    """It serves a mounted checkpoint, and the second finds on the volume what the first has acknowledged."""
    arguments, environment = kubernetes_container()
    arguments[arguments.index("--model") + 1] = "/models/tiny"
    with built.images.running(built.server, options(environment, journal, checkpoint), arguments) as server:
        server.ready()
        assert server.execute("id", "-u") == server.execute("sh", "-c", "id -g") == "10001"
        written = server.execute(
            "sh",
            "-c",
            "for at in / /opt /models /journal /tmp; do touch $at/x && echo $at; done 2>/dev/null; true",
        )
        assert written.split() == ["/models", "/journal", "/tmp"]
        server.execute("sleep", "0")
        for path in ("/readyz", "/livez"):
            ask(server, path, method="GET")
        assert "streambed_ready 1.0" in ask(server, "/metrics", method="GET", port=30001)
        text = "A brook runs to the sea."
        vector = got(server, "/v1/embeddings", {"model": "tiny", "input": text})["data"][0]["embedding"]
        assert np.dot(vector, tiny_engine.embed([text])[0]) > 0.9999
        session = got(server, "/v1/sessions", {"text": "The quick "})["session"]
        assert got(server, f"/v1/sessions/{session}/append", {"text": "fox"})["offset"] == 13
        assert server.end() == 0
        assert "Application shutdown complete" in server.output
        assert "Kernels: native" in server.output, "they were built with the image, which has no compiler"

    environment = compose_server() | {"STREAMBED_MODEL": "/models/tiny"}
    with built.images.running(built.server, options(environment, journal, checkpoint), []) as server:
        server.ready()
        assert got(server, f"/v1/sessions/{session}/append", {"text": " runs", "offset": 13})["offset"] == 18
        embedding = got(server, f"/v1/sessions/{session}/embedding", {})["embedding"]
        assert np.dot(embedding, tiny_engine.embed(["The quick fox runs"])[0]) > 0.9999
        assert server.end() == 0
        assert server.inspect(".Config.StopSignal") in ("SIGTERM", "15")


def test_weights_that_the_user_of_the_image_may_not_read(built: Built, journal: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").chmod(0o600)
    given = options({"STREAMBED_MODEL": "/models/tiny"}, journal, checkpoint)
    with built.images.running(built.server, given, []) as server:
        assert server.wait() == 1
        said = (
            "streambed: /models/tiny/model.safetensors: not a readable safetensors file: [Errno 13] Permission denied"
        )
        assert server.output.splitlines()[-1].startswith(said)


def test_a_server_without_any_setting_is_asked_by_the_client(built: Built) -> None:
    images = built.images
    with images.running(built.server, ["--env=STREAMBED_API_KEY=" + KEY], []) as server:
        server.ready()
        client = ["run", "--rm", f"--network=container:{server.name}", *SAFELY, f"--env=STREAMBED_API_KEY={KEY}"]
        answer = images.podman(*client, built.client, "embed", "--url", "http://127.0.0.1:30000", "a brook")
        assert len(json.loads(answer)["embedding"]) == 384


def test_the_client_has_no_torch(built: Built) -> None:
    run = ["run", "--rm", "--network=none", *SAFELY]
    assert "embed" in built.images.podman(*run, built.client)
    code = "import importlib.util as u, os; print([u.find_spec(name) for name in ('torch', 'fastapi')], os.getuid())"
    assert built.images.podman(*run, "--entrypoint=python", built.client, "-c", code) == "[None, None] 10001"


def test_nothing_of_pip_stays(built: Built, tmp_path: Path) -> None:
    """Neither its settings nor what it kept, in any layer that the build added, nor in what is said of them."""
    images = built.images
    images.buildah("push", "--disable-compression", BASE, f"dir:{tmp_path / 'base'}")
    below = {layer["digest"] for layer in json.loads((tmp_path / "base" / "manifest.json").read_text())["layers"]}
    needles = [word.encode() for word in built.hidden]
    longest = max(map(len, needles))
    seen = 0
    for image in (built.client, built.server):
        there = tmp_path / image.split("/")[-1]
        images.buildah("push", "--disable-compression", image, f"dir:{there}")
        manifest = json.loads((there / "manifest.json").read_text())
        config = (there / manifest["config"]["digest"].partition(":")[2]).read_text()
        assert not [word for word in built.hidden if word in config]
        for layer in manifest["layers"]:
            if layer["digest"] in below:
                continue
            with tarfile.open(there / layer["digest"].partition(":")[2]) as tar:
                for member in tar:
                    parts = Path(member.name).parts
                    assert "pip.conf" not in parts, member.name
                    assert ".cache" not in parts, member.name
                    assert not member.name.endswith(".whl"), member.name
                    if not member.isfile():
                        continue
                    seen += 1
                    content, rest = tar.extractfile(member), b""
                    assert content is not None
                    while block := content.read(1 << 24):
                        found = [word for word in needles if word in rest + block]
                        assert not found, member.name
                        rest = block[-longest:]
    assert seen > 1000
