"""Chooses a set of images for each class by CLER on validation images, never on the test set."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.evaluation.cler import class_centers
from engine.evaluation.features import Array, as_features, as_labels, same_dimension, unit_norm

TEMPERATURE = 0.02
"""Temperature of the softmax over cosines; near CLIP's own 0.01, softer because centres of a few shots are noisy."""
NO_CENTER = -2.0
"""Stands for the cosine with a missing centre: less than any cosine."""
MAX_ROUNDS = 10
"""Most rounds over the classes; a round without a change ends the search."""


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The chosen sets, and how well each set and the choice recognise the validation images."""

    chosen: torch.Tensor
    """`[C] int64`, number of the set chosen for each class."""
    best_single: int
    """Number of the set that is best for all classes."""
    cler: float
    """CLER of the choice on the validation images: optimistic, since they made the choice."""
    cler_of_each: list[float]
    """CLER of each set alone on the validation images."""
    recall: torch.Tensor
    """`[C]` share of each class's validation images that the choice recognises; NaN without any."""


def choose_by_class(
    sets: Sequence[tuple[Array, Array]], validation_features: Array, validation_labels: Array, *, num_classes: int
) -> ClassChoice:
    """Chooses for each class the set whose centre fits best beside the centres of the other classes.

    The search starts from the best single set and goes round the classes, the class with the largest gain first. Each class
    takes the set whose centre makes the validation images likeliest (softmax of cosines) while the other centres stay, until
    no class changes. Likelihood decides, not the number of recognised images, since few validation images often tie. A gain
    below its standard error changes nothing. If the choice does not recognise clearly more validation images than the best
    single set, the best single set is returned. A set without an image of a class is chosen for it only if no set has one.

    Args:
        sets: features `[M, D]` and labels `[M]` of each set, all of the same data set.
        validation_features: `[N, D]`, with labels `[N]`.

    Raises:
        ValueError: there is no set, features are not finite, labels out of range or shapes that do not fit together.
    """
    if not sets:
        raise ValueError("there are no sets of images to choose from; give at least one")
    test = unit_norm(as_features(validation_features, "validation_features"))
    truth = as_labels(validation_labels, len(test), num_classes, "validation_labels")
    cosines = []
    for features, labels in sets:
        train = as_features(features)
        same_dimension(train, test, "features", "validation_features")
        centers, empty = class_centers(train, labels, num_classes=num_classes)
        cosines.append((test @ centers.T).masked_fill(empty, NO_CENTER))
    scores = torch.stack(cosines).double()  # [S, N, C]
    right = (scores.argmax(dim=2) == truth).double().mean(dim=1)
    likely = torch.stack([_likelihood(each, truth) for each in scores])
    best_single = max(range(len(sets)), key=lambda number: (float(right[number]), float(likely[number])))
    chosen = torch.full((num_classes,), best_single)
    current = scores[best_single].clone()
    for label in range(num_classes):  # a class that the best set lacks starts with a set that has it
        having = [number for number in range(len(sets)) if scores[number, 0, label] > NO_CENTER]
        if having and best_single not in having:
            chosen[label] = having[0]
            current[:, label] = scores[having[0], :, label]
    for _ in range(MAX_ROUNDS):
        # the largest gain comes first: otherwise a small gain of an earlier class may prevent it
        means = [_values(label, current, scores, truth).mean(dim=1) for label in range(num_classes)]
        promised = [float(value.max() - value[chosen[label]]) for label, value in enumerate(means)]
        before = chosen.clone()
        for label in sorted(range(num_classes), key=lambda label: -promised[label]):
            values = _values(label, current, scores, truth)
            best = int(values.mean(dim=1).argmax())
            if _is_clear(values[best] - values[chosen[label]]):
                chosen[label] = best
                current[:, label] = scores[best, :, label]
        if bool((chosen == before).all()):
            break
    hit = (current.argmax(dim=1) == truth).double()
    alone = (scores[best_single].argmax(dim=1) == truth).double()
    if not _is_clear(hit - alone):
        chosen, hit = torch.full((num_classes,), best_single), alone
    counts = torch.bincount(truth, minlength=num_classes).double()
    recall = torch.bincount(truth, weights=hit, minlength=num_classes) / counts
    return ClassChoice(chosen, best_single, float(hit.mean()), right.tolist(), recall)


def _values(label: int, current: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Log likelihoods `[S, N]` of the true classes if the class takes its centre from each set and the others stay as in `current`."""
    others = current.clone()
    others[:, label] = float("-inf")
    own = scores[:, :, label] / TEMPERATURE  # [S, N]
    of_truth = torch.where(truth == label, own, current.gather(1, truth[:, None]).squeeze(1) / TEMPERATURE)
    values = of_truth - torch.logaddexp(own, (others / TEMPERATURE).logsumexp(dim=1))
    return torch.where((scores[:, 0, label] > NO_CENTER)[:, None], values, -1e9)


def _is_clear(gains: torch.Tensor) -> bool:
    """Whether the mean of gains `[N]`, one per image, is more than one standard error above zero."""
    return bool(gains.mean() > gains.std(correction=0) / len(gains) ** 0.5)


def _likelihood(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean log likelihood of the true classes under scores `[N, C]`."""
    return (scores / TEMPERATURE).log_softmax(dim=1).gather(1, truth[:, None]).mean()
