"""Which build of PyTorch `make` takes, and from where: asked of an index on loopback."""

from __future__ import annotations

import base64
import contextlib
import http.server
import platform
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.install_torch import Unavailable, choose, find, fits, has_gpu, within

from tools import install_torch

TOOL = Path(install_torch.__file__)
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
WHEEL = f"torch-2.13.0+cpu-{PYTHON}-{PYTHON}-manylinux_2_28_x86_64.whl"
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain machine, whatever this one is."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(install_torch, "has_gpu", lambda: False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def index(answer: Answer) -> Iterator[str]:
    """An index on loopback; `answer` is what it does with a request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/whl/cpu"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page(*wheels: str) -> Answer:
    """A page of PEP 503, with links as PyTorch's index writes them."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        links = (f'<a href="/whl/cpu/{each.replace("+", "%2B")}#md5=" data-x="">{each}</a><br/>' for each in wheels)
        body = f"<!DOCTYPE html><html><body><h1>Links for torch</h1>{''.join(links)}</body></html>".encode()
        request.send_response(200 if request.path == "/whl/cpu/torch/" else 404)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def raw(data: bytes) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(data)

    return answer


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_index_that_has_the_wheel_is_taken(slash: str) -> None:
    with index(page("torch-2.12.0+cpu-cp310-cp310-win_amd64.whl", WHEEL)) as url:
        options, told = choose("2.13.0", url + slash)
    assert options == ["--index-url", url + slash, "--no-deps"]
    assert WHEEL in told
    assert "0.2 GB" in told


def test_pytorchs_own_index_is_asked_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with index(page(WHEEL)) as url:
        monkeypatch.setattr(install_torch, "INDEX", url)
        assert choose("2.13.0")[0] == ["--index-url", url, "--no-deps"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (page(), "it has no torch 2.13.0 for Python"),
        (page(WHEEL.replace("2.13.0", "2.13.1")), "it has no torch 2.13.0 for Python"),
        (raw(b"HTTP/1.0 200 OK\r\n\r\nWelcome to the hotel's network <![bogus[ \xff\x00 <a href="), "it has no torch"),
        (raw(b"HTTP/1.0 404 Not Found\r\n\r\n"), "HTTP status 404"),
        (raw(b"HTTP/1.0 503 Busy\r\n\r\n"), "HTTP status 503"),
        (raw(b"HTTP/1.0 302 Found\r\nLocation: gopher://a/\r\n\r\n"), "HTTP status 302"),
        (raw(b"\x16\x03\x01 garbage\r\n\r\n"), "BadStatusLine"),
        (raw(b""), "Remote end closed connection"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nshort"), "it has no torch"),
    ],
    ids=["empty", "another version", "garbage", "404", "503", "redirect", "no HTTP", "closed", "cut off"],
)
def test_one_that_cannot_serve_is_not_and_it_is_said(answer: Answer, why: str) -> None:
    with index(answer) as url:
        options, told = choose("2.13.0", url)
    assert options == []
    assert told.startswith(f"{url} cannot serve (")
    assert why in told
    assert "from the default registry, which on Linux has the build with CUDA: 2.7 GB" in told
    assert "\n" not in told


def test_one_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options, told = choose("2.13.0", f"http://127.0.0.1:{port}")
    assert options == []
    assert "refused" in told


@pytest.mark.parametrize("bad", ["not an address", "http://[::1", "ftp:", "http://127.0.0.1:99999"])
def test_one_that_is_no_address(bad: str) -> None:
    options, told = choose("2.13.0", bad)
    assert options == []
    assert told.startswith(f"{bad} cannot serve (")


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_torch, "SECONDS", 0.2)
    end = threading.Event()

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        """Never silent for long: no time-out of a socket ends this."""
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while not end.wait(0.02):
                request.wfile.write(b" ")

    silent = socket.create_server(("127.0.0.1", 0))
    with index(drip) as url, silent:
        for each in (url, f"http://127.0.0.1:{silent.getsockname()[1]}"):
            options, told = choose("2.13.0", each)
            assert options == []
            assert "no answer within 0.2 seconds" in told
        end.set()


def test_a_name_that_nobody_resolves_keeps_neither_the_answer_nor_the_process() -> None:
    code = (
        "import runpy, socket, sys, threading, tools.install_torch as tool;"
        "socket.getaddrinfo = lambda *_, **__: threading.Event().wait();"
        "tool.SECONDS = 0.2; tool.platform.system = lambda: 'Linux'; print(tool.choose('2.13.0', 'http://nowhere.invalid'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOOL.parents[1], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no answer within 0.2 seconds" in done.stdout


def test_what_a_function_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0)
    assert within(60, lambda: 1) == 1


def test_a_password_is_sent_and_not_shown() -> None:
    seen = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Authorization"])
        page(WHEEL)(request)

    with index(answer) as url:
        address = url.replace("//", "//me:p%40ss@")
        options, told = choose("2.13.0", address)
        assert options[1] == address
        assert "ss@" not in told
        assert "ss@" not in choose("2.14.0", address)[1]
    assert seen[0] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"


