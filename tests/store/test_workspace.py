import os
import pickle
from datetime import UTC, datetime

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recipe import IMAGE_SCHEMA, embedding_column, image_schema
from engine.store import RUN_SCHEMA, Workspace, rows, session

from .helpers import add, error_rows, image_rows, recipe_ids

RUN = {
    "run_id": "run-1",
    "started_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "wall_seconds": 10.0,
    "nodes": 2,
    "instance": "cpu",
    "usd_per_hour": 1.5,
    "busy_seconds": 8.0,
    "usd_busy": 0.1,
    "usd_billed": 0.2,
    "images": 100,
    "errors": 1,
    "status": "finished",
    "config": "{}",
    "planned": 120,
}


def tree(path):
    return sorted(str(place.relative_to(path)) for place in path.rglob("*"))


def test_lancedb_opens_the_tables_by_name(workspace):
    import lancedb

    add(workspace, image_rows(range(3)))
    database = lancedb.connect(workspace.uri)
    assert {name: database.open_table(name).count_rows() for name in ("images", "errors", "runs", "ledger")} == {
        "images": 3,
        "errors": 0,
        "runs": 0,
        "ledger": 0,
    }
    assert database.open_table("images").schema == IMAGE_SCHEMA


def test_a_workspace_is_opened_again_as_it_was(workspace):
    add(workspace, image_rows(range(3)))
    again = pickle.loads(pickle.dumps(Workspace.open(f"file://{workspace.uri}/", create=False)))
    assert again.uri == workspace.uri
    assert again.count() == 3
    assert again.count("class_index = 1") == 1


def test_a_half_made_workspace_is_completed(workspace):
    import shutil

    shutil.rmtree(workspace.table_uri("images"))
    add(Workspace.open(workspace.uri), image_rows(range(3)))
    assert Workspace.open(workspace.uri).count() == 3


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            Workspace.open(tmp_path / place)
    assert tree(tmp_path) == ["file"]


def test_a_missing_workspace_is_made_only_when_asked(tmp_path):
    with pytest.raises(ValueError, match="there is no workspace at"):
        Workspace.open(tmp_path / "none", create=False)
    assert tree(tmp_path) == []


def test_a_place_where_nothing_can_be_written_is_refused():
    with pytest.raises(ValueError, match=r"cannot write a workspace to /proc/none: .*|is not writable"):
        Workspace.open("/proc/none")


def test_a_folder_without_write_permission_is_refused(workspace, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="is not writable; change its permissions"):
        Workspace.open(workspace.uri)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="is not writable"):
        Workspace.open(tmp_path / "workspace")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (IMAGE_SCHEMA.with_metadata({"imagefoundry.schema_version": "0"}), "schema version 0, and this release reads"),
        (IMAGE_SCHEMA.remove(4), "has no column 'class_name'"),
        (IMAGE_SCHEMA.set(3, pa.field("class_index", pa.string())), "has no column 'class_index' of type int64"),
        (IMAGE_SCHEMA.remove_metadata(), "does not say its schema version"),
        (pa.schema({"other": pa.int64()}), "it is not a workspace"),
    ],
)
def test_tables_of_another_schema_are_refused_and_left_alone(tmp_path, schema, sentence):
    lance.write_dataset(schema.empty_table(), str(tmp_path / "images.lance"))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        Workspace.open(tmp_path)
    assert tree(tmp_path) == before


def test_a_table_of_an_older_release_is_read_as_it_is_and_gets_new_columns_from_the_next_run(workspace):
    workspace.ensure_encoder("a", 4)
    add(workspace, image_rows(range(3)))
    workspace.dataset("images").drop_columns(["image_format"])
    before = tree(workspace.table_path("images"))
    old = Workspace.open(workspace.uri, create=False)
    assert "image_format" not in old.image_schema().names
    assert tree(old.table_path("images")) == before
    with old.lock("run"):
        add(old, image_rows(range(3, 5)))
    assert old.scan(["image_format"]).read_all()["image_format"].to_pylist() == [None] * 3 + ["x"] * 2
    assert old.verify().rows == {"images": 5, "errors": 0}


