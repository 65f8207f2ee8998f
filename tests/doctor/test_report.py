"""How findings are told."""

from __future__ import annotations

import json

import pytest

from streambed.doctor.report import Finding, Printer, attempt
from streambed.errors import CheckpointError

FINDINGS = [
    Finding("one", "first", "ok", "said"),
    Finding("one", "second\n", "warn", "\x1b[31mred"),
    Finding("other", "third", "FAIL", "why"),
]


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report = Printer(as_json=False)
    for finding in FINDINGS:
        report.add(finding)
    assert not report.end()
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "one",
        "  ok    first                     said",
        "  warn  second                     [31mred",
        "",
        "other",
        "  FAIL  third                     why",
        "",
        "1 check failed, 1 warning",
    ]


@pytest.mark.parametrize(
    ("statuses", "last"),
    [
        (["ok", "note"], "all is well"),
        (["warn", "warn"], "all is well, 2 warnings"),
        (["FAIL", "FAIL"], "2 checks failed"),
    ],
)
def test_last_line(capsys: pytest.CaptureFixture[str], statuses: list[str], last: str) -> None:
    report = Printer(as_json=False)
    for status in statuses:
        report.add(Finding("group", "name", status, ""))  # type: ignore[arg-type]
    assert report.end() == ("FAIL" not in statuses)
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    report = Printer(as_json=True)
    report.add(FINDINGS[0])
    assert report.end()
    check = {"group": "one", "name": "first", "status": "ok", "detail": "said"}
    assert json.loads(capsys.readouterr().out) == {"checks": [check], "ok": True}


def test_checks_that_break() -> None:
    def fail(error: Exception) -> tuple[str, str]:
        raise error

    for error, detail in (
        (CheckpointError("what is wrong"), "what is wrong"),
        (RuntimeError("first\nsecond" + " x" * 300), "RuntimeError: first second x"),
        (AssertionError(), "AssertionError"),
    ):
        finding = attempt("group", "name", lambda error=error: fail(error))  # type: ignore[misc,arg-type]
        assert finding.status == "FAIL"
        assert finding.detail.startswith(detail)
        assert len(finding.detail) <= 300
