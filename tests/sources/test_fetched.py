"""Fetched pictures as a plan: nearest first, shot by shot, one class per picture, and only those above a threshold."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.catalog import Dataset
from engine.catalog.datasets import load_dataset
from engine.recipe import IMAGE_SCHEMA, Recipe
from engine.sources.fetched import SCORE, FetchedPictures, FetchedPlan, caption_similarities, fetched_pictures
from engine.store import Committer, Workspace, write_fragments

FILLERS = {"image": b"", "content_hash": "0" * 32, "image_height": 8, "image_width": 8, "device_seconds": 1.0}
FILLERS |= {"usd_compute": 0.5, "usd_labels": 0.0, "run_id": "r", "batch_size": 1, "dtype": "uint8", "device": "cpu"}


@pytest.fixture
def dataset(tiny_dataset: Path) -> Dataset:
    return load_dataset(str(tiny_dataset))


def picture(dataset: Dataset, class_index: int, url: str) -> Recipe:
    name = dataset.class_names[class_index]
    return Recipe(
        source="retrieval", dataset=dataset.name, class_index=class_index, class_name=name, prompt=url, corpus="web", key=url
    )  # fmt: skip


def test_the_nearest_come_first_shot_by_shot_and_a_picture_serves_one_class(dataset: Dataset):
    found = [
        picture(dataset, number, url) for number, url in ((0, "a"), (0, "b"), (1, "b"), (1, "c"), (2, "d"), (0, "e"))
    ]
    similarities = np.array([0.2, 0.9, 0.5, 0.1, 0.3, 0.4])
    plan = FetchedPlan(dataset, FetchedPictures("web", found), similarities, 2, allow_fewer=True)
    assert [(plan[index].class_index, plan[index].key) for index in range(len(plan))] == [
        (0, "b"), (1, "c"), (2, "d"), (0, "e")
    ]  # fmt: skip
    assert [plan.num_recipes(shots) for shots in (0, 1, 2, 9)] == [0, 3, 4, 4]
    with pytest.raises(ValueError, match=r"has 1 fetched pictures of class .*, fewer than 2 shots; fetch more"):
        FetchedPlan(dataset, FetchedPictures("web", found), similarities, 2)
    with pytest.raises(IndexError):
        plan[4]


def test_similarities_are_those_of_each_picture_and_its_own_class(dataset: Dataset):
    found = [picture(dataset, number, "x") for number in (2, 0)]
    vectors = np.eye(3, dtype=np.float32)
    assert caption_similarities(found, vectors[[2, 1]], vectors).tolist() == [1.0, 0.0]


def test_stored_pictures_are_read_back_with_their_ids_and_a_threshold_chooses_among_them(
    dataset: Dataset, tmp_path: Path
):
    workspace = Workspace.open(str(tmp_path / "workspace"))
    with pytest.raises(ValueError, match=r"has no pictures of corpus web for things; run `imagefoundry fetch"):
        fetched_pictures(workspace, "web", dataset)
    with pytest.raises(ValueError, match="no caption scores"):
        fetched_pictures(workspace, "web", dataset, 0.5)
    workspace.ensure_columns(pa.schema([(SCORE, pa.float32())]))
    found = {picture(dataset, number, str(number)): score for number, score in enumerate((0.9, 0.4, 0.7))}
    other = Recipe(source="retrieval", dataset=dataset.name, class_index=0, class_name="of an older list", corpus="web")
    rows = [FILLERS | one.as_dict() | {"id": one.id} for one in (*found, other)]
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    table = table.append_column(SCORE, pa.array([*found.values(), 1.0], pa.float32()))
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "images", table))
    every = fetched_pictures(workspace, "web", dataset)
    assert {one.id for one in every.recipes} == {one.id for one in found}
    some = fetched_pictures(workspace, "web", dataset, 0.5)
    assert ({one.key for one in some.recipes}, some.rejected) == ({"0", "2"}, 1)
    with pytest.raises(ValueError, match=r"reaches the threshold 0.95; the best has 0.90"):
        fetched_pictures(workspace, "web", dataset, 0.95)