def test_an_encoder_gets_a_column_and_keeps_its_dimension(workspace):
    add(workspace, image_rows(range(3)))
    workspace.ensure_encoder("ViT-B-32/openai", 8)
    workspace.ensure_encoder("ViT-B-32/openai", 8)
    workspace.ensure_encoder("b", 4)
    assert workspace.embedding_columns() == {"embedding_vit_b_32_openai": 8, "embedding_b": 4}
    assert workspace.image_schema() == image_schema({"ViT-B-32/openai": 8, "b": 4})
    assert workspace.image_schema().metadata == IMAGE_SCHEMA.metadata
    with pytest.raises(ValueError, match="holds embeddings of b with 4 numbers, not 5"):
        workspace.ensure_encoder("b", 5)
    Workspace.open(workspace.uri)


@pytest.mark.parametrize("indexed", [False, True])
def test_embeddings_are_filled_in_and_nothing_else_changes(workspace, indexed):
    workspace.ensure_encoder("a", 4)
    a = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    for start in range(0, 30, 10):
        add(workspace, image_rows(range(start, start + 10), a=a[start : start + 10]))
    workspace.ensure_encoder("b", 3)
    if indexed:
        workspace.build_indices()
    everything = [*IMAGE_SCHEMA.names, embedding_column("a")]
    before = workspace.fetch(recipe_ids(range(30)), everything)
    indices = [25, 3, 17, 4, 29]
    b = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    assert workspace.ids_without("b", recipe_ids([3, 99, 25])) == recipe_ids([3, 25])
    workspace.fill_embeddings("b", recipe_ids(indices), b[indices])
    assert workspace.ids_without("b", recipe_ids([3, 1, 99, 25, 0])) == recipe_ids([1, 0])
    rest = [index for index in range(30) if index not in indices]
    workspace.fill_embeddings("b", recipe_ids(rest), b[rest])
    workspace.fill_embeddings("b", recipe_ids([0]), b[:1] + 1)
    b[0] += 1
    assert workspace.count() == 30
    assert workspace.ids_without("b", recipe_ids(range(30))) == []
    after = workspace.fetch(recipe_ids(range(30)), [*everything, embedding_column("b")])
    assert after[embedding_column("b")].to_pylist() == b.tolist()
    assert after.drop([embedding_column("b")]) == before
    with workspace.lock("run"):
        workspace.compact()
    assert workspace.fetch(recipe_ids(range(30)), after.column_names) == after


def test_embeddings_of_rows_that_are_not_there_are_refused(workspace):
    workspace.ensure_encoder("a", 4)
    add(workspace, image_rows(range(3)))
    with pytest.raises(ValueError, match="2 ids name 1 rows"):
        workspace.fill_embeddings("a", recipe_ids([1, 9]), np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="2 ids name 1 rows"):
        workspace.fill_embeddings("a", recipe_ids([1, 1]), np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"need vectors of shape \(1, 4\)"):
        workspace.fill_embeddings("a", recipe_ids([1]), np.ones((1, 5), np.float32))
    with pytest.raises(ValueError, match="call ensure_encoder first"):
        workspace.fill_embeddings("b", recipe_ids([1]), np.ones((1, 5), np.float32))
    assert workspace.ids_without("a", recipe_ids(range(3))) == recipe_ids(range(3))


