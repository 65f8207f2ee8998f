"""Shell completion, as a shell asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streambed.cli.options import MODEL

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'streambed'; from streambed.cli.main import main; main()"]


def ask(how: str, **environment: str) -> str:
    done = subprocess.run(
        COMMAND, env=os.environ | {"_STREAMBED_COMPLETE": how} | environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complete(line: str) -> set[str]:
    """What may come for the last word."""
    words = line.split(" ")
    said = ask("bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return {each.partition(",")[2] for each in said.splitlines()}


def test_commands_flags_and_values() -> None:
    assert complete("streambed ") == {"serve", "embed", "stream", "reduce", "doctor", "bench"}
    assert complete("streambed se") == {"serve"}
    assert complete("streambed reduce ") == {"fit", "eval"}
    flags = {f"--{name.replace('_', '-')}" for name in MODEL}
    for command in ("serve", "embed", "doctor", "reduce fit"):
        assert flags <= complete(f"streambed {command} --"), command
    assert complete("streambed embed --emp") == {"--empty"}
    assert complete("streambed embed --empty ") == {"error", "null"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    script = ask(f"{shell}_source")
    assert "_STREAMBED_COMPLETE" in script
    assert f"{shell}_complete" in script


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash here")
    command = tmp_path / "streambed"
    command.write_text(f"#!{sys.executable}\nfrom streambed.cli.main import main\nmain()\n")
    command.chmod(0o755)
    script = """
        eval "$(_STREAMBED_COMPLETE=bash_source streambed)"
        COMP_WORDS=(streambed do); COMP_CWORD=1
        "$(complete -p streambed | sed -E 's/.*-F ([^ ]+).*/\\1/')" streambed do streambed
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("doctor", "")
