"""Several labels an image, and two classes ranked: zero-shot, CLER and probe from features to the data set's own metric."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from engine.evaluation import (
    MetricInputs,
    class_centers,
    cler_score,
    fit_linear_probe,
    linear_probe_score,
    measure,
    paper_probe,
    score_classes,
    zero_shot_score,
)
from engine.evaluation.metrics import tradeoff_metrics

NUM_CLASSES, DIMENSION = 4, 12


def _images(seed: int, num_rows: int, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Features that are the sum of the directions of the classes an image shows, and its labels."""
    g = np.random.default_rng(seed)
    labels = (g.random((num_rows, NUM_CLASSES)) < 0.35).astype(np.int64)
    labels[np.arange(num_rows), np.arange(num_rows) % NUM_CLASSES] = 1
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, NUM_CLASSES)))[0].T
    return (labels @ directions + noise * g.normal(size=(num_rows, DIMENSION))).astype(np.float32), labels


def _texts() -> np.ndarray:
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, NUM_CLASSES)))[0].T
    return directions[:, None].astype(np.float32)


def _score(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], **kinds: Any) -> dict[str, float]:
    """Every score of the trade-off."""
    classes = train[1] if train[1].ndim == 1 else train[1].argmax(axis=1)
    inputs = MetricInputs(
        train_features=train[0],
        train_labels=train[1],
        train_classes=classes,
        test_features=test[0],
        test_labels=test[1],
        **kinds,
    )
    found = measure([metric for metric in tradeoff_metrics() if metric.compute], inputs).values
    return {name: value for name, value in found.items() if value is not None}


def test_everything_scores_multilabel_images_by_average_precision() -> None:
    kinds = {"text_features": _texts(), "num_classes": NUM_CLASSES, "metric": "map_11_point"}
    scores = _score(_images(1, 80), _images(2, 120), **kinds)
    assert list(scores) == ["zero_shot", "cler", "cler_ensemble", "linear_probe"]
    assert all(0.7 < reached <= 1 for reached in scores.values())
    assert scores["linear_probe"] > 0.8
    assert not class_centers(*_images(1, 80), num_classes=NUM_CLASSES)[1].any()
    shuffled = _images(2, 120)[1][np.random.default_rng(0).permutation(120)]
    assert _score(_images(1, 80), (_images(2, 120)[0], shuffled), **kinds)["linear_probe"] < 0.65


def test_images_made_for_one_class_each_serve_a_multilabel_test() -> None:
    features, labels = _images(1, 80)
    alone = labels.sum(axis=1) == 1
    scores = _score(
        (features[alone], labels[alone].argmax(axis=1)),
        _images(2, 120),
        text_features=_texts(),
        num_classes=NUM_CLASSES,
        metric="map_11_point",
    )
    assert scores["linear_probe"] > 0.75
    assert scores["cler"] > 0.75


def test_a_class_is_learned_as_scikit_learn_learns_it() -> None:
    features, labels = _images(1, 60)
    probe = fit_linear_probe(features, labels, num_classes=NUM_CLASSES, metric="map_11_point", c_grid=[0.5])
    rows = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
    x = ((rows - probe.mean) / probe.scale).double().numpy()
    logits = probe.scores(features).numpy()
    for column in range(NUM_CLASSES):
        peer = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x, labels[:, column])
        np.testing.assert_allclose(logits[:, column], peer.decision_function(x), atol=0.1)


def test_a_class_that_all_or_no_images_show_is_not_learned() -> None:
    features, labels = _images(1, 40)
    labels[:, 1], labels[:, 2] = 1, 0
    probe = fit_linear_probe(features, labels, num_classes=NUM_CLASSES, metric="map_11_point")
    assert probe.classes.tolist() == [0, 3]
    assert torch.isneginf(probe.scores(features)[:, 1:3]).all()
    with pytest.raises(ValueError, match="no class has both images that show it"):
        fit_linear_probe(features, np.ones_like(labels), num_classes=NUM_CLASSES, metric="map_11_point")


def test_a_centre_is_the_mean_of_all_images_that_show_the_class() -> None:
    features = np.array([[1, 0], [0, 1]], np.float32)
    centers, empty = class_centers(features, np.array([[1, 1, 0], [0, 1, 0]]), num_classes=3)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(centers, [[1, 0], [half, half], [0, 0]], atol=1e-6)
    assert empty.tolist() == [False, False, True]


def test_multilabel_images_for_a_multiclass_metric_are_refused() -> None:
    for call in (
        lambda: zero_shot_score(*_images(2, 10), _texts()),
        lambda: cler_score(*_images(1, 10), *_images(2, 10), num_classes=NUM_CLASSES),
        lambda: fit_linear_probe(*_images(1, 10), num_classes=NUM_CLASSES),
    ):
        with pytest.raises(ValueError, match="the labels are multilabel and the metric is 'accuracy'"):
            call()


