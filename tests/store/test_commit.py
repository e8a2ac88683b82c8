import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.recipe import embedding_column
from engine.store import CommitFailed, Committer, Receipt, Workspace, write_fragments

from .helpers import add, error_rows, image_rows, recipe_ids


def test_fragments_are_invisible_until_they_are_committed(workspace):
    receipt = write_fragments(workspace.uri, "images", image_rows(range(4)))
    assert workspace.count() == 0
    with Committer(workspace) as committer:
        committer.add(receipt)
        assert committer.maybe_commit() == 0
        assert workspace.count() == 0
        assert committer.flush() == 4
        assert workspace.count() == 4
    assert workspace.count() == 4


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.tuples(st.sampled_from(["images", "errors"]), st.integers(0, 4), st.booleans()), max_size=6))
def test_every_row_is_committed_exactly_once(tmp_path_factory, sizes):
    workspace = Workspace.open(tmp_path_factory.mktemp("w"))
    made = {"images": 0, "errors": 0}
    with Committer(workspace) as committer:
        for name, size, commit in sizes:
            indices = range(made[name], made[name] + size)
            rows = image_rows(indices) if name == "images" else error_rows(indices)
            committer.add(write_fragments(workspace.uri, name, rows))
            made[name] += size
            if commit:
                committer.flush()
    assert committer.rows == made
    ids = {name: workspace.dataset(name).to_table(columns=["id"])["id"].to_pylist() for name in made}
    assert {name: sorted(found) for name, found in ids.items()} == {
        name: sorted(recipe_ids(range(size))) for name, size in made.items()
    }


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_keeps_what_was_handed_in(workspace, error):
    def run():
        with Committer(workspace) as committer:
            committer.add(write_fragments(workspace.uri, "images", image_rows(range(3))))
            raise error

    with pytest.raises(error):
        run()
    assert workspace.count() == 3


def test_an_interrupt_during_the_commit_does_not_double_its_rows(workspace, monkeypatch):
    import lance

    commit = lance.LanceDataset.commit

    def interrupted(*args, **kwargs):
        commit(*args, **kwargs)
        raise KeyboardInterrupt

    committer = Committer(workspace)
    committer.add(write_fragments(workspace.uri, "images", image_rows(range(3))))
    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            committer.flush()
    assert workspace.count() == 3
    committer.add(write_fragments(workspace.uri, "images", image_rows(range(3, 5))))
    assert committer.flush() == 5
    assert workspace.count() == 5
    assert committer.rows["images"] == 5


def test_a_writer_that_dies_before_its_receipt_arrives_leaves_an_orphan_that_compaction_removes(workspace):
    add(workspace, image_rows(range(3)))
    orphan = json.loads(write_fragments(workspace.uri, "images", image_rows(range(3, 6))).fragments[0])
    file = Path(workspace.table_uri("images")) / "data" / orphan["files"][0]["path"]
    assert file.exists()
    with workspace.lock("run-2"):
        workspace.compact(keep_versions_for=timedelta(0))
    assert not file.exists()
    assert workspace.fetch(recipe_ids(range(6)), ["image"])["image"].to_pylist() == [b"image 0", b"image 1", b"image 2"]


def test_receipts_that_promise_other_rows_than_were_written_stop_the_run(workspace):
    receipt = write_fragments(workspace.uri, "images", image_rows(range(3)))
    committer = Committer(workspace)
    committer.add(Receipt(table_name="images", fragments=receipt.fragments, rows=4))
    with pytest.raises(RuntimeError, match="promise 4 rows and their fragments hold 3"):
        committer.flush()
    assert workspace.count() == 0


def test_a_second_writer_beside_the_committer_is_noticed(workspace, monkeypatch):
    import lance

    commit = lance.LanceDataset.commit

    def beside(*args, **kwargs):
        commit(*args, **kwargs)
        return commit(*args, **kwargs)

    committer = Committer(workspace)
    committer.add(write_fragments(workspace.uri, "images", image_rows(range(3))))
    monkeypatch.setattr(lance.LanceDataset, "commit", beside)
    with pytest.raises(RuntimeError, match="from 0 to 6 rows in a commit of 3"):
        committer.flush()


