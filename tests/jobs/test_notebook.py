"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "genbench.ipynb"


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_the_notebook_makes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTEBOOK_OUTPUT", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    rows = json.loads((tmp_path / "report-notebook" / "report.json").read_text())["tables"]["tradeoff"]
    assert {(row["source"], row["shots"]) for row in rows} == {
        ("generative", 1),
        ("generative", 5),
        ("original", 1),
        ("original", 5),
    }
    assert "usd_compute" in str(notebook.cells[-1].outputs)
