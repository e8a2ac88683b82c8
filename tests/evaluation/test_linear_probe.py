from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from engine.evaluation import MetricInputs, class_centers, fit_linear_probe, linear_probe_score, logistic, measure
from engine.evaluation.linear_probe import C_GRID, DEFAULT_C
from engine.evaluation.logistic import fit_logistic
from engine.evaluation.metrics import CLER, LINEAR_PROBE, tradeoff_metrics

Data = tuple[np.ndarray[Any, Any], ...]


def blobs(num_classes: int, dimension: int, shots: int, noise: float = 2.0, seed: int = 0) -> Data:
    """Train and test features and labels of noisy classes; the dimensions differ in scale, as an encoder's do."""
    g = np.random.default_rng(seed)
    centers = g.normal(size=(num_classes, dimension))
    scales = np.exp(-4 * np.arange(dimension) / dimension)

    def draw(per_class: int) -> Data:
        labels = np.repeat(np.arange(num_classes), per_class)
        rows = (centers[labels] + noise * g.normal(size=(len(labels), dimension))) * scales + 0.3
        return rows.astype(np.float32), labels

    return (*draw(shots), *draw(40))


def standardised(probe: Any, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    return (rows - probe.mean.numpy()) / probe.scale


def objective(features: Any, labels: Any, weight: Any, bias: Any, c: float) -> float:
    """What both solvers minimise, in float64."""
    x, weight, bias = (torch.as_tensor(each).double() for each in (features, weight, bias))
    loss = torch.nn.functional.cross_entropy(x @ weight + bias, torch.as_tensor(labels), reduction="sum")
    return float(c * loss + weight.square().sum() / 2)


# classes that can be told apart, and classes drowned in noise, where accuracies of equal optima differ by chance
LEARNABLE = ((24, 64, 40, 2.0), (10, 128, 5, 1.0), (20, 32, 1, 0.3))
NOISY = ((10, 128, 5, 2.0), (20, 32, 1, 2.0))


@pytest.mark.parametrize(("num_classes", "dimension", "shots", "noise"), LEARNABLE + NOISY)
def test_the_probe_reaches_scikit_learns_optimum(num_classes: int, dimension: int, shots: int, noise: float) -> None:
    train, labels, _, _ = blobs(num_classes, dimension, shots, noise)
    probe = fit_linear_probe(train, labels, num_classes=num_classes)
    x = standardised(probe, train)
    peer = LogisticRegression(C=probe.c, max_iter=5000, tol=1e-7).fit(x.astype(np.float64), labels)
    best = objective(x, labels, peer.coef_.T, peer.intercept_, probe.c)
    assert objective(x, labels, probe.weight, probe.bias, probe.c) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize(("num_classes", "dimension", "shots", "noise"), LEARNABLE)
def test_accuracy_is_scikit_learns_within_half_a_point(
    num_classes: int, dimension: int, shots: int, noise: float
) -> None:
    train, labels, test, truth = blobs(num_classes, dimension, shots, noise)
    probe = fit_linear_probe(train, labels, num_classes=num_classes)
    peer = LogisticRegression(C=probe.c, max_iter=2000, tol=1e-5).fit(standardised(probe, train), labels)
    ours = linear_probe_score((train, labels), (test, truth), num_classes=num_classes).score
    assert ours == pytest.approx(peer.score(standardised(probe, test), truth), abs=0.005)
    assert ours > 0.7


def test_every_model_of_the_grid_reaches_scikit_learns_optimum() -> None:
    train, labels, _, _ = blobs(8, 32, 20)
    x = (train - train.mean(axis=0)) / train.std()
    features, targets = torch.tensor(x + 1.0), torch.tensor(labels)  # off centre, so that the bias has work to do
    weight, bias = fit_logistic(features, targets, num_classes=8, c=torch.tensor(C_GRID[:5]))
    for index, c in enumerate(C_GRID[:5]):
        peer = LogisticRegression(C=c, max_iter=5000, tol=1e-7).fit(features.double().numpy(), labels)
        best = objective(features, labels, peer.coef_.T, peer.intercept_, c)
        assert objective(features, labels, weight[index], bias[index], c) == pytest.approx(best, rel=2e-3)


def test_a_model_does_not_depend_on_the_others_in_its_batch() -> None:
    train, labels, _, _ = blobs(6, 16, 10)
    features, targets = torch.tensor(train), torch.tensor(labels)
    together, _ = fit_logistic(features, targets, num_classes=6, c=torch.tensor([1e-3, 1e-1, 10.0]))
    alone, _ = fit_logistic(features, targets, num_classes=6, c=torch.tensor([1e-1]))
    torch.testing.assert_close(together[1], alone[0], rtol=1e-3, atol=1e-3)


def test_the_probe_never_sees_the_test_labels() -> None:
    train, labels, test, truth = blobs(6, 16, 8, noise=1.0)
    first = linear_probe_score((train, labels), (test, truth), num_classes=6, seed=3)
    second = linear_probe_score((train, labels), (test, (truth + 1) % 6), num_classes=6, seed=3)
    assert (first.c, first.validation_score) == (second.c, second.validation_score)
    assert first.score > 0.5 > second.score


def test_the_same_seed_gives_the_same_probe_and_another_seed_other_held_out_shots() -> None:
    train, labels, _, _ = blobs(6, 16, 10, noise=3.0)
    first, second = (fit_linear_probe(train, labels, num_classes=6, seed=1) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    validations = {fit_linear_probe(train, labels, num_classes=6, seed=s).validation_score for s in range(8)}
    assert len(validations) > 1


def test_the_choice_of_c_follows_the_held_out_shots() -> None:
    # pure noise in many dimensions with a weak signal in one: only a strong L2 generalises, and 10.0 must not be taken
    g = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    train = g.normal(size=(200, 150)).astype(np.float32)
    train[:, 0] += np.where(labels == 1, 1.5, -1.5)
    probe = fit_linear_probe(train, labels, num_classes=2)
    assert probe.c in C_GRID
    assert probe.c < 1
    assert probe.validation_score is not None
    assert probe.validation_score > 0.8


def test_one_shot_a_class_falls_back_to_the_default() -> None:
    train, labels, _, _ = blobs(5, 16, 1)
    probe = fit_linear_probe(train, labels, num_classes=5)
    assert (probe.c, probe.validation_score) == (DEFAULT_C, None)


def test_a_class_with_one_shot_keeps_it_for_training() -> None:
    train, labels, _, _ = blobs(3, 16, 6)
    rows = np.flatnonzero((labels != 2) | (np.arange(len(labels)) == len(labels) - 1))
    probe = fit_linear_probe(train[rows], labels[rows], num_classes=3)
    assert probe.validation_score is not None
    assert probe.classes.tolist() == [0, 1, 2]


def test_a_class_without_images_is_never_predicted() -> None:
    train, labels, test, _ = blobs(4, 16, 6)
    probe = fit_linear_probe(train, labels * 2, num_classes=8)
    assert set(probe.predict(test).tolist()) <= {0, 2, 4, 6}


def test_identical_features_and_a_single_class_are_no_trouble() -> None:
    same = np.ones((6, 4), dtype=np.float32)
    assert fit_linear_probe(same, np.array([0, 0, 0, 0, 1, 1]), num_classes=2).predict(same).tolist() == [0] * 6
    assert fit_linear_probe(same, np.full(6, 3), num_classes=5).predict(same).tolist() == [3] * 6


def test_the_largest_set_of_the_miniature_world_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, test, truth = blobs(48, 96, 100)
    models: list[int] = []
    passes = logistic._loss_and_gradient

    def count(x: Any, labels: Any, weights: torch.Tensor, decay: Any) -> Any:
        models.append(len(weights))
        return passes(x, labels, weights, decay)

    monkeypatch.setattr(logistic, "_loss_and_gradient", count)
    linear_probe_score((train, labels), (test, truth), num_classes=48)
    # a pass is one loss and gradient of one model over the set; 250 of them are a quarter of a second on one core
    assert sum(models) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": np.full((4, 2), np.inf, dtype=np.float32)}, "train_features holds NaN or infinite"),
        ({"test_features": np.full((2, 2), np.nan, dtype=np.float32)}, "test_features holds NaN or infinite"),
        ({"train_labels": np.array([0, 1, 2, -1])}, "train_labels runs from -1 to 2"),
        ({"test_labels": np.array([0, 9])}, "test_labels runs from 0 to 9"),
        ({"train_features": np.empty((0, 2), dtype=np.float32), "train_labels": np.empty(0, int)}, "is empty"),
        ({"test_features": np.ones((2, 3), dtype=np.float32)}, "train_features has dimension 2"),
        ({"text_features": np.ones((2, 1, 2), dtype=np.float32)}, "text_features has 2 classes"),
        ({"metric": "f1"}, "metric is 'f1'"),
    ],
)
def test_measuring_says_what_is_wrong_with_its_input(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "train_features": np.arange(8, dtype=np.float32).reshape(4, 2),
        "train_labels": np.array([0, 1, 2, 0]),
        "train_classes": np.array([0, 1, 2, 0]),
        "test_features": np.ones((2, 2), dtype=np.float32),
        "test_labels": np.array([0, 1]),
        "text_features": np.ones((3, 1, 2), dtype=np.float32),
        "num_classes": 3,
    }
    with pytest.raises(ValueError, match=message):
        measure((CLER, LINEAR_PROBE), MetricInputs(**(values | change)))


def test_the_scores_of_the_trade_off_are_measured_together() -> None:
    train, labels, test, truth = blobs(5, 16, 8, noise=0.5)
    g = np.random.default_rng(1)
    text = g.normal(size=(6, 2, 16)).astype(np.float32)
    inputs = MetricInputs(
        train_features=train,
        train_labels=labels,
        train_classes=labels,
        test_features=test,
        test_labels=truth,
        text_features=text,
        num_classes=6,
        metric="mean_per_class",
        seed=2,
    )
    found = measure([metric for metric in tradeoff_metrics() if metric.compute], inputs)
    assert list(found.values) == ["zero_shot", "cler", "cler_ensemble", "linear_probe"]
    assert found.values["linear_probe"] > 0.95
    assert found.values["cler"] > 0.85
    assert found.values["zero_shot"] < 0.7
    assert list(found.seconds) == ["zero_shot", "cler", "linear_probe"]
    assert class_centers(train, labels, num_classes=6)[1].sum() == 1
