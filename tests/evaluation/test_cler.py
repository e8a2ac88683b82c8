import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation import class_centers, cler_score

# class 0 leans to x, class 1 to y; lengths differ on purpose, since only directions may count
FEATURES = np.array([[5.0, 0.0], [0.6, 0.8], [0.0, 2.0]], dtype=np.float32)
LABELS = np.array([0, 0, 1])


def test_centres_are_the_renormalised_means_of_unit_vectors() -> None:
    centers, empty = class_centers(FEATURES, LABELS, num_classes=2)
    # (1, 0) and (0.6, 0.8) have the mean (0.8, 0.4), of length sqrt(0.8)
    expected = np.array([[0.8, 0.4], [0.0, np.sqrt(0.8)]]) / np.sqrt(0.8)
    np.testing.assert_allclose(centers.numpy(), expected, atol=1e-6)
    assert not empty.any()


def test_cler_is_the_mean_of_right_nearest_centres() -> None:
    # cosines with centre 0 (0.894, 0.447) and centre 1 (0, 1): the third test image is nearer to centre 0
    test = np.array([[1.0, 0.0], [0.0, 3.0], [0.5, 0.5], [0.1, 1.0]], dtype=np.float32)
    result = cler_score(FEATURES, LABELS, test, np.array([0, 1, 1, 1]), num_classes=2)
    assert result.cler == 0.75
    assert result.cler_ensemble is None


def test_the_ensemble_averages_centre_and_text() -> None:
    # text alone sends (0.5, 0.5) to class 1: 0.707 * (-1) for class 0, 0.707 for class 1. With the centres,
    # class 0 has 0.707 * (0.894 + 0.447 - 1) / 2 = 0.12 and class 1 has 0.707: the ensemble turns the centres' error.
    text = np.array([[[-4.0, 0.0]], [[2.0, 0.0]]], dtype=np.float32)
    test = np.array([[0.5, 0.5]], dtype=np.float32)
    result = cler_score(FEATURES, LABELS, test, np.array([1]), num_classes=2, text_features=text)
    assert (result.cler, result.cler_ensemble) == (0.0, 1.0)


def test_the_ensemble_is_not_the_text_alone() -> None:
    text = np.array([[[0.0, 1.0]], [[0.1, 1.0]]], dtype=np.float32)
    test = np.array([[1.0, 0.1]], dtype=np.float32)  # the text says class 1, the centres class 0
    result = cler_score(FEATURES, LABELS, test, np.array([0]), num_classes=2, text_features=text)
    assert result.cler_ensemble == 1.0


def test_a_class_without_images_is_counted_and_never_predicted() -> None:
    test = -np.ones((3, 2), dtype=np.float32)  # every centre has a negative cosine; a zero centre would win with 0
    text = -np.ones((3, 1, 2), dtype=np.float32)
    result = cler_score(FEATURES, LABELS, test, np.array([2, 2, 2]), num_classes=3, text_features=text)
    assert (result.cler, result.cler_ensemble, result.num_empty_classes) == (0.0, 0.0, 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), num_classes=st.integers(2, 6), num_rows=st.integers(6, 40))
def test_the_order_of_images_and_the_names_of_classes_do_not_matter(seed: int, num_classes: int, num_rows: int) -> None:
    g = np.random.default_rng(seed)
    features = g.normal(size=(num_rows, 8)).astype(np.float32)
    labels = np.arange(num_rows) % num_classes
    test, test_labels = g.normal(size=(30, 8)).astype(np.float32), g.integers(num_classes, size=30)
    text = g.normal(size=(num_classes, 3, 8)).astype(np.float32)
    rows, tests, names = g.permutation(num_rows), g.permutation(30), g.permutation(num_classes)
    renamed_text = np.empty_like(text)
    renamed_text[names] = text
    plain = cler_score(features, labels, test, test_labels, num_classes=num_classes, text_features=text)
    shuffled = cler_score(
        features[rows],
        names[labels[rows]],
        test[tests],
        names[test_labels[tests]],
        num_classes=num_classes,
        text_features=renamed_text,
    )
    assert plain == shuffled


def test_numpy_and_torch_give_the_same_score() -> None:
    test, truth = np.eye(2, dtype=np.float32), np.array([0, 1])
    assert cler_score(FEATURES, LABELS, test, truth, num_classes=2) == cler_score(
        torch.tensor(FEATURES), torch.tensor(LABELS), torch.tensor(test), torch.tensor(truth), num_classes=2
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": np.full((3, 2), np.nan, dtype=np.float32)}, "NaN or infinite values in 3 of 3 rows"),
        ({"train_labels": np.array([0, 0, 2])}, "train_labels runs from 0 to 2; give values from 0 to 1"),
        ({"train_labels": np.array([0, 0])}, "give one label for each of the 3 rows"),
        ({"train_labels": np.array([0.0, 0.0, 1.0])}, "give whole numbers"),
        ({"train_features": np.empty((0, 2), dtype=np.float32), "train_labels": np.empty(0, dtype=int)}, "is empty"),
        ({"train_features": np.ones((3, 4), dtype=np.float32)}, "has dimension 4 and test_features has 2"),
        ({"test_features": np.ones(2, dtype=np.float32)}, "give 2 dimensions"),
        ({"text_features": np.ones((3, 1, 2), dtype=np.float32)}, "has 3 classes and num_classes is 2"),
        ({"metric": "auc"}, "give one of accuracy, mean_per_class"),
    ],
)
def test_a_wrong_input_is_said_in_one_sentence(change: dict, message: str) -> None:
    values = {
        "train_features": FEATURES,
        "train_labels": LABELS,
        "test_features": np.eye(2, dtype=np.float32),
        "test_labels": np.array([0, 1]),
        "num_classes": 2,
    }
    with pytest.raises(ValueError, match=message):
        cler_score(**(values | change))


def test_the_ensemble_is_the_mean_or_as_in_the_authors_code_its_direction() -> None:
    """The mean of a centre and a text that disagree is short, so its class is predicted less often unless it is normalised."""
    train = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    text = np.array([[[0, 0, 1]], [[0, 1, 0]]], np.float32)
    test, labels = np.array([[0.55, 0.6, 0.55]], np.float32), np.array([0])
    kinds = {"num_classes": 2, "text_features": text}
    # by the mean .55 against .6; by its direction .55 * sqrt 2 = .78 against .6
    assert cler_score(train, [0, 1], test, labels, **kinds).cler_ensemble == 0
    assert cler_score(train, [0, 1], test, labels, normalise_ensemble=True, **kinds).cler_ensemble == 1
