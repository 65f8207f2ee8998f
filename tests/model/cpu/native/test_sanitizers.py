"""The library's tests, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streambed.model.cpu.native import build
from streambed.model.cpu.native.build import NATIVE, compile_to

NATIVE_SOURCES = Path(build.__file__).parent

CODE = """
import sys
from pathlib import Path
from streambed.model.cpu.native.library import Library
from tests.model.cpu import test_steps as steps
library = Library(Path(sys.argv[1]))
for seed in range(12):
    steps.check(library, Path(sys.argv[2]), seed)
"""


@pytest.fixture
def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("the sanitizers' runtimes are found by gcc")
    return found


@pytest.mark.slow
def test_nothing_is_read_or_written_elsewhere(tmp_path: Path, gcc: str) -> None:
    library = tmp_path / "library.so"
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    compile_to(library, [gcc], (*NATIVE, *flags))
    runtime = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(library), str(tmp_path)],
        env=os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_pool(tmp_path: Path, gcc: str, sanitizer: str) -> None:
    program = tmp_path / "pool_test"
    sources = [Path(__file__).with_name("pool_test.c"), NATIVE_SOURCES / "pool.c"]
    command = [gcc, "-std=gnu11", "-O1", "-g", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run([*command, f"-I{NATIVE_SOURCES}", "-o", program, *sources], check=True)
    done = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
