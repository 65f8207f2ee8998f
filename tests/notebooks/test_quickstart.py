"""The notebook runs from top to bottom against `streambed serve`, and says what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.test_process import Process

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_quickstart(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    process = Process("--port", "0").ready()
    monkeypatch.setenv("STREAMBED_URL", f"http://127.0.0.1:{process.port}")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    try:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    finally:
        process.close()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "the same as in one go: True" in printed
    assert "How to repair a flat bicycle tyre" in printed
    assert "ms each" in printed
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
