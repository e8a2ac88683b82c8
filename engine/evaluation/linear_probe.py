"""Linear probe on frozen features by one of two protocols; the test set chooses no hyper-parameter.

`validation` (the default): logistic regression to its optimum, with an L2 strength chosen on held-out shots.
Where images have several labels (`[N, C]` of 0 and 1), it is one logistic regression per class (sigmoid, binary cross entropy).
`paper`: SGD from the text embeddings as in GenBench's toolkit (`paper_probe.py`), with one loss or the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.evaluation import paper_probe
from engine.evaluation.class_scores import MAP_METRICS, DatasetMetric, check_metric, score_classes
from engine.evaluation.features import Array, Labelled, as_features, as_targets, same_dimension, unit_norm
from engine.evaluation.logistic import fit_logistic
from engine.evaluation.protocols import PROTOCOLS as PROTOCOLS
from engine.evaluation.protocols import ProbeProtocol as ProbeProtocol
from engine.evaluation.protocols import check_protocol
from engine.evaluation.zero_shot import class_embeddings

C_GRID: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse L2 strengths to try, in scikit-learn's units: `C * sum(losses) + |W|^2 / 2`."""

DEFAULT_C = 1e-2
"""Used when no class has a second shot to hold out."""

HELD_OUT_SHARE = 0.2
"""Share of each class's shots held out for validation (at least one of two or more)."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted probe: logits are `((unit-norm x) - mean) / scale @ weight + bias`."""

    mean: torch.Tensor
    """`[D] float32`, mean of the unit-norm training features."""
    scale: float
    """Root mean square of the centred training features: one number for all dimensions, since a few shots cannot say how
    much each dimension varies."""
    weight: torch.Tensor
    """`[D, P] float32`, one column per class that has training images."""
    bias: torch.Tensor
    """`[P] float32`."""
    classes: torch.Tensor
    """`[P] int64`, the label of each column; other classes are never predicted."""
    num_classes: int
    """Classes of the data set, `C >= P`."""
    c: float
    """Inverse L2 strength chosen."""
    validation_score: float | None
    """Score of that choice on the held-out shots; None if nothing could be held out."""

    def scores(self, features: Array) -> torch.Tensor:
        """Logits `[N, C]` of features `[N, D]`; -inf for a class that had no training images."""
        rows = as_features(features)
        same_dimension(rows, self.mean, "features", "the probe's training features")
        x = (unit_norm(rows) - self.mean.to(rows.device)) / self.scale
        logits = x @ self.weight.to(rows.device) + self.bias.to(rows.device)
        return _all_classes(logits, self.classes, self.num_classes)

    def predict(self, features: Array) -> torch.Tensor:
        """Predicted labels `[N] int64` of features `[N, D]`."""
        return self.scores(features).argmax(dim=1)


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Accuracy of a linear probe on the test set, and the settings chosen."""

    score: float
    """Share from 0 to 1, of the last iterate of the refitted probe."""
    validation_score: float | None
    """Share from 0 to 1 on the held-out shots; None if nothing could be held out."""
    c: float | None = None
    """Inverse L2 strength chosen (`validation`)."""
    learning_rate: float | None = None
    """Learning rate chosen (`paper`)."""
    weight_decay: float | None = None
    """Weight decay chosen (`paper`)."""


def fit_linear_probe(
    features: Array,
    labels: Array,
    *,
    num_classes: int,
    metric: DatasetMetric = "accuracy",
    seed: int = 0,
    c_grid: Sequence[float] = C_GRID,
) -> LinearProbe:
    """Fits a probe on training features `[M, D]` and labels `[M]`; sees no test data.

    A fifth of each class's shots is held out (stratified, by `seed`) and the whole grid is trained at once on the rest.
    The C with the best held-out score wins; ties, which are common with few shots, go to the lowest held-out cross entropy.
    The probe is then refitted with it on all shots. A class with one shot holds none out; if every class has one shot, C is
    `DEFAULT_C`. Features are brought to unit norm, centred and divided by one scale.

    Raises:
        ValueError: an empty set, non-finite features, labels out of range, shapes that do not fit together, or a grid that
            is not positive.
    """
    check_metric(metric)
    if not c_grid or not all(0 < c < float("inf") for c in c_grid):
        raise ValueError(f"c_grid is {list(c_grid)}; give at least one positive number")
    rows = as_features(features, "train_features")
    targets = as_targets(labels, len(rows), num_classes, "train_labels").to(rows.device)
    if metric in MAP_METRICS and targets.ndim == 1:  # it ranks class by class, so it is learned class by class
        targets = torch.nn.functional.one_hot(targets, num_classes)
    rows = unit_norm(rows)
    mean = rows.mean(dim=0)
    scale = float((rows - mean).square().mean().sqrt()) or 1.0
    x = (rows - mean) / scale

    grid = torch.tensor(sorted(c_grid), dtype=torch.float64)
    held_out = hold_out(targets, seed)
    validation_score: float | None = None
    chosen = DEFAULT_C
    if len(grid) == 1:
        chosen = float(grid[0])
    if held_out.any():
        weight, bias, classes = _fit(x[~held_out], targets[~held_out], grid)
        logits = torch.einsum("nd,gdp->gnp", x[held_out], weight) + bias.unsqueeze(1)
        truth = targets[held_out]
        counted = "accuracy" if metric == "roc_auc" and len(truth.unique()) < 2 else metric
        scores = [score_classes(_all_classes(each, classes, num_classes), truth, metric=counted) for each in logits]
        losses = [_loss(each, truth, classes) for each in logits]
        best = min(range(len(grid)), key=lambda i: (-scores[i], losses[i]))
        validation_score, chosen = scores[best], float(grid[best])
    weight, bias, classes = _fit(x, targets, torch.tensor([chosen], dtype=torch.float64))
    return LinearProbe(mean, scale, weight[0], bias[0], classes, num_classes, chosen, validation_score)


@dataclass(frozen=True, slots=True)
class PaperProbe:
    """A probe fitted by the paper's protocol."""

    heads: paper_probe.Heads
    """The head, and the BatchNorm before it."""
    learning_rate: float
    """Learning rate chosen."""
    weight_decay: float
    """Weight decay chosen."""
    validation_score: float | None
    """Score of that choice on the held-out shots; None if nothing could be held out."""

    def scores(self, features: Array) -> torch.Tensor:
        """Logits `[N, C]` of features `[N, D]`."""
        rows = as_features(features).to(self.heads.mean.device)
        same_dimension(rows, self.heads.mean, "features", "the probe's training features")
        return self.heads.logits(paper_probe.scaled(rows))[:, 0]

    def predict(self, features: Array) -> torch.Tensor:
        """Predicted labels `[N] int64` of features `[N, D]`."""
        return self.scores(features).argmax(dim=1)


