"""Install PyTorch into the environment of the Python that runs this: the build for CPUs unless a GPU answers.

    python tools/install_torch.py torch==2.13.0

pip cannot choose a build. For Linux the default registry has the one with CUDA, which is gigabytes larger; the one for CPUs
is in PyTorch's own index. That index is asked first, for three seconds at most, whether it has a wheel for this Python;
where it has none, or does not answer, the default registry serves. On macOS and Windows that one has the build for CPUs.

`make` runs this before anything else is installed: nothing beyond the standard library.
"""

from __future__ import annotations

import argparse
import base64
import html
import http.client
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 3.0
"""For names, connection, TLS and answer together."""
MAX_PAGE = 32 << 20
"""Bytes of an index page that are read."""
CPU_SIZE = "0.2 GB to download, 0.8 GB on disk"
CUDA_SIZE = "2.7 GB to download, 4.7 GB on disk"

T = TypeVar("T")


class Unavailable(Exception):
    """An index is of no use here; the message says why."""


def main() -> int:
    """The exit code of pip."""
    parser = argparse.ArgumentParser(description="Install PyTorch: the build for CPUs unless a GPU answers.")
    parser.add_argument("requirement", help="such as torch==2.13.0")
    parser.add_argument("--index", default="", help=f"package index to ask first; {INDEX} by default, on Linux")
    parser.add_argument("--gpu", default="", choices=["", "0", "1"], help="1: the build with CUDA; 0: the one for CPUs")
    given = parser.parse_args()
    name, _, version = given.requirement.partition("==")
    installed = _installed(name)
    if installed.partition("+")[0] == version:
        if given.gpu and platform.system() == "Linux" and (given.gpu == "0") != installed.endswith("+cpu"):
            print(
                f"PyTorch: {installed} is installed, and is not what GPU={given.gpu} asks for: make clean", flush=True
            )
            return 1
        print(f"PyTorch: {installed} is installed", flush=True)
        return 0
    options, told = choose(version, given.index, given.gpu)
    print(f"PyTorch: {told}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, given.requirement]
    return subprocess.run(pip, check=False).returncode


def choose(version: str, index: str = "", gpu: str = "") -> tuple[list[str], str]:
    """Options for pip, and a line that says what they lead to."""
    if not index:
        if platform.system() != "Linux":
            return [], "from the default registry, which has the build for CPUs on this system"
        if gpu == "1":
            return [], f"the build with CUDA, since GPU=1: {CUDA_SIZE}"
        if gpu != "0" and has_gpu():
            return [], f"the build with CUDA, since nvidia-smi shows a GPU (GPU=0 takes the one for CPUs): {CUDA_SIZE}"
    index = index or INDEX
    try:
        wheel = within(SECONDS, lambda: find(index, version))
    except Unavailable as error:
        return [], (
            f"{shown(index)} cannot serve ({error}); from the default registry, "
            f"which on Linux has the build with CUDA: {CUDA_SIZE}. Another index: make TORCH_INDEX=URL"
        )
    # What it depends on comes from the default registry with all the rest: an index of one package is enough.
    size = f": {CPU_SIZE}" if "+cpu" in wheel else ""
    return ["--index-url", index, "--no-deps"], f"{wheel} from {shown(index)}{size}"


def has_gpu() -> bool:
    """Whether NVIDIA's driver answers and lists a device."""

    def list_devices() -> bool:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS, check=False)
        return done.returncode == 0 and "GPU " in done.stdout

    try:
        return within(2 * SECONDS, list_devices)  # a driver that hangs may not let its process be ended
    except (Unavailable, OSError, subprocess.TimeoutExpired):
        return False


def find(index: str, version: str) -> str:
    """The name of a wheel of torch that this Python can use, among the links of an index. Raises Unavailable."""
    address, user = _split(index)
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}/torch/", headers={"Accept": "text/html"})
        if user:
            key = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {key}")
        with urllib.request.urlopen(request, timeout=4 * SECONDS) as answer:
            page = answer.read(MAX_PAGE).decode(errors="replace")
    except urllib.error.HTTPError as error:
        error.close()
        raise Unavailable(f"HTTP status {error.code}") from None
    except urllib.error.URLError as error:
        raise Unavailable(" ".join(str(error.reason).split())) from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # cut off, no HTTP, no URL
        raise Unavailable(" ".join(f"{type(error).__name__}: {error}".split())) from None
    for link in re.findall(r"""<a\s[^>]*?href\s*=\s*["']?([^"'\s>]+)""", page, re.I):
        wheel = unquote(re.split("[?#]", html.unescape(link))[0].rpartition("/")[2])
        if fits(wheel, version):
            return wheel
    raise Unavailable(
        f"it has no torch {version} for Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def fits(wheel: str, version: str) -> bool:
    """Whether a wheel is of this version of torch, whatever the build, and for this Python and system."""
    parts = wheel.removesuffix(".whl").split("-")
    if not wheel.endswith(".whl") or len(parts) not in (5, 6):
        return False
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    abi = python + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
    return (
        parts[0] == "torch"
        and parts[1].partition("+")[0] == version
        and python in parts[-3].split(".")
        and abi in parts[-2].split(".")
        and any(_runs_here(tag) for tag in parts[-1].split("."))
    )


def _runs_here(tag: str) -> bool:
    """Whether a platform tag (PEP 425, PEP 600) names this system, this processor and no newer libraries."""
    match = re.fullmatch(r"(manylinux|linux|macosx|win)(?:_(\d+)_(\d+))?_([a-z].*)", tag)
    systems = {"manylinux": "Linux", "linux": "Linux", "macosx": "Darwin", "win": "Windows"}
    if match is None or systems[match[1]] != platform.system() or match[4] != platform.machine().lower():
        return False
    if match[1] == "linux" or match[2] is None:
        return True
    have = platform.libc_ver()[1] if match[1] == "manylinux" else platform.mac_ver()[0]
    numbers = [int(number) for number in re.findall(r"\d+", have)[:2]]
    return numbers >= [int(match[2]), int(match[3])]


def within(seconds: float, function: Callable[[], T]) -> T:
    """What a function returns or raises. Raises Unavailable after so many seconds, whatever it hangs in: asking for a name
    cannot be interrupted, so it is left behind in a thread that does not keep the process."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise Unavailable(f"no answer within {seconds:g} seconds")
    return results[0]


def shown(index: str) -> str:
    """The address without the name and password that may stand in it."""
    return _split(index)[0]


def _split(index: str) -> tuple[str, str]:
    """An address, and the `name:password` that stood in it."""
    match = re.fullmatch(r"([^/]*//)([^/]*)@(.*)", index)
    return (match[1] + match[3], match[2]) if match else (index, "")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    os._exit(code)  # whatever hangs in a thread
