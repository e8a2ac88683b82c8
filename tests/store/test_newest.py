"""Pages of the newest rows, over many fragments, while others are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store import Workspace
from engine.store import newest as module
from engine.store.newest import POSITION, newest
from tests.store.helpers import add, image_rows, recipe_ids


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace.open(tmp_path_factory.mktemp("newest") / "w")
    for start in range(0, 60, 6):
        add(workspace, image_rows(range(start, start + 6)))
    return workspace


def pages(workspace, where, limit):
    found, before = [], None
    while True:
        page = newest(workspace.dataset("images"), where, limit=limit, before=before)
        if not page.num_rows:
            return found
        found += page["id"].to_pylist()
        before = page[POSITION][-1].as_py()


@given(limit=st.integers(1, 70), dataset=st.sampled_from([None, "cars", "birds", "none"]), first=st.integers(1, 100))
def test_pages_hold_every_row_once_newest_first(workspace, limit, dataset, first):
    where = None if dataset is None else f"dataset = '{dataset}'"
    expected = [index for index in range(60) if dataset in (None, ("cars", "birds")[index % 2])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIRST_ROWS", first)
        assert pages(workspace, where, limit) == recipe_ids(expected[::-1])


def test_rows_that_are_added_move_nothing(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    add(workspace, image_rows(range(10)))
    first = newest(workspace.dataset("images"), None, limit=4)
    add(workspace, image_rows(range(10, 20)))
    second = newest(workspace.dataset("images"), None, limit=4, before=first[POSITION][-1].as_py())
    assert first["id"].to_pylist() + second["id"].to_pylist() == recipe_ids(range(9, 1, -1))


def test_merges_of_small_files_move_nothing(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    for index in range(12):
        add(workspace, image_rows([index]))
    first = newest(workspace.dataset("images"), None, limit=4)
    workspace.dataset("images").optimize.compact_files()
    add(workspace, image_rows([12]))
    assert len(workspace.dataset("images").get_fragments()) == 2
    second = newest(workspace.dataset("images"), None, limit=4, before=first[POSITION][-1].as_py())
    assert second["id"].to_pylist() == recipe_ids(range(7, 3, -1))
    assert newest(workspace.dataset("images"), None, limit=1)["id"].to_pylist() == recipe_ids([12])


def test_deleted_rows_are_not_shown(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    add(workspace, image_rows(range(6)))
    gone = recipe_ids([4])[0]
    workspace.dataset("images").delete(f"id = '{gone}'")
    assert newest(workspace.dataset("images"), None, limit=3)["id"].to_pylist() == recipe_ids([5, 3, 2])


def test_an_empty_table_has_no_rows(tmp_path):
    page = newest(
        Workspace.open(tmp_path / "w").dataset("images"), "source = 'original'", limit=3, columns=("id", "seed")
    )
    assert page.num_rows == 0
    assert page.column_names == ["id", "seed", POSITION]


def test_a_condition_that_is_none_is_refused(workspace):
    with pytest.raises(ValueError, match="nonsense"):
        newest(workspace.dataset("images"), "nonsense = 1", limit=3)
