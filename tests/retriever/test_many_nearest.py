"""The search for hundreds of rows per query is brute force in float64, whatever the blocks, ties and near-ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.retriever.blocks import Block, cut_blocks
from engine.retriever.many_nearest import many_nearest, merge_nearest


def brute(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(vectors)), scores.shape), -scores), axis=1)[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def clustered(num: int, dimension: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num // 50 + 1, dimension))[rng.integers(0, num // 50 + 1, num)]
    vectors += 0.2 * rng.standard_normal(vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


@settings(max_examples=15)
@given(st.integers(0, 5), st.integers(1, 120), st.sampled_from([64, 1_000, 30_000]), st.booleans())
def test_the_result_is_brute_force(seed: int, k: int, rows_per_block: int, doubled: bool):
    vectors, queries = clustered(3_000, 12, seed), clustered(9, 12, seed + 100)
    if doubled:  # every row many times: ties are in the order of the row
        vectors = np.repeat(vectors[:60], 50, axis=0)
    found = many_nearest(queries, lambda: cut_blocks(vectors, num_rows=rows_per_block), k=k)
    rows, scores = brute(queries, vectors, k)
    assert np.array_equal(found.rows, rows)
    assert np.allclose(found.scores, scores, atol=1e-7)


def test_near_ties_beyond_the_spare_rows_are_told_apart_in_float64():
    rng = np.random.default_rng(0)
    base = clustered(1, 64, 3)
    vectors = base + rng.standard_normal((4_000, 64)).astype(np.float32) * 1e-8  # all within rounding of each other
    queries = base.copy()
    found = many_nearest(queries, lambda: cut_blocks(vectors, num_rows=500), k=5)
    rows, _ = brute(queries, vectors, 5)
    assert np.array_equal(found.rows, rows)


def test_shards_are_merged_and_a_small_database_leaves_places_empty():
    vectors, queries = clustered(500, 8, 0), clustered(4, 8, 1)
    whole = many_nearest(queries, lambda: cut_blocks(vectors), k=40)
    parts = []
    for start in range(0, 500, 125):
        rows = np.arange(start, start + 125)[::-1].copy()
        parts.append(many_nearest(queries, lambda rows=rows: [Block(rows, vectors[rows])], k=40))
    merged = merge_nearest(parts, 40)
    assert np.array_equal(merged.rows, whole.rows)
    few = many_nearest(queries, lambda: cut_blocks(vectors[:3]), k=5)
    assert (few.rows[:, 3:] == -1).all()
    assert np.isneginf(few.scores[:, 3:]).all()
    assert (np.sort(few.rows[:, :3]) == [0, 1, 2]).all()


def test_vectors_that_are_not_finite_or_do_not_fit_are_one_sentence():
    vectors, queries = clustered(10, 8, 0), clustered(2, 8, 1)
    vectors[3, 2] = np.nan
    with pytest.raises(ValueError, match="row 3 of the database holds NaN"):
        many_nearest(queries, lambda: cut_blocks(vectors), k=2)
    with pytest.raises(ValueError, match="embed both with the same encoder"):
        many_nearest(clustered(2, 4, 1), lambda: cut_blocks(vectors), k=2)
    with pytest.raises(ValueError, match="a query holds NaN"):
        many_nearest(vectors, lambda: cut_blocks(queries), k=2)