def test_a_file_written_on_another_nodes_disk_is_not_committed(workspace):
    receipt = write_fragments(workspace.uri, "images", image_rows(range(3)))
    for file in (Path(workspace.table_uri("images")) / "data").iterdir():
        file.unlink()
    committer = Committer(workspace)
    committer.add(receipt)
    with pytest.raises(RuntimeError, match="workspace all nodes share"):
        committer.flush()
    assert workspace.count() == 0


def test_a_receipt_travels_as_a_row_of_plain_values(workspace):
    receipt = write_fragments(workspace.uri, "errors", error_rows(range(2)))
    row = pa.Table.from_pylist([receipt.to_dict()]).to_pandas().to_dict("records")[0]
    assert Receipt.from_dict(row) == receipt
    assert len(json.dumps(receipt.to_dict())) < 2_000


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_embedding_columns_added_meanwhile_are_null_in_rows_that_lack_them(workspace, order):
    a, b = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
    receipts = [write_fragments(workspace.uri, "images", image_rows([0, 1]))]
    workspace.ensure_encoder("a", 4)
    receipts.append(write_fragments(workspace.uri, "images", image_rows([2, 3], a=a)))
    workspace.ensure_encoder("b", 4)
    receipts.append(write_fragments(workspace.uri, "images", image_rows([4, 5], b=b)))
    receipts.append(write_fragments(workspace.uri, "images", image_rows([6, 7], a=b, b=a)))
    committer = Committer(workspace)
    for place in order:
        committer.add(receipts[place])
        committer.flush()
    table = workspace.fetch(recipe_ids(range(8)), [embedding_column("a"), embedding_column("b"), "seed", "image"])
    none = [None, None]
    assert table[embedding_column("a")].to_pylist() == [*none, *a.tolist(), *none, *b.tolist()]
    assert table[embedding_column("b")].to_pylist() == [*none, *none, *b.tolist(), *a.tolist()]
    assert table["seed"].to_pylist() == list(range(8))
    assert table["image"].to_pylist() == [b"image %d" % index for index in range(8)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(["image"]), "column 'image' is required"),
        (lambda t: t.append_column("embedding_x", pa.array([[1.0]])), "call Workspace.ensure_encoder first"),
        (lambda t: t.set_column(0, "id", pa.array([None], pa.string())), "column 'id' is required"),
        (lambda t: t.set_column(3, "class_index", pa.array(["three"])), "column 'class_index' does not fit int64"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(workspace, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_fragments(workspace.uri, "images", change(image_rows([0])))


def test_a_concurrent_reader_sees_a_commit_whole_or_not_at_all(workspace):
    seen, done = set(), threading.Event()

    def read():
        reader = Workspace.open(workspace.uri, create=False)
        while not done.is_set():
            seen.add(sum(batch.num_rows for batch in reader.scan(["id", "seed"])))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for start in range(0, 200, 10):
            with Committer(workspace) as committer:
                for index in range(start, start + 10, 5):
                    committer.add(write_fragments(workspace.uri, "images", image_rows(range(index, index + 5))))
    finally:
        done.set()
        thread.join()
    assert seen <= set(range(0, 201, 10))
    assert len(seen) > 1


def indexed(workspace, indices, name="images"):
    rows = image_rows(indices) if name == "images" else error_rows(indices)
    return write_fragments(workspace.uri, name, rows, indices=list(indices))


def test_an_index_is_accepted_once_as_an_image_or_as_an_error(workspace):
    expected = np.arange(8)
    with Committer(workspace, 10) as committer:
        assert committer.add(indexed(workspace, [0, 1, 2])) == []
        assert committer.add(indexed(workspace, [3], "errors")) == []
        assert committer.add(indexed(workspace, [2, 3, 4, 5])) == [4, 5]
        assert committer.add(indexed(workspace, [1], "errors")) == []
        assert committer.refused == 2
        assert committer.missing(expected).tolist() == [4, 5, 6, 7]
        assert committer.add(indexed(workspace, [4, 5])) == []
        assert committer.missing(expected).tolist() == [6, 7]
    assert committer.refused == 2
    assert workspace.fetch(recipe_ids(range(8)), ["seed"])["seed"].to_pylist() == [0, 1, 2, 4, 5]
    assert workspace.errors()["seed"].to_pylist() == [3]


@pytest.fixture
def store(monkeypatch):
    """Fails the next `store.failures` commits."""
    import lance

    class Store:
        failures = 0

    commit = lance.LanceDataset.commit

    def failing(*arguments, **options):
        if Store.failures:
            Store.failures -= 1
            raise OSError("slow down")
        return commit(*arguments, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", failing)
    return Store


def test_a_failed_commit_is_tried_again_later_and_nothing_is_lost(workspace, store):
    now = [0.0]
    committer = Committer(workspace, 10, 5.0, clock=lambda: now[0])
    committer.add(indexed(workspace, [0, 1]))
    store.failures = 3
    tries = []
    for second in range(20):
        now[0], before = float(second), store.failures
        made = committer.maybe_commit()
        if made or store.failures < before:
            tries.append((second, made))
        if second == 5:
            assert committer.problem == f"cannot commit to workspace {workspace.uri}: slow down"
            committer.add(indexed(workspace, [2]))
    assert tries == [(5, 0), (6, 0), (8, 0), (12, 3)]
    assert committer.problem == ""
    assert workspace.count() == 3


def test_a_store_that_stays_away_ends_the_run(workspace, store):
    now = [0.0]
    committer = Committer(workspace, every_seconds=5.0, clock=lambda: now[0])
    committer.add(write_fragments(workspace.uri, "images", image_rows([0])))
    store.failures = 100

    def wait():
        for second in range(200):
            now[0] = float(second)
            committer.maybe_commit()

    with pytest.raises(CommitFailed, match=r"slow down \(8 times in a row\); see that the store can be written to"):
        wait()
    assert now[0] == 5 + 1 + 2 + 4 + 8 + 16 + 30 + 30


def test_the_last_commit_is_tried_several_times(workspace, store, monkeypatch):
    waits = []
    monkeypatch.setattr("engine.store.commit.sleep", waits.append)
    store.failures = 3
    add(workspace, image_rows([0]))
    assert waits == [1, 2, 4]
    store.failures = 4
    with pytest.raises(CommitFailed, match="4 times in a row"):
        add(workspace, image_rows([1]))
    assert workspace.count() == 1


def test_what_is_written_and_committed_is_forced_to_disk(workspace, monkeypatch):
    synced = set()
    fsync = os.fsync

    def noted(fd):
        synced.add(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    table = Path(workspace.table_uri("images"))
    before = set(table.rglob("*"))
    receipt = write_fragments(workspace.uri, "images", image_rows(range(3)))
    assert synced == {table / "data", *(table / "data").iterdir()}
    with Committer(workspace) as committer:
        committer.add(receipt)
    assert set(table.rglob("*")) - before <= synced
    assert {table / "_versions", table / "_transactions"} <= synced


def test_rows_of_a_small_table_are_forced_to_disk(workspace, monkeypatch):
    synced = set()
    fsync = os.fsync

    def noted(fd):
        synced.add(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    table = Path(workspace.table_uri("keys"))
    before = set(table.rglob("*"))
    row = {"key_id": "a", "name": "a", "hash": "a", "created_at": datetime.now(UTC), "rate_per_minute": 0}
    workspace.add_rows("keys", pa.Table.from_pylist([row | {"budget_usd": 0.0, "revoked": False}]))
    assert workspace.read("keys")["name"].to_pylist() == ["a"]
    new = {path for path in set(table.rglob("*")) - before if path.is_file()}
    assert {path.parent.name for path in new} == {"data", "_versions", "_transactions"}
    assert new | {path.parent for path in new} <= synced
