"""Pictures for classes: each serves one class, the one that it is nearest to among those that still want one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.retriever.class_captions import assign, mean_queries


def by_hand(similarities: np.ndarray, k: int) -> list[set[int]]:
    """Takes the best pair that is left, again and again."""
    taken: list[set[int]] = [set() for _ in similarities]
    left = {(number, picture) for number, row in enumerate(similarities) for picture in range(len(row))}
    while left:
        number, picture = min(left, key=lambda pair: (-similarities[pair], pair))
        if len(taken[number]) == k:
            left.discard((number, picture))
            continue
        taken[number].add(picture)
        left -= {(other, picture) for other in range(len(similarities))}
    return taken


@given(st.integers(0, 1_000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 12))
def test_pairs_are_taken_best_first(seed: int, num_classes: int, k: int, num_pictures: int):
    similarities = np.random.default_rng(seed).permutation(num_classes * num_pictures).reshape(num_classes, -1) / 100
    order = np.argsort(-similarities, axis=1, kind="stable")
    taken = assign(order, np.take_along_axis(similarities, order, axis=1), num_pictures, k)
    assert [{int(order[number, at]) for at in found} for number, found in enumerate(taken)] == by_hand(similarities, k)


def test_a_picture_with_two_captions_serves_once():
    assert assign(np.array([[0, 0, 1, -1]]), np.array([[0.9, 0.8, 0.7, -np.inf]]), 2, 3) == [[0, 2]]


def test_the_product_with_a_mean_query_is_the_mean_similarity():
    rng = np.random.default_rng(0)
    texts, caption = rng.standard_normal((3, 5, 8)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    assert np.allclose(mean_queries(texts) @ caption, (texts @ caption).mean(axis=1), atol=1e-5)