def test_done_ids_are_the_committed_ones(workspace):
    assert len(workspace.done_ids()) == 0
    add(workspace, image_rows(range(5)))
    add(workspace, error_rows(range(5, 7)), "errors")
    done = workspace.done_ids()
    assert len(done) == 5
    assert done.contains(recipe_ids([4, 5, 0])).tolist() == [True, False, True]


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    workspace = Workspace.open(tmp_path_factory.mktemp("fifty"))
    for start in range(0, 50, 10):
        add(workspace, image_rows(range(start, start + 10)))
    return workspace


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(st.integers(0, 60), max_size=30), few=st.booleans())
def test_fetch_gives_the_rows_in_the_order_asked(fifty, asked, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "FEW_IDS", 1_000 if few else 0)
        found = fifty.fetch(recipe_ids(asked), ["seed", "image"])
    present = [index for index in asked if index < 50]
    assert found.column_names == ["id", "seed", "image"]
    assert found["id"].to_pylist() == recipe_ids(present)
    assert found["seed"].to_pylist() == present
    assert found["image"].to_pylist() == [b"image %d" % index for index in present]


def located(workspace, asked):
    found, at, _ = rows.locate(workspace.dataset("images"), pa.array(recipe_ids(asked)))
    return found.to_pylist(), at.tolist()


def test_rows_are_read_at_their_positions_without_a_search(fifty, monkeypatch):
    found, at = located(fifty, [7, 99, 3])
    assert found == recipe_ids([3, 7])
    monkeypatch.setattr(rows, "FEW_IDS", -1)
    monkeypatch.setattr(rows, "locate", None)  # neither a filter nor a scan is left
    assert fifty.fetch(found, ["seed"], at)["seed"].to_pylist() == [3, 7]
    assert fifty.fetch(found[::-1], ["seed"], at[::-1])["seed"].to_pylist() == [7, 3]


@pytest.mark.parametrize("gone", [0, 5, 48])
def test_rows_that_have_moved_are_found_by_their_ids(workspace, gone):
    add(workspace, image_rows(range(50)))
    found, at = located(workspace, [3, 20, 49])
    (lost,) = recipe_ids([gone])
    lance.dataset(workspace.table_uri("images")).delete(f"id = '{lost}'")
    assert workspace.fetch(found, ["seed"], at)["seed"].to_pylist() == [3, 20, 49]


def test_an_id_with_a_quote_finds_nothing(fifty):
    assert fifty.fetch(["' OR true OR id = '"], ["seed"]).num_rows == 0


def test_scan_streams_the_rows_that_a_condition_holds_for(fifty):
    seeds = [seed for batch in fifty.scan(["seed"], "dataset = 'cars'") for seed in batch["seed"].to_pylist()]
    assert seeds == list(range(0, 50, 2))


def test_a_run_has_one_row(workspace):
    workspace.put_run(RUN)
    workspace.put_run(RUN | {"run_id": "run-2", "status": "interrupted"})
    assert workspace.runs().schema == RUN_SCHEMA
    assert workspace.runs().to_pylist() == [RUN, RUN | {"run_id": "run-2", "status": "interrupted"}]
    workspace.put_run(RUN | {"images": 200})
    assert sorted(workspace.runs()["images"].to_pylist()) == [100, 200]
    with pytest.raises(ValueError, match="column 'config' is required"):
        workspace.put_run({name: value for name, value in RUN.items() if name != "config"})
    with pytest.raises(ValueError, match="no column 'colour'"):
        workspace.put_run(RUN | {"colour": "red"})
    assert workspace.runs().num_rows == 2


def test_errors_are_read_by_run(workspace):
    add(workspace, error_rows(range(3)), "errors")
    assert workspace.errors("run-1").num_rows == workspace.errors().num_rows == 3
    assert workspace.errors("it's another").num_rows == 0


def test_versions_left_behind_take_bounded_memory(tmp_path, monkeypatch):
    limit = 256 * 1024
    monkeypatch.setattr(session, "METADATA_CACHE_BYTES", limit)
    workspace = Workspace.open(tmp_path / "workspace")
    for number in range(40):  # without the limit, they take 1.6 MB
        add(workspace, image_rows([number]))
        assert workspace.fetch(recipe_ids([number]), ["seed"]).num_rows == 1
    assert workspace.dataset("images").session().size_bytes() < 2 * limit
