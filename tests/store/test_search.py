import re

import numpy as np
import pyarrow.compute as pc
import pytest

from engine.recipe import RECIPE_SCHEMA
from engine.store import maintenance

from .helpers import add, image_rows, recipe_ids


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


@pytest.fixture
def embedded(workspace, vectors):
    workspace.ensure_encoder("clip", 16)
    add(workspace, image_rows(range(150), clip=vectors[:150]))
    add(workspace, image_rows(range(150, 300), clip=vectors[150:]))
    add(workspace, image_rows(range(300, 310)))
    return workspace


def expected(vectors, query, k, allowed=None):
    similarity = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    indices = np.arange(len(vectors)) if allowed is None else allowed
    best = indices[np.argsort(-similarity[indices])][:k]
    return recipe_ids(best.tolist()), 1 - similarity[best]


def test_the_planted_nearest_comes_first(embedded, vectors):
    found = embedded.search(3 * vectors[42] + 0.01, "clip", k=5)
    assert found["id"][0].as_py() == recipe_ids([42])[0]
    assert found.column_names == [*RECIPE_SCHEMA.names, "_distance"]
    assert found["_distance"][0].as_py() < 1e-3


def test_an_exact_search_agrees_with_numpy(embedded, vectors):
    query = np.random.default_rng(1).normal(size=16)
    found = embedded.search(query, "clip", k=20, columns=["id"])
    ids, distances = expected(vectors, query, 20)
    assert found["id"].to_pylist() == ids
    np.testing.assert_allclose(found["_distance"].to_numpy(), distances, atol=1e-5)


def test_a_condition_is_applied_before_the_nearest_are_chosen(embedded, vectors):
    found = embedded.search(
        vectors[42], "clip", k=30, where="dataset = 'birds' AND class_index <> 1", columns=["id", "seed"]
    )
    allowed = np.array([index for index in range(300) if index % 2 == 1 and index % 5 != 1])
    assert found["id"].to_pylist() == expected(vectors, vectors[42], 30, allowed)[0]


def test_images_without_an_embedding_are_never_found(embedded, vectors):
    found = embedded.search(vectors[0], "clip", k=1_000, columns=["seed"])
    assert sorted(found["seed"].to_pylist()) == list(range(300))


@pytest.mark.parametrize("where", [None, "source = 'generative' AND class_index = 3"])
def test_an_index_changes_no_result_of_a_small_table(embedded, vectors, where, monkeypatch):
    before = [embedded.search(vector, "clip", where=where, columns=["id"])["id"].to_pylist() for vector in vectors[:20]]
    monkeypatch.setattr(maintenance, "MIN_INDEXED_VECTORS", 100)
    embedded.build_indices("clip")
    indexed = {field for index in embedded.dataset("images").describe_indices() for field in index.field_names}
    assert indexed == {"id", "dataset", "source", "class_index", "embedding_clip"}
    after = [embedded.search(vector, "clip", where=where, columns=["id"])["id"].to_pylist() for vector in vectors[:20]]
    assert after == before


def test_rows_added_and_filled_after_the_index_are_found(embedded, vectors, monkeypatch):
    monkeypatch.setattr(maintenance, "MIN_INDEXED_VECTORS", 100)
    embedded.build_indices("clip")
    new = np.eye(16, dtype=np.float32)[:2] * 7 - 3
    embedded.fill_embeddings("clip", recipe_ids([305, 7]), new)
    add(embedded, image_rows([400], clip=-new[:1]))
    seeds = [embedded.search(query, "clip", k=1, columns=["seed"])["seed"][0].as_py() for query in [*new, -new[0]]]
    assert seeds == [305, 7, 400]
    seen = embedded.search(vectors[7], "clip", k=400, columns=["seed"])["seed"].to_pylist()
    assert len(seen) == len(set(seen)) == 302, "the old vector of a refilled row must not be found"
    assert embedded.fetch(recipe_ids([7, 305]), ["seed"])["seed"].to_pylist() == [7, 305]


def test_a_batch_of_vectors_finds_what_each_finds_alone(embedded, vectors):
    batch = embedded.search_batch(vectors[:5], "clip", k=3, where="class_index = 2", columns=["id"])
    for number, vector in enumerate(vectors[:5]):
        rows = batch.filter(pc.equal(batch["query_index"], number))
        alone = embedded.search(vector, "clip", k=3, where="class_index = 2", columns=["id"])
        assert rows["id"].to_pylist() == alone["id"].to_pylist()


def test_few_vectors_get_no_index(embedded):
    embedded.build_indices("clip")
    assert all(index.field_names != ["embedding_clip"] for index in embedded.dataset("images").describe_indices())


@pytest.mark.parametrize(
    ("vector", "sentence"),
    [
        (np.ones(8), "holds vectors of 16 numbers"),
        (np.full(16, np.nan), "NaN"),
        (np.full(16, np.inf), "infinity"),
        (np.zeros(16), "zero"),
        (np.ones((2, 16)), "call search_batch"),
    ],
)
def test_a_vector_that_cannot_be_searched_for_is_refused(embedded, vector, sentence):
    with pytest.raises(ValueError, match=sentence):
        embedded.search(vector, "clip")


@pytest.mark.parametrize("where", ["dataset === cars", "colour = 'red'", "class_index = 'x' AND"])
def test_a_condition_that_is_no_sql_is_refused(embedded, vectors, where):
    with pytest.raises(ValueError, match=f"cannot select images by {re.escape(repr(where))}"):
        embedded.search(vectors[0], "clip", where=where)


def test_an_encoder_the_workspace_does_not_have_is_refused(embedded):
    with pytest.raises(ValueError, match="no embeddings of other"):
        embedded.search(np.ones(16), "other")
