"""Findings, and how they are told: as lines for people, or as one JSON object."""

import json
from collections.abc import Callable
from typing import Literal, NamedTuple

import click

from streambed.errors import StreambedError

Status = Literal["ok", "note", "warn", "FAIL"]
Answer = tuple[Status, str]


class Finding(NamedTuple):
    """A line of the report."""

    group: str
    name: str
    status: Status
    detail: str


class Printer:
    """What was found, printed as it comes unless it is to be JSON."""

    def __init__(self, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json

    def add(self, finding: Finding) -> None:
        finding = finding._replace(name=_plain(finding.name), detail=_plain(finding.detail))
        if not self._as_json:
            if not self.findings or self.findings[-1].group != finding.group:
                click.echo(f"\n{finding.group}" if self.findings else finding.group)
            click.echo(f"  {finding.status:<4}  {finding.name:<24}  {finding.detail}")
        self.findings.append(finding)

    def end(self) -> bool:
        """Prints the last line, or the one JSON object. Returns whether nothing failed."""
        statuses = [finding.status for finding in self.findings]
        failed, warned = statuses.count("FAIL"), statuses.count("warn")
        if self._as_json:
            click.echo(json.dumps({"checks": [finding._asdict() for finding in self.findings], "ok": not failed}))
        else:
            what = "all is well" if not failed else f"{failed} {'check' if failed == 1 else 'checks'} failed"
            click.echo(f"\n{what}" + (f", {warned} {'warning' if warned == 1 else 'warnings'}" if warned else ""))
        return not failed


def attempt(group: str, name: str, check: Callable[[], Answer]) -> Finding:
    """What a check says; an error of whatever kind is a finding too."""
    try:
        return Finding(group, name, *check())
    except Exception as error:  # noqa: BLE001 - a doctor reports what breaks
        return Finding(group, name, "FAIL", str(error) if isinstance(error, StreambedError) else in_words(error))


def in_words(error: Exception) -> str:
    """The error in one line of at most 300 characters: PyTorch's may bring a whole trace."""
    return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())[:300]


def gib(size: int) -> str:
    """Bytes in words, such as `1.50 GiB`."""
    return f"{size / (1 << 30):,.2f} GiB"


def _plain(text: str) -> str:
    """One line, whatever characters are in names of files and prompts."""
    return "".join(char if char.isprintable() else " " for char in text)
