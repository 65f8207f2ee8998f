"""What a journal has on disk.

Other processes read it: to open and close a file in this one would give up SQLite's locks. A journal that opens anew
removes its log, so a file may go away between the list and the reading, which is no fault: then all are read again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PLAIN = {**os.environ, "LC_ALL": "C"}  # errors in English


def bytes_of(journal: Path) -> bytes:
    """Everything in a journal's files, `-wal` and copies of damaged ones among them."""
    while True:
        files = sorted(str(file) for file in journal.parent.glob(f"{journal.name}*"))
        read = subprocess.run(["cat", *files], check=False, capture_output=True, env=PLAIN)
        if read.returncode == 0:
            return read.stdout
        assert b"No such file" in read.stderr, read.stderr


def copy(journal: Path, target: Path) -> Path:
    """The files as they are, which is what a process that starts after a kill finds."""
    while True:
        files = [str(file) for file in (journal, journal.with_name(journal.name + "-wal")) if file.exists()]
        target.mkdir(parents=True)
        done = subprocess.run(["cp", "-p", *files, str(target)], check=False, capture_output=True, env=PLAIN)
        if done.returncode == 0:
            return target / journal.name
        assert b"No such file" in done.stderr, done.stderr
        shutil.rmtree(target)