@pytest.mark.parametrize(
    ("wheel", "machine", "glibc", "yes"),
    [
        (WHEEL, "x86_64", "2.28", True),
        (WHEEL.replace("+cpu", ""), "x86_64", "2.36", True),
        (WHEEL.replace("torch-2.13.0+cpu", "torch-2.13.0+cu126"), "x86_64", "2.36", True),
        (WHEEL.replace("manylinux_2_28", "linux"), "x86_64", "2.17", True),
        (WHEEL.replace("manylinux_2_28", "manylinux_2_17_x86_64.manylinux_2_40"), "x86_64", "2.20", True),
        (WHEEL.replace("x86_64", "aarch64"), "aarch64", "2.36", True),
        (WHEEL, "x86_64", "2.27", False),
        (WHEEL, "x86_64", "", False),  # musl
        (WHEEL, "aarch64", "2.36", False),
        (WHEEL.replace("manylinux_2_28_x86_64", "win_amd64"), "x86_64", "2.36", False),
        (WHEEL.replace(f"-{PYTHON}-{PYTHON}-", "-cp27-cp27mu-"), "x86_64", "2.36", False),
        (WHEEL.replace(f"-{PYTHON}-{PYTHON}-", f"-{PYTHON}-{PYTHON}t-"), "x86_64", "2.36", False),
        (WHEEL.replace("2.13.0", "2.13.0.dev1"), "x86_64", "2.36", False),
        (WHEEL.replace("torch-", "torchvision-"), "x86_64", "2.36", False),
        (WHEEL + ".metadata", "x86_64", "2.36", False),
        ("torch-2.13.0.tar.gz", "x86_64", "2.36", False),
        ("", "x86_64", "2.36", False),
    ],
)
def test_which_wheels_fit(wheel: str, machine: str, glibc: str, yes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", glibc))
    assert fits(wheel, "2.13.0") is yes


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_elsewhere_the_default_registry_has_the_build_for_cpus(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(install_torch, "find", lambda *_: pytest.fail("no index is asked"))
    assert choose("2.13.0")[0] == []


def test_a_gpu_takes_the_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(index: str, version: str) -> str:
        raise Unavailable("asked")

    monkeypatch.setattr(install_torch, "find", none)
    monkeypatch.setattr(install_torch, "has_gpu", lambda: True)
    assert "nvidia-smi shows a GPU" in choose("2.13.0")[1]
    assert "asked" in choose("2.13.0", gpu="0")[1]
    monkeypatch.setattr(install_torch, "has_gpu", lambda: False)
    assert "asked" in choose("2.13.0")[1]
    assert "since GPU=1" in choose("2.13.0", gpu="1")[1]
    assert "asked" in choose("2.13.0", "http://127.0.0.1:1", gpu="1")[1], "an index that is named goes first"


@pytest.mark.parametrize(
    ("script", "yes"),
    [
        ('echo "GPU 0: NVIDIA H200 (UUID: GPU-0)"', True),
        ("echo No devices were found", False),
        ('echo "GPU 0: broken"; exit 9', False),
        ("exec sleep 20", False),
        (None, False),
    ],
)
def test_a_gpu_is_what_the_driver_answers_for(
    script: str | None, yes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_torch, "SECONDS", 0.3 if script and "sleep" in script else 60.0)
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    assert has_gpu() is yes


def test_find_names_the_wheel() -> None:
    with index(page(WHEEL)) as url:
        assert find(url, "2.13.0") == WHEEL
        with pytest.raises(Unavailable, match=r"it has no torch 2\.14\.0"):
            find(url, "2.14.0")


@pytest.mark.parametrize(
    ("installed", "gpu", "code"),
    [("2.13.0+cpu", "", 0), ("2.13.0+cpu", "0", 0), ("2.13.0+cpu", "1", 1), ("2.13.0", "1", 0), ("2.13.0", "0", 1)],
)
def test_another_build_than_the_one_that_is_there_is_not_passed_over(
    installed: str, gpu: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install_torch, "_installed", lambda name: installed)
    monkeypatch.setattr(sys, "argv", ["install_torch.py", "torch==2.13.0", "--gpu", gpu])
    assert install_torch.main() == code
    assert f"PyTorch: {installed} is installed" in (told := capsys.readouterr().out)
    assert ("make clean" in told) == bool(code)


@pytest.mark.slow
def test_installed_from_an_index_and_left_alone_later(tmp_path: Path) -> None:
    """A wheel of nothing but a version, in an environment of its own."""
    wheel = tmp_path / WHEEL
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in {
            "torch.py": "",
            "torch-2.13.0+cpu.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n",
            "torch-2.13.0+cpu.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "torch-2.13.0+cpu.dist-info/RECORD": "",
        }.items():
            file.writestr(name, text)

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if not request.path.endswith(".whl"):
            page(WHEEL)(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(wheel.stat().st_size))
        request.end_headers()
        request.wfile.write(wheel.read_bytes())

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    command = [tmp_path / "venv/bin/python", TOOL, "torch==2.13.0"]
    with index(lambda request: answer(request)) as url:
        first = subprocess.run([*command, "--index", url], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"PyTorch: {WHEEL} from {url}" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, "PyTorch: 2.13.0+cpu is installed\n")