def _memes(seed: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    labels = np.arange(num_rows) % 2
    features = g.normal(size=(num_rows, DIMENSION))
    features[:, 0] += 2.0 * labels
    return features.astype(np.float32), labels


def test_two_classes_are_ranked_for_roc_auc() -> None:
    texts = np.zeros((2, 1, DIMENSION), np.float32)
    texts[:, 0, :2] = [[-1, 0.1], [1, 0.1]]
    kinds = {"text_features": texts, "num_classes": 2, "metric": "roc_auc"}
    scores = _score(_memes(1, 60), _memes(2, 200), **kinds)
    for name in ("zero_shot", "cler", "linear_probe"):
        assert 0.75 < scores[name] <= 1
    # a single image a class leaves none to rank by; one class alone ranks nothing
    assert 0 <= _score(_memes(1, 2), _memes(2, 20), **kinds)["linear_probe"] <= 1
    few = linear_probe_score(_memes(1, 2), _memes(2, 20), num_classes=2, metric="roc_auc")
    assert few.validation_score is None
    features, labels = _memes(1, 9)
    alone = _score((features[labels == 1], labels[labels == 1]), _memes(2, 20), **kinds)
    assert alone["linear_probe"] == 0.5
    with pytest.raises(ValueError, match="ROC AUC needs both classes, but all 10 labels are 0"):
        _score(_memes(1, 60), (_memes(2, 20)[0][::2], _memes(2, 20)[1][::2]), **kinds)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = _images(1, 10)
    features[3, 2] = np.inf
    with pytest.raises(ValueError, match="train_features holds NaN or infinite values in 1 of 10 rows"):
        fit_linear_probe(features, labels, num_classes=NUM_CLASSES, metric="map_11_point")


def test_the_toolkit_ranks_by_the_softmax_over_classes() -> None:
    """An image counts for a class by how it compares with the other classes: softmax(100 cosine), for CLER softmax(cosine)."""
    train, (features, labels) = _images(1, 60), _images(2, 90, noise=0.8)
    metric: Any = "map_11_point_toolkit"
    unit = torch.nn.functional.normalize(torch.tensor(features), dim=1).double()
    cosines = unit @ torch.tensor(_texts()[:, 0]).double().T
    expected = score_classes((100 * cosines).softmax(dim=1), labels, metric=metric)
    assert zero_shot_score(features, labels, _texts(), metric=metric) == pytest.approx(expected)
    assert abs(expected - score_classes(cosines, labels, metric=metric)) > 1e-3
    centers, _ = class_centers(*train, num_classes=NUM_CLASSES)
    expected = score_classes((unit @ centers.double().T).softmax(dim=1), labels, metric=metric)
    found = cler_score(*train, features, labels, num_classes=NUM_CLASSES, metric=metric)
    assert found.cler == pytest.approx(expected, abs=1e-3)


def test_the_papers_probe_learns_several_labels_by_binary_cross_entropy() -> None:
    x, labels = (torch.tensor(part) for part in _images(1, 100))
    x, start = paper_probe.scaled(x), torch.tensor(_texts()[:, 0])
    heads = paper_probe.train_probe_heads(x, labels, start, [0.1, 0.01], [1e-6, 0.1], epochs=3, seed=7)
    for number, (rate, decay) in enumerate(((0.1, 1e-6), (0.01, 0.1))):
        norm, head = torch.nn.BatchNorm1d(DIMENSION, affine=False), torch.nn.Linear(DIMENSION, NUM_CLASSES)
        with torch.no_grad():
            head.weight.copy_(start)
            head.bias.zero_()
        optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
        generator = torch.Generator().manual_seed(7)
        for _ in range(3):
            for rows in torch.randperm(len(x), generator=generator).split(64):
                optimizer.zero_grad()
                torch.nn.BCEWithLogitsLoss()(head(norm(x[rows])), labels[rows].float()).backward()
                optimizer.step()
        torch.testing.assert_close(heads.logits(x)[:, number], head(norm.eval()(x)), rtol=1e-3, atol=1e-4)
    kinds: Any = {"num_classes": NUM_CLASSES, "metric": "map_11_point", "text_features": _texts(), "protocol": "paper"}
    assert linear_probe_score(_images(1, 80), _images(2, 120), **kinds).score > 0.8
    alone = labels.sum(dim=1) == 1  # generated images have one label each, and the test images several
    single = _images(1, 100)[0][alone.numpy()], labels[alone].argmax(dim=1)
    assert linear_probe_score(single, _images(2, 120), **kinds).score > 0.7
