"""Fixtures for tests of the page: servers as processes, and Debian's Chromium driven by playwright.

Needs `make .venv/e2e` and `apt-get install chromium`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.groups import program
from tests.server.test_process import Process

WAIT_MS = 20_000
"""There to end a hanging test, not to measure."""

Start = Callable[..., Process]
Open = Callable[..., Any]


def expect(what: Any) -> Any:
    """playwright's, imported where it is used: modules of this folder are collected without it, too."""
    from playwright.sync_api import expect

    return expect(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of the module, not of the session: while playwright's loop runs, nobody else can run one in this thread."""
    api = pytest.importorskip("playwright.sync_api", reason="`make .venv/e2e` installs it")
    path = program("chromium", "chromium-browser", "google-chrome")
    api.expect.set_options(timeout=WAIT_MS)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers of the built-in model: `start(*arguments, **environment)`."""
    processes: list[Process] = []

    def start(*arguments: Any, **environment: str) -> Process:
        port = () if "--port" in arguments else ("--port", "0")
        processes.append(Process(*port, "--threads", "1", *arguments, **environment))
        return processes[-1].ready()

    yield start
    for process in processes:
        process.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    """One that all tests share that do not end it."""
    process = Process("--port", "0", "--threads", "1").ready()
    yield process
    process.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens the page: `visit(server, expected="pattern of console errors that are no fault", **context)`."""
    contexts: list[Any] = []
    faults: list[str] = []

    def visit(server: Process, *, expected: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()

        def note(words: str) -> None:
            if expected is None or not re.search(expected, words):
                faults.append(words)

        page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/playground/")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == [], "nothing is said on the console"
