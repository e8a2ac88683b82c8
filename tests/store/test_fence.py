"""Two runs that both believe they hold the lock, and commits whose answer is lost."""

from contextlib import ExitStack, contextmanager
from pathlib import Path

import lance
import numpy as np
import pytest

from engine.store import (
    Committer,
    Workspace,
    WorkspaceLost,
    compaction,
    fence,
    lock,
    object_lock,
    runs,
    write_fragments,
)
from engine.store import workspace as workspace_of_store

from .helpers import add, error_rows, image_rows, recipe_ids
from .test_runs import WORK
from .test_workspace import RUN


@pytest.fixture
def stolen(monkeypatch):
    """A way to take a lock that another run still holds, as if that run were dead."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 3600.0)

    def take(workspace, run_id):
        if workspace.is_local:
            (Path(workspace.uri) / lock.LOCK_NAME).unlink()
        monkeypatch.setattr(object_lock, "STALE_SECONDS", 0.0)
        return Workspace.open(workspace.uri).lock(run_id)

    return take


def ids(workspace, name="images"):
    return sorted(workspace.dataset(name).to_table(columns=["id"])["id"].to_pylist())


@pytest.mark.parametrize("begun", ["before", "after"])
def test_a_run_that_wakes_after_another_took_over_commits_nothing(any_workspace, stolen, monkeypatch, begun):
    first, second = any_workspace, Workspace.open(any_workspace.uri)
    append = first.append

    def paused(*arguments):
        with stolen(second, "second"):
            if begun == "after":
                add(second, image_rows(range(4)))
        return append(*arguments)

    with first.lock("first"):
        add(first, image_rows(range(2)))
        committer = Committer(first)
        committer.add(write_fragments(first.uri, "images", image_rows(range(2, 4))))
        monkeypatch.setattr(first, "append", paused)
        with pytest.raises(
            WorkspaceLost, match=r"another run took over workspace .*; start this run again to resume it"
        ):
            committer.flush()
    held = {"before": range(2), "after": [0, 1, *range(4)]}[begun]
    assert ids(second) == sorted(recipe_ids(held))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.ensure_encoder("b", 3),
        lambda w: w.fill_embeddings("a", recipe_ids([0]), np.ones((1, 4), np.float32)),
        lambda w: w.build_indices(),
        lambda w: w.compact(clean=False),
        lambda w: add(w, error_rows([7]), "errors"),
        lambda w: w.put_run(RUN | {"run_id": "first"}),
        lambda w: w.put_ledger("first", [WORK]),
    ],
)
def test_a_run_that_was_taken_over_stops_at_any_change_and_the_other_goes_on(workspace, stolen, monkeypatch, change):
    monkeypatch.setattr(compaction, "TIERS", (1.5e-5,))
    monkeypatch.setattr(compaction, "FRAGMENTS_PER_MERGE", 2)
    first, second = workspace, Workspace.open(workspace.uri)
    first.ensure_encoder("a", 4)
    for index in range(3):
        add(first, image_rows([index]))
    with first.lock("first"), stolen(second, "second"):
        with pytest.raises(WorkspaceLost):
            change(first)
        assert "b" not in first.embedding_columns()
        assert first.ids_without("a", recipe_ids(range(3))) == recipe_ids(range(3))
        add(second, image_rows(range(3, 6)))
        add(second, error_rows([8]), "errors")
    assert ids(workspace) == sorted(recipe_ids(range(6)))
    assert ids(workspace, "errors") == recipe_ids([8])


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.put_run(RUN | {"run_id": "first", "images": 7}),
        lambda w: w.put_ledger("first", [WORK | {"rows": 7}]),
        lambda w: runs.put_ledger(w, "first", []),
        lambda w: w.drop_old_errors(recipe_ids([7]), "first"),
    ],
)
def test_a_run_that_is_taken_over_in_the_middle_of_a_change_changes_nothing(any_workspace, stolen, monkeypatch, change):
    first, second = any_workspace, Workspace.open(any_workspace.uri)
    writing = fence.Fence.writing
    add(first, error_rows([7]), "errors")

    @contextmanager
    def paused(self):
        monkeypatch.setattr(fence.Fence, "writing", writing)
        with writing(self) as dataset:
            with stolen(second, "second"):
                second.put_run(RUN | {"run_id": "first", "images": 2})
                second.put_ledger("first", [WORK | {"rows": 2}])
            yield dataset

    with first.lock("first"):
        monkeypatch.setattr(fence.Fence, "writing", paused)
        with pytest.raises(WorkspaceLost):
            change(first)
    assert [row["images"] for row in second.runs().to_pylist()] == [2]
    assert [row["rows"] for row in second.ledger().to_pylist()] == [2]
    assert ids(second, "errors") == recipe_ids([7])


def test_a_run_goes_on_after_its_own_changes_of_the_table(any_workspace):
    workspace = any_workspace
    with workspace.lock("run"):
        add(workspace, image_rows(range(3)))
        workspace.ensure_encoder("a", 4)
        add(workspace, image_rows(range(3, 6), a=np.ones((3, 4), np.float32)))
        workspace.fill_embeddings("a", recipe_ids(range(3)), np.ones((3, 4), np.float32))
        workspace.build_indices()
        add(workspace, image_rows(range(6, 9)))
        workspace.compact()
        add(workspace, image_rows(range(9, 12)))
    assert ids(workspace) == sorted(recipe_ids(range(12)))


def test_a_writer_without_the_lock_stops_the_run(workspace):
    with workspace.lock("run"):
        add(workspace, image_rows(range(3)))
        add(Workspace.open(workspace.uri), image_rows(range(3, 6)))
        with pytest.raises(WorkspaceLost):
            add(workspace, image_rows(range(6, 9)))
    assert ids(workspace) == sorted(recipe_ids(range(6)))


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("error", [OSError("connection reset"), KeyboardInterrupt()])
def test_a_commit_whose_answer_is_lost_is_not_repeated(any_workspace, monkeypatch, locked, error):
    workspace, commit = any_workspace, lance.LanceDataset.commit

    def lost_answer(*arguments, **options):
        commit(*arguments, **options)
        monkeypatch.setattr(lance.LanceDataset, "commit", commit)
        raise error

    def run():
        committer = Committer(workspace, clock=lambda: 0.0)
        committer.add(write_fragments(workspace.uri, "images", image_rows(range(3))))
        monkeypatch.setattr(lance.LanceDataset, "commit", lost_answer)
        try:
            committer.flush()
        except KeyboardInterrupt:
            committer.add(write_fragments(workspace.uri, "images", image_rows(range(3, 5))))
            committer.flush()
        assert committer.rows["images"] == workspace.count()

    monkeypatch.setattr("engine.store.commit.sleep", lambda _: None)
    if locked:
        with workspace.lock("run"):
            run()
    else:
        run()
    assert ids(workspace) == sorted(recipe_ids(range(5 if isinstance(error, KeyboardInterrupt) else 3)))


def test_a_barrier_undoes_no_commit_that_comes_in_between(any_workspace, monkeypatch):
    commit, other, calls = lance.LanceDataset.commit, Workspace.open(any_workspace.uri), []

    def raced(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            add(other, image_rows(range(3)))
        return commit(*arguments, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", raced)
    with any_workspace.lock("run"):
        add(any_workspace, image_rows(range(3, 6)))
    assert ids(any_workspace) == sorted(recipe_ids(range(6)))


def test_a_run_that_was_taken_over_deletes_no_file_of_the_other(workspace, stolen):
    first, second = workspace, Workspace.open(workspace.uri)
    with first.lock("first"), stolen(second, "second"):
        receipt = write_fragments(second.uri, "errors", error_rows([3]))
        with pytest.raises(WorkspaceLost):
            first.compact()
        with Committer(second) as committer:
            committer.add(receipt)
    assert ids(workspace, "errors") == recipe_ids([3])


def test_a_run_that_sleeps_before_its_barrier_does_not_end_its_successor(any_workspace, stolen, monkeypatch):
    first, second, check = any_workspace, Workspace.open(any_workspace.uri), workspace_of_store.check_files
    with ExitStack() as stack:

        def asleep(workspace):
            check(workspace)
            if workspace is first:
                stack.enter_context(stolen(second, "second"))
                add(second, image_rows(range(3)))

        monkeypatch.setattr(workspace_of_store, "check_files", asleep)
        with pytest.raises(WorkspaceLost), first.lock("first"):
            pass
        add(second, image_rows(range(3, 6)))
    assert ids(second) == sorted(recipe_ids(range(6)))


def test_a_lock_that_was_deleted_starts_above_the_token_of_the_tables(any_workspace):
    for _ in range(3):
        with any_workspace.lock("run"):
            add(any_workspace, image_rows([0]))
    token = fence.token_of(any_workspace.dataset("images"))
    assert token == fence.token_of(any_workspace.dataset("errors")) == 3
    if any_workspace.is_local:
        (Path(any_workspace.uri) / lock.LOCK_NAME).unlink()
    else:
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).rm_file(f"{any_workspace.uri}/{lock.LOCK_NAME}")
    with any_workspace.lock("run"):
        any_workspace.ensure_encoder("a", 4)
        any_workspace.build_indices()
        any_workspace.compact()
        add(any_workspace, image_rows([1]))
    assert fence.token_of(any_workspace.dataset("images")) == token + 1
    with any_workspace.lock("run"):
        pass
    assert fence.token_of(any_workspace.dataset("images")) == token + 2
