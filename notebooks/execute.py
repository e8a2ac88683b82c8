"""Runs all notebooks in one kernel, one after the other: `python notebooks/execute.py [FOLDER]` writes their outputs into them.

Workspace and reports stay in FOLDER, or are deleted without one. They share a workspace and a Ray, so what one made the next ones find; each also runs alone.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parent.glob("[0-9]*.ipynb"))
BEFORE = """
import warnings
warnings.filterwarnings("ignore")
import engine.dataflow.cluster
engine.dataflow.cluster.of_notebooks = engine.dataflow.cluster.connected_cluster()
engine.dataflow.cluster.of_notebooks.__enter__()
"""
"""One Ray for all: a study uses the one that is connected."""
AFTER = "import engine.dataflow.cluster; engine.dataflow.cluster.of_notebooks.__exit__(None, None, None)"
SHOWN = ("stdout",)
"""Streams whose text is kept: progress lines on stderr differ from run to run."""


def execute(paths: Sequence[Path], output: Path, timeout_s: int = 500) -> list[nbformat.NotebookNode]:
    """The notebooks with the outputs of a run that writes its workspace and reports into `output`.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    whole = nbformat.v4.new_notebook(metadata=notebooks[0].metadata)
    cell = nbformat.v4.new_code_cell
    whole.cells = [cell(BEFORE)]
    for notebook in notebooks:
        whole.cells += [*notebook.cells, cell("%reset -f")]
    whole.cells.append(cell(AFTER))
    os.environ["NOTEBOOK_OUTPUT"] = str(output)
    resources = {"metadata": {"path": str(paths[0].parent)}}
    NotebookClient(whole, timeout=timeout_s, kernel_name="python3", resources=resources).execute()
    for notebook in notebooks:
        for number, one in enumerate((each for each in notebook.cells if each.cell_type == "code"), 1):
            one.execution_count = number
            one.outputs = [_plain(out, number, output) for out in one.outputs if out.get("name", "stdout") in SHOWN]
            one.metadata.pop("execution", None)  # when it ran
    return notebooks


def _plain(output: nbformat.NotebookNode, number: int, folder: Path) -> nbformat.NotebookNode:
    """The output under its cell's number, without the place of a run."""
    if "execution_count" in output:
        output.execution_count = number
    if "text" in output:
        output.text = output.text.replace(str(folder), ".")
    return output


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        output = Path(sys.argv[1] if len(sys.argv) > 1 else folder).resolve()
        for path, notebook in zip(NOTEBOOKS, execute(NOTEBOOKS, output), strict=True):
            nbformat.write(notebook, path)
            print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)