def fit_paper_probe(
    features: Array, labels: Array, text_features: Array, *, metric: DatasetMetric = "accuracy", seed: int = 0
) -> PaperProbe:
    """Fits a probe by the paper's protocol on training features `[M, D]`, labels `[M]` or `[M, C]`, and text `[C, T, D]`.

    Every class has a column, even without images, since it starts from its text. `seed` decides the held-out shots and
    the order of the minibatches. If every class has one shot, nothing is held out and nothing is searched. Raises ValueError
    as `fit_linear_probe`.
    """
    check_metric(metric)
    start = class_embeddings(text_features)
    rows = as_features(features, "train_features")
    targets = as_targets(labels, len(rows), len(start), "train_labels").to(rows.device)
    if metric in MAP_METRICS and targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, len(start))
    same_dimension(start, rows, "text_features", "train_features")
    x = paper_probe.scaled(rows)
    rate, decay, validation_score = paper_probe.DEFAULT_LR, paper_probe.DEFAULT_WEIGHT_DECAY, None
    held_out = hold_out(targets, seed)
    if held_out.any():
        choice = paper_probe.search(x, targets, held_out, start, metric=metric, seed=seed)
        rate, decay, validation_score = choice.learning_rate, choice.weight_decay, choice.validation_score
    heads = paper_probe.train_probe_heads(
        x, targets, start, [rate], [decay], epochs=paper_probe.FINAL_EPOCHS, seed=seed
    )
    return PaperProbe(heads, rate, decay, validation_score)


