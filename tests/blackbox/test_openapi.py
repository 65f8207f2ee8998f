"""What the OpenAPI document says is what the server does: schemathesis makes requests of it, sound ones and others, and
compares the answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.blackbox.conftest import POLITE, Target

JUDGED_ELSEWHERE = "positive_data_acceptance,negative_data_rejection"
"""Whether a body is sound depends on more than its schema: on other fields, on what a session holds, on settings."""


@pytest.mark.slow
def test_the_document_is_true(target: Target, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("st")
    if not schemathesis.exists():
        pytest.skip("no schemathesis here: make test-all GROUP=attacks installs it")
    run = subprocess.run(
        [schemathesis, "run", str(target.polite.base_url.join("/openapi.json")),
         "--header", f"Authorization: Bearer {POLITE}", "--max-examples", "200", "--no-color",
         "--checks", "all", "--exclude-checks", JUDGED_ELSEWHERE],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr
    made, passed = re.findall(r"(\d+) generated, (\d+) passed", run.stdout)[0]
    assert int(made) == int(passed) > 1000, "it has looked"
