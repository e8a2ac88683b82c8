"""The two jobs' work on tiny real things: a database that grows, and negatives that are mined once."""

from dataclasses import replace

import numpy as np
import pytest

from engine.costs import PriceBook
from engine.dataflow.run import Run
from engine.retriever import ray_mining
from engine.retriever.database import Database, DatabasePlan
from engine.store import Workspace
from engine.studies.realrag.negatives import DatabaseConfig, MineConfig, build_database, mine_negatives
from engine.testing.data import write_dataset
from tests.retriever.test_exact_search import brute_force


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_database_grows_and_each_generated_image_gets_its_negatives_once(
    tmp_path, tiny_dataset, tiny_encoder, tiny_pipeline, monkeypatch
):
    monkeypatch.setattr(ray_mining, "QUERIES_PER_SHARD", 4)
    others = write_dataset(tmp_path / "others", ("yellow sun", "grey stone"))
    build = DatabaseConfig(datasets=(str(tiny_dataset),), encoder=tiny_encoder, workspace=str(tmp_path / "workspace"))
    first = build_database(replace(build, shots=2))
    assert (first.planned, first.made, first.errors) == (6, 6, 0)
    assert build_database(replace(build, shots=2)).made == 0
    both = replace(build, datasets=(str(tiny_dataset), str(others)))
    grown = build_database(both)
    assert grown.made == grown.planned - 6

    mine = MineConfig(**vars(both) | {"generator": tiny_pipeline, "images": 2, "k": 2, "batch_size": 4})
    found = mine_negatives(mine)
    assert (found["mined"], found["present"], found["images"] + found["duplicates"]) == (10, 0, grown.planned)
    again = mine_negatives(mine)
    assert (again["mined"], again["present"], again["name"]) == (0, 10, found["name"])
    workspace = Workspace.open(mine.workspace, create=False)
    rows = workspace.negatives().to_pylist()
    assert len(rows) == 20
    assert all(row["negative_class_name"] != row["class_name"] for row in rows)
    assert {row["prompt"] for row in rows if row["class_name"] == "yellow sun"} == {"a photo of yellow sun"}

    # against all images of other classes, by hand
    (column,) = workspace.embedding_columns()
    of_rank_1 = [row for row in rows if row["rank"] == 1]
    searched = Database(workspace, rows[0]["encoder"], [one for plan in both.plans() for one in plan.ids()])
    ids = searched.id_of(np.arange(len(searched)))  # each picture once
    database = workspace.fetch(ids, [column, "class_name"])
    generated = workspace.fetch([row["generated_id"] for row in of_rank_1], [column, "class_name"])
    vectors, queries = (
        np.stack(table[column].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1))
        for table in (database, generated)
    )
    names = sorted(set(database["class_name"].to_pylist()))
    codes, query_codes = (
        np.array([names.index(name) for name in table["class_name"].to_pylist()]) for table in (database, generated)
    )
    _, best = brute_force(queries, vectors, 1, query_codes, codes)
    np.testing.assert_allclose([row["score"] for row in of_rank_1], best[:, 0], atol=1e-5)
    assert any(row["stage"] == "mine" and row["rows"] == 20 for row in workspace.ledger().to_pylist())

    # another number of negatives, and a database that has grown, are mined anew; what was mined stays
    assert mine_negatives(replace(mine, k=1))["mined"] == 10
    assert mine_negatives(replace(mine, datasets=(str(tiny_dataset),)))["mined"] == 6
    assert workspace.negatives().num_rows == 20 + 10 + 12
    alike = Database(workspace, rows[0]["encoder"], _same_class(workspace, rows[0]))
    with Run(workspace, PriceBook.load()) as run, pytest.raises(ValueError, match="so none is left for it"):
        ray_mining.mine_missing(run, [rows[0]["generated_id"]], alike, k=1, mask=True)


def _same_class(workspace, row):
    return f"class_name = '{row['class_name']}' AND source = 'original'"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"datasets": ()}, "datasets is empty"),
        ({"first": -1}, "first is -1"),
        ({"shots": 0}, "shots 0 is not a number of images"),
        ({"k": 0}, "k is 0"),
        ({"images": 0}, "images is 0"),
        ({"generator": "nonsense"}, "nonsense"),
        ({"encoder": "nonsense"}, "nonsense"),
        ({}, "the database is empty"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_started(tmp_path, tiny_dataset, tiny_encoder, changes, sentence):
    workspace = Workspace.open(tmp_path / "workspace")
    from engine.models import load_encoder

    encoder = load_encoder(tiny_encoder)
    workspace.ensure_encoder(encoder.name, encoder.dimension)
    usual = {"datasets": (str(tiny_dataset),), "encoder": tiny_encoder, "workspace": str(tmp_path / "workspace")}
    with pytest.raises(ValueError, match=sentence):
        mine_negatives(MineConfig(**usual | changes))


def test_a_plan_is_a_range_of_each_classs_images(tiny_dataset):
    config = DatabaseConfig(datasets=(str(tiny_dataset),), first=1, shots=1)
    (plan,) = config.plans()
    assert isinstance(plan, DatabasePlan)
    assert sorted(plan[index].class_index for index in range(len(plan))) == [0, 1, 2]
