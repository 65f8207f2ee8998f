"""Builds the C library where it will run, once, and keeps it.

The package stays a pure wheel: whoever installs it compiles nothing. The first engine on a machine does, with the system's C
compiler or, where the package `ziglang` is installed, with that one's; two seconds, and later starts find the file. It is
kept under a name made of all that decides it: sources, flags, compiler and processor.

Where machines that build differ from those that run, as with images, `python -m streambed.model.cpu.native.build FOLDER`
builds one library for each kind of processor, and each start takes the best that it can run: `PREBUILT` is looked at first.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from streambed import machine
from streambed.model.cpu.native.library import Library

SOURCES = ("pool.c", "product.c", "attention.c", "layer.c")
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-strict-aliasing", "-Wno-psabi"),
    "-Werror=implicit-function-declaration",  # of what a variant has not; newer compilers refuse it by themselves
    # Nothing of -ffast-math that lets sums be taken in another order: a row is to have the same bits wherever it runs.
    *("-fno-math-errno", "-fno-trapping-math"),
)
NATIVE = ("-march=native",)
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VARIANTS = {
    "x86-64-v4+avx512bf16+avx512vnni+amx-tile+amx-bf16+amx-int8":
        {*_V4, "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"},
    "x86-64-v4+avx512bf16+avx512vnni": {*_V4, "avx512_bf16", "avx512_vnni"},
    "x86-64-v4": _V4,
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
}  # fmt: skip
"""Kinds of processors, best first, and what each must have, in the system's words."""
PREBUILT = Path(sys.prefix) / "share" / "streambed" / "native"
"""Where libraries may lie that were built for several kinds."""
_HERE = Path(__file__).parent
_SECONDS = 300.0


class BuildError(Exception):
    """There is no library, and why, in one line."""


def open_library(flags: Sequence[str] = NATIVE) -> Library:
    """The library for this machine: one from `PREBUILT`, else the one in the cache, built if it is not there yet. Where
    nothing can be kept, one is built for this process alone. flags: for which processor. Raises BuildError."""
    if os.name != "posix":
        raise BuildError("this system has no threads and file locks of POSIX's")
    with contextlib.suppress(OSError):
        if flags == NATIVE and (found := find_prebuilt()) is not None:
            return Library(found)
    compiler = find_compiler()
    name = f"streambed-{_key(compiler, flags)}.so"
    try:
        folder = _cache()
        with _locked(folder / f"{name}.lock"):
            if not (folder / name).exists():
                compile_to(folder / name, compiler, flags)
        return Library(folder / name)
    except OSError:
        try:
            with tempfile.TemporaryDirectory(prefix="streambed-") as private:
                compile_to(Path(private) / name, compiler, flags)
                return Library(Path(private) / name)
        except OSError as error:
            raise BuildError(" ".join(str(error).split())) from None


def find_prebuilt() -> Path | None:
    """The best library in `PREBUILT` that this processor can run, if there is one."""
    here = set(machine.features())
    found = (PREBUILT / _prebuilt_name(name) for name, needed in VARIANTS.items() if needed <= here)
    return next(filter(Path.is_file, found), None)


def build_variants(folder: Path) -> None:
    """A library for each kind of processor of this architecture. Raises BuildError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = find_compiler()
    for name in VARIANTS if platform.machine() == "x86_64" else ():
        compile_to(folder / _prebuilt_name(name), compiler, flags_for(name, compiler))


def flags_for(variant: str, compiler: Sequence[str]) -> list[str]:
    """How a compiler is told of a kind of processor."""
    if "ziglang" in compiler:
        return [f"-mcpu={variant.replace('-', '_')}"]
    level, *more = variant.split("+")
    return [f"-march={level}", *(f"-m{extension}" for extension in more)]


def find_compiler() -> list[str]:
    """The command of a C compiler: `$CC`, the system's, or ziglang's. Raises BuildError."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError("there is no C compiler; install gcc or clang, or the Python package ziglang")


def compile_to(path: Path, compiler: Sequence[str], flags: Sequence[str] = NATIVE) -> None:
    """Compiles and links, and puts the library there whole or not at all. Raises BuildError, OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*compiler, *FLAGS, *flags, "-o", str(made), *(str(_HERE / name) for name in SOURCES), "-lm"]
        try:
            done = subprocess.run(  # noqa: S603 - our own sources, and a compiler of the operator's choice
                command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{compiler[0]} took longer than {_SECONDS:.0f} seconds") from None
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
            raise BuildError(f"{' '.join(compiler)} failed: {' '.join(said.split())[:300]}")
        made.replace(path)


def _cache() -> Path:
    """A folder in `$XDG_CACHE_HOME`, else in `~/.cache`. Raises OSError where it cannot be, or where others could put a
    library of theirs."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "streambed"
    if not folder.is_absolute():
        raise FileNotFoundError("there is no home to keep libraries in")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is another's, or others may write there")
    return folder


def _key(compiler: Sequence[str], flags: Sequence[str]) -> str:
    return _digest(*FLAGS, *flags, *compiler, shutil.which(compiler[0]) or "", platform.machine(), *machine.features())


def _prebuilt_name(variant: str) -> str:
    """With the sources in it: a library that an older package left is not taken for this one's."""
    return f"{variant}-{_digest()}.so"


def _digest(*facts: str) -> str:
    """Of the sources, and of what else decides a library."""
    digest = hashlib.sha256("\0".join(facts).encode())
    for source in sorted((*_HERE.glob("*.c"), *_HERE.glob("*.h"))):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process builds; others wait, and find what it has built."""
    import fcntl  # not on every platform

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    build_variants(Path(sys.argv[1]))
