"""Every score of one set of images on one data set, in one call."""

from dataclasses import dataclass

from engine.evaluation.cler import cler_score
from engine.evaluation.features import Array
from engine.evaluation.linear_probe import linear_probe_score
from engine.evaluation.metrics import Metric, check_metric
from engine.evaluation.protocols import Protocol
from engine.evaluation.zero_shot import zero_shot_score


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one set of training images (GenBench section 2.4), each from 0 to 1 by `metric`."""

    zero_shot: float
    """CLIP with the class names alone; the same for every set of images."""
    cler: float
    """Nearest class centre (GenBench Eq. 1)."""
    cler_ensemble: float
    """Nearest mean of class centre and text."""
    linear_probe: float
    """A linear classifier on the frozen features, by the protocol asked for."""
    probe_c: float | None
    """The probe's inverse L2 strength, chosen on shots held out of the training images (`validation`)."""
    probe_learning_rate: float | None
    """Its learning rate, chosen likewise (`paper`)."""
    probe_weight_decay: float | None
    """Its weight decay, chosen likewise (`paper`)."""
    probe_validation: float | None
    """The probe's score on those held-out shots; None if no class has two images."""
    num_train: int
    """Training images."""
    num_test: int
    """Test images."""
    num_empty_classes: int
    """Classes without a training image: never predicted by CLER, nor by the `validation` probe."""
    metric: str
    """Metric of the data set (`METRICS`)."""


def score(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    text_features: Array,
    *,
    num_classes: int,
    metric: Metric = "accuracy",
    seed: int = 0,
    protocol: Protocol = "validation",
) -> Scores:
    """Scores of training images `[M, D]`, labels `[M]`, on test images `[N, D]`, `[N]`, with text `[C, T, D]`.

    Where images have several labels these are `[N, C]` of 0 and 1 and the metric is `map_11_point`; training images may
    still have one label each, as generated ones do.

    `seed` decides which shots the probe holds out, `protocol` how it is trained (`linear_probe.py`). Raises ValueError for
    an empty set, non-finite features, labels out
    of range or shapes that do not fit together.
    """
    check_metric(metric)
    sets = (train_features, train_labels, test_features, test_labels)
    cler = cler_score(*sets, num_classes=num_classes, text_features=text_features, metric=metric)
    probe = linear_probe_score(
        *sets, num_classes=num_classes, metric=metric, seed=seed, protocol=protocol, text_features=text_features
    )
    assert cler.cler_ensemble is not None
    return Scores(
        zero_shot=zero_shot_score(test_features, test_labels, text_features, metric=metric),
        cler=cler.cler,
        cler_ensemble=cler.cler_ensemble,
        linear_probe=probe.score,
        probe_c=probe.c,
        probe_learning_rate=probe.learning_rate,
        probe_weight_decay=probe.weight_decay,
        probe_validation=probe.validation_score,
        num_train=len(train_labels),
        num_test=len(test_labels),
        num_empty_classes=cler.num_empty_classes,
        metric=metric,
    )
