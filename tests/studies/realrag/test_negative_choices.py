"""Negatives that are chosen otherwise than by the generator's images, on planted embeddings."""

import numpy as np
import pytest

from engine.retriever.data import RetrieverData
from engine.studies.realrag.negative_choices import (
    image_hard_negatives,
    oracle_negatives,
    random_negatives,
    selective_negatives,
)

NAMES = ["birds/marsh kea", "birds/hill kea", "birds/wren", "cars/hill kea"]
ANGLES = np.array([0.0, 20.0, 90.0, 180.0])
SHOTS, TEXTS = 6, 4


def directions(angles: np.ndarray) -> np.ndarray:
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def data(generated: np.ndarray | None = None, negatives: np.ndarray | None = None) -> RetrieverData:
    """Four classes at the angles above, six images within two degrees of each, the last of them for validation."""
    image_class = np.repeat(np.arange(4), SHOTS)
    text_class = np.repeat(np.arange(4), TEXTS)
    offsets = np.tile(np.linspace(-2, 2, SHOTS), 4)
    return RetrieverData(
        encoder="planted",
        text_features=directions(ANGLES[text_class]),
        text_class=text_class,
        image_features=directions(ANGLES[image_class] + offsets),
        image_class=image_class,
        negatives=np.full((len(text_class), 2), -1) if negatives is None else negatives,
        validation=np.arange(len(image_class)) % SHOTS == SHOTS - 1,
        generated=generated,
    )


def test_image_hard_negatives_are_the_nearest_images_of_another_class():
    given = data()
    found = image_hard_negatives(given, 2)
    assert found.shape == (16, 2)
    assert given.image_class[found].tolist() == [[1, 1]] * 4 + [[0, 0]] * 4 + [[1, 1]] * 4 + [[2, 2]] * 4
    assert not given.validation[found].any()
    # each text asks with another image of its class; the nearest are those on the near side of the other class
    assert (given.image_features[found[:4, 0]] @ directions(np.array([18.0])).T > 0.9999).all()


def test_random_negatives_are_of_other_classes():
    given = data()
    found = random_negatives(given, 3)
    kept = found >= 0
    assert 0.5 < kept.mean() < 1
    assert (given.image_class[found] != given.text_class[:, None])[kept].all()
    assert np.array_equal(found, random_negatives(given, 3))


def test_oracle_negatives_are_siblings_of_the_same_data_set():
    given = data()
    found = oracle_negatives(given, NAMES, 2)
    assert (given.image_class[found[:4]] == 1).all()
    assert (given.image_class[found[4:8]] == 0).all()
    assert (found[8:] == -1).all()
    assert not given.validation[found[:8]].any()
    with pytest.raises(ValueError, match="oracle needs classes that share the last word"):
        oracle_negatives(given, [f"birds/{letter}" for letter in "abcd"], 2)


def test_selective_negatives_count_only_where_the_image_shows_another_class():
    """Class 1 is drawn as class 0, one image of class 2 has failed, the others are drawn rightly."""
    angles = np.repeat(np.array([0.0, 0.0, 90.0, 180.0]), TEXTS)
    generated = directions(angles)
    generated[8] = 0
    reflective = np.repeat(np.array([[6, 7], [0, 1], [6, 7], [12, 13]]), TEXTS, axis=0)
    found = selective_negatives(data(generated, reflective))
    assert np.array_equal(found[4:8], reflective[4:8])
    assert (np.delete(found, np.s_[4:8], axis=0) == -1).all()
    with pytest.raises(ValueError, match="selective needs the generated images"):
        selective_negatives(data())


def test_classes_are_left_out_with_their_texts_images_and_negatives():
    given = data(directions(np.zeros(16)), np.repeat(np.array([[6, 12], [0, 12], [6, 18], [12, -1]]), TEXTS, axis=0))
    kept = given.without_classes(np.array([1, 3]))
    assert kept.text_class.tolist() == [0] * 4 + [2] * 4
    assert kept.image_class.tolist() == [0] * 6 + [2] * 6
    # row 12 has become row 6; those of the classes left out are none
    assert kept.negatives.tolist() == [[-1, 6]] * 4 + [[-1, -1]] * 4
    assert np.array_equal(kept.image_features, given.image_features[np.isin(given.image_class, (0, 2))])
    assert kept.generated is not None
    assert len(kept.generated) == 8
    with pytest.raises(ValueError, match="all texts are of one class"):
        given.without_classes(np.array([1, 2, 3]))
