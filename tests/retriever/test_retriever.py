"""Text to images through the table: filters, the distance floor, references for a plan, and what is refused."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from engine.catalog import Dataset
from engine.prompts import Materials, make_prompt
from engine.recipe import IMAGE_SCHEMA, Recipe, embedding_column
from engine.retriever.head import Head, HeadSpec
from engine.retriever.retriever import Retriever, plain_head, precision_and_recall
from engine.store import Workspace
from tests.store.helpers import add

DIMENSION = 8
FILLERS = {pa.string(): "x", pa.int32(): 1, pa.int64(): 1, pa.float64(): 0.5, pa.large_binary(): b"image"}


class Encoder:
    """Texts of a class point to its axis; `name` as an ImageEncoder has it."""

    name = "clip@1"
    dimension = DIMENSION

    def encode_texts(self, texts):
        return np.stack([np.eye(DIMENSION, dtype=np.float32)[int(text.strip(".").split()[-1])] for text in texts])


def image(number: int, **changes) -> Recipe:
    fields = {"source": "original", "dataset": ("cars", "birds")[number % 2], "class_index": number % 6 // 2}
    fields |= {"class_name": f"class {number % 6}", "corpus": "photos", "key": str(number)}
    return Recipe(**{**fields, **changes})


def vector(number: int) -> np.ndarray:
    """Nearest to the axis of its class, the nearer the smaller the number."""
    axes = np.eye(DIMENSION, dtype=np.float32)
    found = axes[number % 6] + 0.01 * (number + 1) * axes[7]
    return found / np.linalg.norm(found)


def rows(recipes, vectors) -> pa.Table:
    lines = [
        {field.name: FILLERS[field.type] for field in IMAGE_SCHEMA} | recipe.as_dict() | {"id": recipe.id}
        for recipe in recipes
    ]
    table = pa.Table.from_pylist(lines, schema=IMAGE_SCHEMA)
    flat = pa.array(np.asarray(vectors, np.float32).reshape(-1))
    return table.append_column(embedding_column("clip@1"), pa.FixedSizeListArray.from_arrays(flat, DIMENSION))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace.open(tmp_path / "workspace")
    made.ensure_encoder("clip@1", DIMENSION)
    recipes = [image(number) for number in range(24)]
    # nearer than all others, and none of the database: a test image and a generated one
    others = [
        image(0, split="test", key="test"),
        Recipe(source="generative", dataset="cars", class_index=0, class_name="class 0"),
    ]
    add(made, rows([*recipes, *others], [*(vector(number) for number in range(24)), *np.eye(DIMENSION)[[0, 0]]]))
    return made


@pytest.fixture
def zero(workspace: Workspace) -> Retriever:
    return Retriever(workspace, Encoder())


def keys(hits: pa.Table) -> list[str]:
    known = {image(number).id: number for number in range(24)}
    return [known[name] for name in hits.column("id").to_pylist()]


def test_the_nearest_database_images_come_first_and_no_others(zero: Retriever):
    hits = zero.search(["class 0", "class 5"], k=4)
    assert keys(hits) == [0, 6, 12, 18, 5, 11, 17, 23]
    assert hits.column("query_index").to_pylist() == [0] * 4 + [1] * 4


def test_filters_and_the_distance_floor(zero: Retriever):
    assert keys(zero.search(["class 0"], k=2, datasets=["birds"]))[0] % 2 == 1
    assert keys(zero.search(["class 0"], k=1, class_names=["class 3"])) == [3]
    assert zero.search(["class 0"], k=9, class_names=["class 3"]).num_rows == 4
    generated = zero.search(["class 0"], k=9, sources=["generative"])
    assert generated.num_rows == 1
    far = float(1 - vector(7)[1])
    assert keys(replace(zero, max_distance=far).search(["class 1"], k=4)) == [1, 7]
    assert replace(zero, max_distance=0.0).search(["class 7"], k=1).num_rows == 0


def test_a_heads_embeddings_are_a_column_and_only_what_it_embedded_is_found(workspace: Workspace):
    head = plain_head(Encoder())
    retriever = Retriever(workspace, Encoder(), head)
    half = [image(number).id for number in range(6, 24)]
    assert retriever.embed(half) == 18
    assert retriever.embed(half) == 0
    assert retriever.name in {"clip@1+zero-" + head.name[-8:]}
    assert keys(retriever.search(["class 0"], k=2)) == [6, 12]
    assert retriever.embed() == 6  # the others of the database, and neither test nor generated images
    assert keys(retriever.search(["class 0"], k=4)) == [0, 6, 12, 18]
    assert retriever.recall(["class 0", "class 4"], k=5) == 1


def test_recall_sees_what_the_search_leaves_out(zero: Retriever, monkeypatch: pytest.MonkeyPatch):
    whole = Retriever.search
    monkeypatch.setattr(
        Retriever, "search", lambda self, texts, k: whole(self, texts, k).filter(pa.array([True, False] * len(texts)))
    )
    assert zero.recall(["class 0", "class 4"], k=2) == 0.5


def test_references_go_round_the_nearest_images_and_a_shot_without_one_is_drawn_from_text(zero: Retriever):
    cars = Dataset("cars", "fine", "accuracy", "", ("class 0", "class (new) 2", "class 7"), ("a photo of {c}.",))
    near = replace(zero, max_distance=0.5)
    found = near.references(cars, "class_name", shots=5, k=2)
    names = [image(number).id for number in range(24)]
    assert found == [
        [names[0], names[6], names[0], names[6], names[0]],
        [names[2], names[8]] * 2 + [names[2]],
        [""] * 5,
    ]
    materials = Materials(references={"cars": found})
    strategy = "class_name+retrieval_augmented"
    assert make_prompt(strategy, cars, 0, 3, materials=materials).reference_id == names[6]
    assert make_prompt(strategy, cars, 2, 3, materials=materials).reference_id == ""


def test_precision_and_recall_count_each_querys_first_k(zero: Retriever):
    hits = zero.search(["class 0", "class 5"], k=5)
    wanted = [("cars", 0), ("birds", 0)]
    precision, recall = precision_and_recall(hits, wanted, {("cars", 0): 4, ("birds", 0): 4}, k=4)
    assert (precision.tolist(), recall.tolist()) == ([1, 0], [1, 0])
    precision, recall = precision_and_recall(hits, wanted, {("cars", 0): 4}, k=5)
    assert (precision.tolist(), recall.tolist()) == ([0.8, 0], [1, 0])


def test_what_cannot_be_searched_is_refused_in_one_sentence(workspace: Workspace, zero: Retriever, tmp_path):
    with pytest.raises(ValueError, match="query 1 has no text"):
        zero.search(["class 0", " "])
    with pytest.raises(ValueError, match="holds no image embedded by clip@1; build it"):
        Retriever(Workspace.open(tmp_path / "empty"), Encoder()).search(["class 0"])
    other = Head(HeadSpec(encoder="clip@2", dimension=DIMENSION, hidden=4, label="realrag"))
    with pytest.raises(ValueError, match="realrag was trained on embeddings of clip@2, and these are of clip@1"):
        Retriever(workspace, Encoder(), other)
    fresh = Head(HeadSpec(encoder="clip@1", dimension=DIMENSION, hidden=4, label="realrag"))
    with pytest.raises(ValueError, match=r"no image embedded by clip@1\+realrag"):
        Retriever(workspace, Encoder(), fresh).search(["class 0"])
