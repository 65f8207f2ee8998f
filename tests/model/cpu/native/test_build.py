"""Building: once, by one process, and never at the price of the start."""

from __future__ import annotations

import errno
import os
import platform
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from streambed import Engine
from streambed.model.cpu.native import build
from streambed.model.cpu.native.build import BuildError, open_library
from tests.checkpoints import load_engine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries are kept; empty. Compilers need not try hard here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))
    return tmp_path / "streambed"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("variant", ["", *build.VARIANTS])
def test_a_compiler_has_nothing_to_say(variant: str) -> None:
    """Whatever the processor has not. One compiler warns of what the next one refuses."""
    if platform.machine() != "x86_64" and variant:
        pytest.skip("another architecture")
    compiler = build.find_compiler()
    flags = [*build.FLAGS, *(build.flags_for(variant, compiler) if variant else []), "-Wall", "-Wextra", "-Werror"]
    here = Path(build.__file__).parent
    command = [*compiler, *flags, "-fsyntax-only", *(str(here / name) for name in build.SOURCES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def libraries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*.so")) if cache.exists() else []


def test_it_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_library()
    kept = libraries(cache)
    assert len(kept) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(build, "compile_to", None)  # whoever compiles again fails
    open_library()
    assert libraries(cache) == kept


def test_what_decides_it_is_in_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_library()
    monkeypatch.setattr("streambed.machine.features", lambda: ["another processor"])
    monkeypatch.setattr(build, "find_prebuilt", lambda: None)
    open_library()
    assert len(libraries(cache)) == 2


def test_two_processes_at_once(cache: Path) -> None:
    code = "from streambed.model.cpu.native.build import open_library; open_library()"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=120)[1] for process in running] == [b""] * 3
    assert len(libraries(cache)) == 1
    assert not [path for path in cache.iterdir() if path.suffix not in (".so", ".lock")], "nothing half done is left"


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler(cache: Path, tiny_checkpoint: Path) -> None:
    """The engine starts all the same, and says what is missing."""
    with pytest.raises(BuildError, match="no C compiler"):
        open_library()
    with load_engine(tiny_checkpoint) as engine:
        assert engine.info.kernels.startswith("torch; native ones are not there: there is no C compiler; install gcc")
        assert engine.embed("a brook").shape == (1, 64)


def test_a_compiler_that_fails(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'pool.c:1: fatal error: no such luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(BuildError, match=r"failed: pool\.c:1: fatal error: no such luck"):
        open_library()
    assert libraries(cache) == []


@pytest.mark.parametrize("mode", ["a file in its place", "others may write"])
def test_where_nothing_can_be_kept(cache: Path, tmp_path: Path, mode: str) -> None:
    """Built for this process alone: nobody else's library is ever loaded."""
    if mode == "a file in its place":
        (tmp_path / "streambed").write_text("")
    else:
        (tmp_path / "streambed").mkdir()
        (tmp_path / "streambed").chmod(0o777)
    assert open_library().operand_bytes(0, 16, 1) == 128
    assert libraries(tmp_path / "streambed") == []


@pytest.mark.parametrize("mode", ["no folder for what is temporary", "a full disk"])
def test_where_nothing_can_be_written(
    cache: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """As in a container whose file system is read-only: the engine starts on PyTorch, and says why."""

    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError(mode) if mode.startswith("no folder") else OSError(errno.ENOSPC, mode)

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    with load_engine(tiny_checkpoint) as engine:
        assert engine.info.kernels.startswith("torch; native ones are not there: ")
        assert mode in engine.info.kernels
        assert engine.embed("a brook").shape == (1, 64)


def test_a_user_without_a_home(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker run --user 12345` has: nothing is left where the process happens to run."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert open_library().operand_bytes(0, 16, 1) == 128
    assert os.listdir(tmp_path) == []


def test_a_damaged_library_is_not_fatal(cache: Path) -> None:
    open_library()
    library = cache / libraries(cache)[0]
    library.unlink()  # and not cut short: this process has it loaded
    library.write_bytes(b"")
    assert open_library().operand_bytes(0, 16, 1) == 128


def test_ziglang_where_the_system_has_none(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name == "ziglang")
    assert build.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]


def test_torch_alone(tiny_checkpoint: Path, cache: Path) -> None:
    with load_engine(tiny_checkpoint, kernels="torch") as engine:
        assert engine.info.kernels == "torch"
    assert not cache.exists() or os.listdir(cache) == []


def test_native_is_the_default(tiny_engine: Engine) -> None:
    assert tiny_engine.info.kernels == "native"


def test_libraries_for_several_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an image has them: no compiler where they run, and each processor takes the best that it can."""
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    assert build.find_prebuilt() is None
    names = list(build.VARIANTS)
    for name in names:
        (tmp_path / build._prebuilt_name(name)).touch()
    for number, name in enumerate(names):
        has = set().union(*(build.VARIANTS[each] for each in names[number:]))
        monkeypatch.setattr("streambed.machine.features", lambda has=has: ["a processor", *has])
        found = build.find_prebuilt()
        assert found is not None
        assert found.name == build._prebuilt_name(name)
    monkeypatch.setattr("streambed.machine.features", lambda: ["an old processor", "sse2"])
    assert build.find_prebuilt() is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="variants are of this architecture")
def test_built_beforehand(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.build_variants(tmp_path / "libraries")
    names = sorted(map(build._prebuilt_name, build.VARIANTS))
    assert sorted(path.name for path in (tmp_path / "libraries").iterdir()) == names
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "libraries")
    monkeypatch.setattr(build, "compile_to", None)
    assert open_library().operand_bytes(0, 16, 1) == 128


def test_libraries_of_an_older_package_or_damaged_ones(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are not loaded: another one is built, as where there are none."""
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    for name in build.VARIANTS:
        (tmp_path / f"{name}-0123456789abcdef01234567.so").write_bytes(b"older")
    assert build.find_prebuilt() is None
    for name in build.VARIANTS:
        (tmp_path / build._prebuilt_name(name)).write_bytes(b"damaged")
    assert open_library().operand_bytes(0, 16, 1) == 128
    assert len(libraries(cache)) == 1


def test_a_system_without_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(BuildError, match="POSIX"):
        open_library()
