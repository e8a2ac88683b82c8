import pytest

from engine.dataflow.merging import run_on_cluster
from engine.store import Workspace, compaction
from tests.store.helpers import add, image_rows, recipe_ids


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_files_are_merged_by_tasks_of_the_cluster(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", 64)
    monkeypatch.setattr(compaction, "TIERS", (1.0, 1 / 4, 1 / 16))
    workspace = Workspace.open(tmp_path / "workspace")
    for index in range(16):
        add(workspace, image_rows([index]))
    with workspace.lock("run"), monkeypatch.context() as patch:
        patch.setattr(compaction, "run_here", None)  # nothing is merged in this process
        assert workspace.compact(run=run_on_cluster) > 0
    assert len(workspace.dataset("images").get_fragments()) < 16
    assert workspace.fetch(recipe_ids(range(16)), ["seed"])["seed"].to_pylist() == list(range(16))
