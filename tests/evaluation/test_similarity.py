import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation import clip_score, image_retrieval_score, mean_text_similarity
from engine.evaluation import similarity as module


def _unit(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_clip_score_is_the_cosine_with_the_images_own_text() -> None:
    assert clip_score(_unit(0, 90), 3 * _unit(0, 90)) == pytest.approx(100)
    assert clip_score(_unit(0, 0), _unit(60, 120)) == pytest.approx(25)  # cosine 0.5, and -0.5 counted as 0
    with pytest.raises(ValueError, match="2 images and 3 texts; give each image its own text"):
        clip_score(_unit(0, 1), _unit(0, 1, 2))


def test_retrieval_of_images_worked_by_hand() -> None:
    # class 0 at 0 degrees, class 1 at 90; the two images of class 0 find 2 and 1 of theirs, that of class 1 finds 1 of 2
    test, labels = _unit(0, 5, 40, 90, 95), np.array([0, 0, 0, 1, 0])
    found = image_retrieval_score(_unit(1, 70, 93), np.array([0, 0, 1]), test, labels, num_classes=3, k=2)
    assert found.precision == pytest.approx(((1 + 0.5) / 2 + 0.5) / 2)
    assert found.recall == pytest.approx(((2 + 1) / 4 / 2 + 1) / 2)


def test_images_of_a_class_without_test_images_are_left_out() -> None:
    found = image_retrieval_score(_unit(0, 90), np.array([0, 1]), _unit(0, 1), np.array([0, 0]), num_classes=2, k=1)
    assert (found.precision, found.recall) == (1.0, 0.5)
    with pytest.raises(ValueError, match="no class of the images has a test image"):
        image_retrieval_score(_unit(0), np.array([1]), _unit(0), np.array([0]), num_classes=2, k=1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_retrieval_agrees_with_the_plain_definition_in_any_order(seed: int, k: int) -> None:
    g = np.random.default_rng(seed)
    images, test = g.normal(size=(9, 4)).astype(np.float32), g.normal(size=(7, 4)).astype(np.float32)
    labels, several = g.integers(3, size=9), (g.random((7, 3)) < 0.5).astype(int)
    several[0] = 1
    norm = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    nearest = np.argsort(-norm(images) @ norm(test).T, axis=1)[:, :k]
    hits = np.array([several[near, label].sum() for near, label in zip(nearest, labels, strict=True)])
    classes = np.unique(labels)
    found = image_retrieval_score(images, labels, test, several, num_classes=3, k=k)
    assert found.precision == pytest.approx(np.mean([hits[labels == c].mean() / k for c in classes]))
    assert found.recall == pytest.approx(np.mean([hits[labels == c].mean() / several[:, c].sum() for c in classes]))
    order = g.permutation(9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 2)
        again = image_retrieval_score(5 * images[order], labels[order], test, several, num_classes=3, k=k)
    assert (again.precision, again.recall) == pytest.approx((found.precision, found.recall))


def test_more_neighbours_than_test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 5 and there are 2 test images"):
        image_retrieval_score(_unit(0), np.array([0]), _unit(0, 1), np.array([0, 0]), num_classes=1)


def test_mean_text_similarity_is_that_of_the_nearest_captions() -> None:
    found = mean_text_similarity(_unit(0, 90), _unit(0, 60, 180), k=2)
    assert found.tolist() == pytest.approx([(1 + 0.5) / 2, (np.cos(np.deg2rad(30)) + 0) / 2], abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_a_caption_of_several_images_counts_as_often(seed: int, k: int) -> None:
    g = np.random.default_rng(seed)
    names, captions = g.normal(size=(3, 5)).astype(np.float32), g.normal(size=(4, 5)).astype(np.float32)
    counts = g.integers(1, 5, size=4)
    counts[0] += 9
    whole = mean_text_similarity(names, captions.repeat(counts, axis=0), k=k)
    np.testing.assert_allclose(mean_text_similarity(names, captions, k=k, counts=counts), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 4}, "k is 4 and the pool has 3 captioned images"),
        ({"counts": np.array([1, 0, 1])}, "give a whole number of 1 or more for each caption"),
        ({"counts": np.array([1, 1])}, "give a whole number of 1 or more for each caption"),
        ({"caption_features": np.full((3, 2), np.nan, np.float32)}, "caption_features holds NaN"),
        ({"caption_features": np.ones((3, 5), np.float32)}, "embed both with the same encoder"),
    ],
)
def test_captions_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    given_ = {"class_features": _unit(0), "caption_features": _unit(0, 1, 2), "k": 1} | changes
    with pytest.raises(ValueError, match=message):
        mean_text_similarity(**given_)  # type: ignore[arg-type]
