"""The notebooks run one after the other, with pictures, and what is committed of them is small."""

import json
from pathlib import Path

import nbformat
import pytest

from engine.dataflow.run import MAX_WORKERS_VARIABLE
from notebooks.execute import NOTEBOOKS, execute

MOST_BYTES = 400_000


def pictures(notebook: nbformat.NotebookNode) -> int:
    kinds = [kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())]
    return sum(kind.startswith("image/") for kind in kinds)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_notebooks_run_and_show_what_they_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTEBOOK_OUTPUT", str(tmp_path))
    monkeypatch.setenv(MAX_WORKERS_VARIABLE, "1")
    notebooks = execute(NOTEBOOKS, tmp_path, timeout_s=600)
    assert len(notebooks) == 5
    assert all(pictures(notebook) for notebook in notebooks)
    tradeoff = json.loads((tmp_path / "report-tradeoffs" / "report.json").read_text())["tables"]["tradeoff"]
    assert {(row["source"], row["shots"]) for row in tradeoff} == {
        (source, shots) for source in ("generative", "retrieval", "original") for shots in (1, 5, 10)
    }
    everything = json.loads((tmp_path / "report-everything" / "report.json").read_text())
    assert everything["parts"][0]["findings"]
    assert "without" in str(notebooks[3].cells[-2].outputs)
    assert (tmp_path / "report-budget" / "index.html").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_have_pictures_and_are_small(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert pictures(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert not any(out.output_type == "error" for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "/tmp" not in path.read_text()
