"""The database over tables written by hand; the jobs that fill them are tested in tests/studies."""

import numpy as np
import pyarrow as pa
import pytest

from engine.catalog import load_dataset
from engine.recipe import IMAGE_SCHEMA, Recipe, embedding_column
from engine.retriever.database import Database, DatabasePlan, duplicate_counts, duplicates
from engine.retriever.negatives import mine
from engine.sources import OriginalPlan
from engine.store import NEGATIVE_SCHEMA, Committer, Workspace, write_fragments
from tests.retriever.test_exact_search import brute_force, draw

NAMES = ("red apple", "green tree", "blue boat")


def add(workspace, source, classes, vectors, contents=None, dataset="things", first=0):
    """Rows of a table; `contents`: a number for each picture, equal for equal pixels."""
    fillers = {pa.string(): "x", pa.int32(): 1, pa.int64(): 1, pa.float64(): 0.5, pa.large_binary(): b"image"}
    rows = []
    for number, label in enumerate(classes):
        recipe = Recipe(
            source=source,
            dataset=dataset,
            class_index=int(label),
            class_name=NAMES[label],
            prompt="p",
            seed=first + number,
        )
        content = first + number if contents is None else contents[number]
        row = {field.name: fillers[field.type] for field in IMAGE_SCHEMA} | recipe.as_dict()
        rows.append(row | {"id": recipe.id, "content_hash": f"{content:032x}"})
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    if vectors is not None:
        flat = pa.array(np.asarray(vectors, np.float32).reshape(-1))
        table = table.append_column("embedding_clip", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "images", table))
    return table["id"].to_pylist()


@pytest.fixture
def workspace(tmp_path):
    opened = Workspace.open(tmp_path / "workspace")
    opened.ensure_encoder("clip", 8)
    return opened


def test_halves_of_a_data_set_share_no_image_and_are_the_originals(tiny_dataset):
    dataset = load_dataset(str(tiny_dataset))
    whole = DatabasePlan(dataset).ids()
    first, second = DatabasePlan(dataset, 0, 2).ids(), DatabasePlan(dataset, 2).ids()
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(whole)
    plan = OriginalPlan(dataset, 2)
    assert first == [plan[index].id for index in range(len(plan))]
    with pytest.raises(ValueError, match="training images a class, and none between 999"):
        DatabasePlan(dataset, 999)


def test_negatives_are_the_nearest_images_of_other_classes(workspace):
    rows, labels = draw(400, 8, 3, 1)
    queries, codes = draw(50, 8, 3, 2)
    originals = add(workspace, "original", labels, 3 * rows, first=1_000)
    generated = add(workspace, "generative", codes, queries)
    table = mine(workspace, "clip", generated, "source = 'original'", k=4)
    assert table.schema == NEGATIVE_SCHEMA
    expected, scores = brute_force(queries, rows, 4, codes, labels)
    assert table["negative_id"].to_pylist() == [originals[row] for row in expected.ravel()]
    np.testing.assert_allclose(table["score"].to_numpy(), scores.ravel(), atol=1e-6)
    assert table["generated_id"].to_pylist() == [one for one in generated for _ in range(4)]
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 50
    assert table["negative_class_name"].to_pylist() == [NAMES[labels[row]] for row in expected.ravel()]
    unmasked = mine(workspace, "clip", generated, originals, mask=False)
    assert unmasked["negative_id"].to_pylist() == [originals[row] for row in brute_force(queries, rows, 1)[0].ravel()]
    # tied by the images that were searched, however they were named
    assert set(table["database"].to_pylist()) == set(unmasked["database"].to_pylist())
    part = mine(workspace, "clip", generated[:1], originals[:300], mask=False)
    assert part["database"].to_pylist() != unmasked["database"].to_pylist()[:1]


def test_a_class_of_another_data_set_with_the_same_name_is_the_own_class(workspace):
    vectors = np.eye(8)[[0, 1]]
    add(workspace, "original", [0, 1], vectors, dataset="others", first=5)
    generated = add(workspace, "generative", [0], vectors[:1])
    found = mine(workspace, "clip", generated, "source = 'original'")
    assert found["negative_class_name"].to_pylist() == ["green tree"]