def linear_probe_score(
    train: Labelled,
    test: Labelled,
    *,
    num_classes: int,
    metric: DatasetMetric = "accuracy",
    seed: int = 0,
    protocol: ProbeProtocol = "validation",
    text_features: Array | None = None,
) -> ProbeScore:
    """Fits a probe on the training images `[M, D]` and scores it on the test images `[N, D]` (GenBench section 2.4).

    The test set is used once, for the number returned. The `paper` protocol starts from `text_features` `[C, T, D]`.

    Raises:
        ValueError: as `fit_linear_probe`, or an unknown protocol.
    """
    check_protocol(protocol)
    features = as_features(test[0], "test_features")
    truth = as_targets(test[1], len(features), num_classes, "test_labels")
    same_dimension(as_features(train[0], "train_features"), features, "train_features", "test_features")
    if protocol == "paper":
        if text_features is None or len(text_features) != num_classes:
            raise ValueError(
                f"the paper's probe starts from the text of each class; give text_features of {num_classes} classes"
            )
        sgd = fit_paper_probe(*train, text_features, metric=metric, seed=seed)
        result = score_classes(sgd.scores(features), truth, metric=metric)
        return ProbeScore(result, sgd.validation_score, learning_rate=sgd.learning_rate, weight_decay=sgd.weight_decay)
    probe = fit_linear_probe(*train, num_classes=num_classes, metric=metric, seed=seed)
    result = score_classes(probe.scores(features), truth, metric=metric)
    return ProbeScore(result, probe.validation_score, c=probe.c)


def _fit(x: torch.Tensor, targets: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight `[G, D, P]`, bias `[G, P]` and the class of each column, for every C of the grid `[G]`."""
    if targets.ndim == 1:
        classes, columns = targets.unique(return_inverse=True)
        return *fit_logistic(x, columns, num_classes=len(classes), c=c), classes
    varying = (targets.amin(dim=0) < targets.amax(dim=0)).nonzero().squeeze(1)
    if not len(varying):
        raise ValueError("no class has both images that show it and images that do not; give more training images")
    # softmax over two columns with half the C is the sigmoid of their difference with C
    fitted = [fit_logistic(x, targets[:, column], num_classes=2, c=c / 2) for column in varying]
    weight = torch.stack([weight[..., 1] - weight[..., 0] for weight, _ in fitted], dim=2)
    return weight, torch.stack([bias[:, 1] - bias[:, 0] for _, bias in fitted], dim=1), varying


def _all_classes(logits: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Logits `[N, P]` spread over all classes, `[N, C]`."""
    full = logits.new_full((len(logits), num_classes), float("-inf"))
    full[:, classes.to(logits.device)] = logits
    return full


def _loss(logits: torch.Tensor, truth: torch.Tensor, classes: torch.Tensor) -> float:
    """Mean cross entropy of logits `[N, P]`; a held-out class always has a row among the others."""
    if truth.ndim == 2:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth[:, classes].float()))
    return float(torch.nn.functional.cross_entropy(logits, torch.searchsorted(classes, truth)))


def hold_out(targets: torch.Tensor, seed: int) -> torch.Tensor:
    """The held-out rows, `[M] bool`: a fifth of each class, none of a class with a single row.

    Where rows have several labels, a fifth of all rows, or none if these show no class at all.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    labels = targets.cpu()
    if labels.ndim == 2:
        chosen = torch.randperm(len(labels), generator=generator)[: round(HELD_OUT_SHARE * len(labels))]
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[chosen] = False
        if labels[chosen].any() and (labels[kept].amin(dim=0) < labels[kept].amax(dim=0)).any():
            held_out = ~kept
        return held_out.to(targets.device)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        if len(rows) > 1:
            num_held_out = max(1, round(HELD_OUT_SHARE * len(rows)))
            held_out[rows[torch.randperm(len(rows), generator=generator)[:num_held_out]]] = True
    return held_out.to(targets.device)
