"""Linear probe on frozen features, its hyper-parameters chosen without the test set, by one of two protocols.

`validation` (the default): logistic regression to its optimum, its L2 strength chosen on held-out shots.
`paper`: SGD from the text embeddings as GenBench's toolkit does it (`paper_probe.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from engine.evaluation import paper_probe
from engine.evaluation.features import Array, as_features, as_labels, same_dimension, unit_norm
from engine.evaluation.logistic import fit_logistic
from engine.evaluation.metrics import Metric, check_metric, score_predictions
from engine.evaluation.zero_shot import class_embeddings
from engine.names import unknown_name

Protocol: TypeAlias = Literal["validation", "paper"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

C_GRID: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse L2 strengths that are tried, in scikit-learn's units: `C * sum(losses) + |W|^2 / 2`."""

DEFAULT_C = 1e-2
"""What is taken when no class has a second shot to hold out."""

HELD_OUT_SHARE = 0.2
"""Share of each class's shots that the choice is validated on (at least one, of two or more)."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted probe: logits are `((unit-norm x) - mean) / scale @ weight + bias`."""

    mean: torch.Tensor
    """`[D] float32`, mean of the unit-norm training features."""
    scale: float
    """Root mean square of the centred training features. One number for all dimensions, so that a few shots do not
    decide how much each dimension counts."""
    weight: torch.Tensor
    """`[D, P] float32`, a column for each class that has training images."""
    bias: torch.Tensor
    """`[P] float32`."""
    classes: torch.Tensor
    """`[P] int64`, the label of each column; other classes are never predicted."""
    c: float
    """Inverse L2 strength chosen."""
    validation_score: float | None
    """Score of that choice on the held-out shots; None if nothing could be held out."""

    def predict(self, features: Array) -> torch.Tensor:
        """Predicted labels `[N] int64` of features `[N, D]`."""
        rows = as_features(features)
        same_dimension(rows, self.mean, "features", "the probe's training features")
        x = (unit_norm(rows) - self.mean.to(rows.device)) / self.scale
        return self.classes.to(rows.device)[(x @ self.weight.to(rows.device) + self.bias.to(rows.device)).argmax(dim=1)]


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """What a linear probe reached on the test set."""

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
    metric: Metric = "accuracy",
    seed: int = 0,
    c_grid: Sequence[float] = C_GRID,
) -> LinearProbe:
    """Fits a probe on training features `[M, D]` and labels `[M]`; sees no test data.

    A fifth of each class's shots is held out (stratified, by `seed`), the whole grid is trained at once on the rest,
    the C with the best held-out score is taken (of equals, the one with the lowest held-out cross entropy: a few shots
    often tie), and the probe is refitted on all shots with it. A class with one shot holds none out; if every class has one, C is `DEFAULT_C`. Features are brought to
    unit norm, centred and divided by one scale. Raises ValueError for an empty set, non-finite features, labels out of
    range, shapes that do not fit together or a grid that is not positive.
    """
    check_metric(metric)
    if not c_grid or not all(0 < c < float("inf") for c in c_grid):
        raise ValueError(f"c_grid is {list(c_grid)}; give at least one positive number")
    rows = as_features(features, "train_features")
    targets = as_labels(labels, len(rows), num_classes, "train_labels").to(rows.device)
    classes, columns = targets.unique(return_inverse=True)
    rows = unit_norm(rows)
    mean = rows.mean(dim=0)
    scale = float((rows - mean).square().mean().sqrt()) or 1.0
    x = (rows - mean) / scale

    grid = torch.tensor(sorted(c_grid), dtype=torch.float64)
    held_out = _hold_out(columns, seed)
    validation_score: float | None = None
    chosen = DEFAULT_C
    if len(grid) == 1:
        chosen = float(grid[0])
    if held_out.any():
        weight, bias = fit_logistic(x[~held_out], columns[~held_out], num_classes=len(classes), c=grid)
        logits = torch.einsum("nd,gdp->gnp", x[held_out], weight) + bias.unsqueeze(1)
        truth = columns[held_out]
        scores = [score_predictions(g, truth, num_classes=len(classes), metric=metric) for g in logits.argmax(dim=2)]
        losses = [float(torch.nn.functional.cross_entropy(each, truth)) for each in logits]
        best = min(range(len(grid)), key=lambda i: (-scores[i], losses[i]))
        validation_score, chosen = scores[best], float(grid[best])
    weight, bias = fit_logistic(x, columns, num_classes=len(classes), c=torch.tensor([chosen], dtype=torch.float64))
    return LinearProbe(mean, scale, weight[0], bias[0], classes, chosen, validation_score)