def test_equal_pictures_are_one_candidate_and_are_reported(workspace):
    vectors = np.eye(8)[[0, 0, 1, 2]]
    here = add(workspace, "original", [0, 1, 1, 2], vectors, contents=[7, 7, 8, 9])
    there = add(workspace, "original", [2], vectors[3:], contents=[9], dataset="others", first=50)
    found = duplicates(workspace)
    assert found.num_rows == 4
    assert sorted(found["id"].to_pylist()) == sorted([here[0], here[1], here[3], there[0]])
    assert found.filter(found["kept"])["id"].to_pylist() == [min(here[:2]), min(here[3], there[0])]
    assert duplicate_counts(found) == [
        {"datasets": "others + things", "pictures": 1, "images": 2, "of several classes": 0},
        {"datasets": "things", "pictures": 1, "images": 2, "of several classes": 1},
    ]
    database = Database(workspace, "clip", "source = 'original'")
    assert (len(database), database.num_duplicates) == (3, 2)
    negatives = mine(workspace, "clip", here[2:3], database, k=10, mask=False)
    assert negatives.num_rows == 3, "each picture once, and fewer than k where there are no more"
    # of a selection without the kept one, the other one is the candidate
    assert (
        len(Database(workspace, "clip", [here[0], here[2]]))
        == len(Database(workspace, "clip", [here[1], here[2]]))
        == 2
    )


def test_a_workspace_of_an_older_release_gets_the_table_it_lacks(workspace, tmp_path):
    import shutil

    generated = add(workspace, "generative", [0], np.eye(8)[:1])
    add(workspace, "original", [1, 2], np.eye(8)[:2], first=9)
    shutil.rmtree(tmp_path / "workspace" / "negatives.lance")
    reopened = Workspace.open(tmp_path / "workspace", create=False)
    assert reopened.negatives().num_rows == 0
    reopened.add_rows("negatives", mine(reopened, "clip", generated, "source = 'original'", k=2))
    assert Workspace.open(tmp_path / "workspace").negatives("rank = 2")["generated_id"].to_pylist() == generated


@pytest.fixture
def filled(workspace):
    add(workspace, "original", [0, 0], np.eye(8)[:2], first=9)
    return workspace, add(workspace, "generative", [0, 1], np.eye(8)[:2])


@pytest.mark.parametrize(
    ("encoder", "ids", "selection", "sentence"),
    [
        (
            "clip",
            slice(0, 2),
            "source = 'retrieval'",
            "the database is empty: clip has embedded no images for which source",
        ),
        ("clip", slice(0, 2), [], "the database is empty: clip has embedded none of these ids"),
        ("clip", slice(0, 1), "source = 'original'", "holds images of 'red apple' alone, so none is left for it"),
        ("judge", slice(0, 2), "source = 'original'", r"no embeddings of judge \(it has: clip\)"),
        ("clip", ["0" * 32], "source = 'original'", "image 0+ is not in the table"),
        ("clip", slice(0, 2), "colour = 'red'", "cannot select images by"),
    ],
)
def test_what_cannot_be_mined_is_said_in_a_sentence(filled, encoder, ids, selection, sentence):
    workspace, generated = filled
    chosen = generated[ids] if isinstance(ids, slice) else ids
    with pytest.raises(ValueError, match=sentence):
        mine(workspace, encoder, chosen, selection)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_an_embedding_without_a_direction_is_named(filled, bad):
    workspace, generated = filled
    (poor,) = add(workspace, "original", [1], np.full((1, 8), bad), first=70)
    with pytest.raises(ValueError, match=f"the embedding of image {poor} is zero, NaN or infinite"):
        mine(workspace, "clip", generated, "source = 'original'")


def test_generated_images_that_are_not_embedded_are_refused(workspace):
    workspace.ensure_encoder("other", 4)
    add(workspace, "original", [1], np.eye(8)[:1], first=9)
    generated = add(workspace, "generative", [0], np.eye(8)[:1])
    workspace.fill_embeddings("other", add(workspace, "original", [2], np.eye(8)[:1], first=20), np.ones((1, 4)))
    with pytest.raises(ValueError, match="1 generated images are not embedded by other"):
        mine(workspace, "other", generated, "source = 'original'")
    assert embedding_column("other") in workspace.embedding_columns()
