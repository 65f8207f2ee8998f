"""deploy/streambed.service: systemd understands it, and it says what docs and settings say."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from streambed.cli.serve import serve
from streambed.settings import Settings
from tests.groups import program

UNIT = Path(__file__).parents[2] / "deploy" / "streambed.service"
ENDING_SECONDS = 20
"""What docs/operations.md allows beside --drain."""


def section(name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser[name])


def test_the_command_is_one_and_ends_in_time() -> None:
    service = section("Service")
    program_, command, *arguments = service["ExecStart"].split()
    assert (program_, command) == ("/opt/streambed/bin/streambed", "serve")
    values = serve.make_context("serve", arguments).params
    assert values["journal"] == f"%S/{service['StateDirectory']}/journal.db"
    assert int(service["TimeoutStopSec"]) == values["drain"] + ENDING_SECONDS
    most = Settings()
    assert int(service["LimitNOFILE"]) > 4 * (most.max_requests + most.max_sockets)


@pytest.mark.slow
def test_systemd_understands_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/streambed/bin/streambed", sys.executable))
    analyze = program("systemd-analyze")
    verified = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    # Of ten; a service that says nothing has 9.6.
    exposed = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", unit], capture_output=True, text=True, check=False
    )
    assert exposed.returncode == 0, exposed.stdout
