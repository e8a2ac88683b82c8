import numpy as np
import pytest

from engine.evaluation import choose_by_class, cler_score

CLASSES = 6


def _world(seed: int = 0) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    return g, g.normal(size=(CLASSES, 16)), g.normal(size=(CLASSES, 16))


def _draw(g: np.random.Generator, centers: np.ndarray, each: int, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(centers)), each)
    return (centers[labels] + noise * g.normal(size=(len(labels), 16))).astype(np.float32), labels


def _sets(g: np.random.Generator, true: np.ndarray, wrong: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two sets: the first shows classes 0 to 3 as they are, the second 3 to 5."""
    first, second = true.copy(), wrong.copy()
    first[4:], second[3:] = wrong[4:], true[3:]
    return [_draw(g, first, 5), _draw(g, second, 5)]


def test_each_class_takes_the_set_that_shows_it():
    g, true, wrong = _world()
    choice = choose_by_class(_sets(g, true, wrong), *_draw(g, true, 5), num_classes=CLASSES)
    assert choice.best_single == 0
    assert choice.chosen.tolist()[:3] == [0, 0, 0]
    assert choice.chosen.tolist()[4:] == [1, 1]
    assert choice.cler > max(choice.cler_of_each)


def test_the_choice_serves_images_that_it_was_not_made_on():
    better = 0
    for seed in range(5):
        g, true, wrong = _world(seed)
        sets = _sets(g, true, wrong)
        choice = choose_by_class(sets, *_draw(g, true, 5), num_classes=CLASSES)
        rows = [np.flatnonzero(choice.chosen.numpy()[labels] == number) for number, (_, labels) in enumerate(sets)]
        mixed = [np.concatenate([part[i][kept] for part, kept in zip(sets, rows, strict=True)]) for i in (0, 1)]
        test = _draw(g, true, 50)
        single = max(cler_score(*each, *test, num_classes=CLASSES).cler for each in sets)
        better += cler_score(*mixed, *test, num_classes=CLASSES).cler > single
    assert better == 5


def test_cler_of_each_set_is_its_cler():
    g, true, wrong = _world()
    sets, validation = _sets(g, true, wrong), _draw(g, true, 20, noise=2.0)
    choice = choose_by_class(sets, *validation, num_classes=CLASSES)
    assert choice.cler_of_each == [cler_score(*each, *validation, num_classes=CLASSES).cler for each in sets]
    assert float(choice.recall.mean()) == pytest.approx(choice.cler)


def test_a_class_without_images_is_taken_from_a_set_that_has_some():
    g, true, _ = _world()
    features, labels = _draw(g, true, 5)
    lacking = features[labels != 2], labels[labels != 2]
    noisy = _draw(g, true, 5, noise=3.0)
    choice = choose_by_class([lacking, noisy], *_draw(g, true, 5), num_classes=CLASSES)
    assert choice.chosen[2] == 1
    nowhere = choose_by_class([lacking, lacking], *_draw(g, true, 5), num_classes=CLASSES)
    assert nowhere.recall[2] == 0
    assert float(nowhere.recall.sum()) > 4


def test_one_set_is_chosen_for_all_and_none_is_an_error():
    g, true, _ = _world()
    choice = choose_by_class([_draw(g, true, 5)], *_draw(g, true, 5), num_classes=CLASSES)
    assert choice.chosen.tolist() == [0] * CLASSES
    assert choice.cler == choice.cler_of_each[0]
    with pytest.raises(ValueError, match="no sets of images"):
        choose_by_class([], *_draw(g, true, 5), num_classes=CLASSES)