@dataclass(frozen=True, slots=True)
class PaperProbe:
    """A probe fitted by the paper's protocol."""

    heads: paper_probe.Heads
    """The one head, and the BatchNorm before it."""
    learning_rate: float
    """Learning rate chosen."""
    weight_decay: float
    """Weight decay chosen."""
    validation_score: float | None
    """Score of that choice on the held-out shots; None if nothing could be held out."""

    def predict(self, features: Array) -> torch.Tensor:
        """Predicted labels `[N] int64` of features `[N, D]`."""
        rows = as_features(features).to(self.heads.mean.device)
        same_dimension(rows, self.heads.mean, "features", "the probe's training features")
        return self.heads.logits(paper_probe.scaled(rows))[:, 0].argmax(dim=1)


def fit_paper_probe(
    features: Array, labels: Array, text_features: Array, *, metric: Metric = "accuracy", seed: int = 0
) -> PaperProbe:
    """Fits a probe by the paper's protocol on training features `[M, D]`, labels `[M]` and text `[C, T, D]`.

    Every class has a column, one without images too: it starts from its text. The shots held out and the order of the
    minibatches come from `seed`. If every class has one shot, nothing is held out and nothing searched. Raises as `fit_linear_probe`.
    """
    check_metric(metric)
    start = class_embeddings(text_features)
    rows = as_features(features, "train_features")
    targets = as_labels(labels, len(rows), len(start), "train_labels").to(rows.device)
    same_dimension(start, rows, "text_features", "train_features")
    x = paper_probe.scaled(rows)
    rate, decay, validation_score = paper_probe.DEFAULT_LR, paper_probe.DEFAULT_WEIGHT_DECAY, None
    held_out = _hold_out(targets, seed)
    if held_out.any():
        choice = paper_probe.search(x, targets, held_out, start, metric=metric, seed=seed)
        rate, decay, validation_score = choice.learning_rate, choice.weight_decay, choice.validation_score
    heads = paper_probe.train_heads(x, targets, start, [rate], [decay], epochs=paper_probe.FINAL_EPOCHS, seed=seed)
    return PaperProbe(heads, rate, decay, validation_score)


def linear_probe_score(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    num_classes: int,
    metric: Metric = "accuracy",
    seed: int = 0,
    protocol: Protocol = "validation",
    text_features: Array | None = None,
) -> ProbeScore:
    """Fits a probe on the training images `[M, D]` and scores it on the test images `[N, D]` (GenBench section 2.4).

    The test set is used once, for the number returned. The `paper` protocol starts from `text_features` `[C, T, D]`. Raises as
    `fit_linear_probe`, and for an unknown protocol.
    """
    check_protocol(protocol)
    test = as_features(test_features, "test_features")
    truth = as_labels(test_labels, len(test), num_classes, "test_labels")
    same_dimension(as_features(train_features, "train_features"), test, "train_features", "test_features")
    if protocol == "paper":
        if text_features is None or len(text_features) != num_classes:
            raise ValueError(
                f"the paper's probe starts from the text of each class; give text_features of {num_classes} classes"
            )
        sgd = fit_paper_probe(train_features, train_labels, text_features, metric=metric, seed=seed)
        result = score_predictions(sgd.predict(test), truth, num_classes=num_classes, metric=metric)
        return ProbeScore(result, sgd.validation_score, learning_rate=sgd.learning_rate, weight_decay=sgd.weight_decay)
    probe = fit_linear_probe(train_features, train_labels, num_classes=num_classes, metric=metric, seed=seed)
    result = score_predictions(probe.predict(test), truth, num_classes=num_classes, metric=metric)
    return ProbeScore(result, probe.validation_score, c=probe.c)


def check_protocol(protocol: str) -> None:
    """Raises ValueError for a protocol that is not one of PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(unknown_name("probe protocol", protocol, PROTOCOLS))


def _hold_out(columns: torch.Tensor, seed: int) -> torch.Tensor:
    """Which rows are held out, `[M] bool`: a fifth of each class, none of a class with a single row."""
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(columns), dtype=torch.bool)
    labels = columns.cpu()
    for column in range(int(labels.max()) + 1):
        rows = (labels == column).nonzero().squeeze(1)
        if len(rows) > 1:
            num_held_out = max(1, round(HELD_OUT_SHARE * len(rows)))
            held_out[rows[torch.randperm(len(rows), generator=generator)[:num_held_out]]] = True
    return held_out.to(columns.device)
