import subprocess
import sys
from pathlib import Path

from engine.store import Workspace
from tests.store.helpers import add, sound_rows

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/verify_workspace.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_damage_is_told_then_repaired(tmp_path: Path):
    place = str(tmp_path / "workspace")
    workspace = Workspace.open(place)
    workspace.ensure_encoder("a", 4)
    add(workspace, sound_rows(range(3)))
    add(workspace, sound_rows(range(3, 5)))
    assert run(place).returncode == 0
    file = workspace.dataset("images").get_fragments()[0].metadata.files[0].path
    (Path(workspace.table_uri("images")) / "data" / file).unlink()
    found = run(place)
    assert found.returncode == 1
    assert f"images {file}: data file {file} is missing" in found.stdout
    assert "Run again with --repair" in found.stdout
    repaired = run(place, "--repair")
    assert repaired.returncode == 0
    assert "the next run makes these images again" in repaired.stdout
    again = run(place)
    assert again.returncode == 0
    assert again.stdout == f"Read 2 rows of images and 0 rows of errors in workspace {place}.\nNothing is damaged.\n"


def test_a_workspace_that_is_not_there_is_one_line_and_a_failing_exit(tmp_path: Path):
    done = run(str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no workspace at")
    assert done.stderr.count("\n") == 1
