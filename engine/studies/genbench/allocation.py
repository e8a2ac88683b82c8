"""Allocation of a budget: the expected error of each class by source and shots, from a pilot, and the purchase that follows.

The method, step by step:

1. The pilot has P images per class of each cheap source (generative, retrieval) and V labelled originals per class. The cheap sources
   are tested on the originals, and the originals on each other, one left out at a time. Their labels are part of the bill.
2. An error is CLER's: the share of a class's V originals whose nearest class centre is that of another class. V images say little about
   one class, so its share is shrunk towards that of its data set and source, as if `PRIOR_IMAGES` more images had been seen.
3. More shots lower an error by a power of their number. The power is one number per data set and source, estimated from the
   same pilot at fewer shots, and at most `MAX_RATE`.
4. The options of a class are a source and a number of shots, each with its cost beyond the pilot and its expected accuracy. Only the
   upper concave hull of the options counts. The steps of all classes are bought in the order of gain per dollar while the money lasts:
   the greedy solution of this knapsack problem, at most one step worse than the best one.
5. The remaining money buys original images evenly, one per class and round, the worst class first.

A class trains on the images of its source and on all its originals. If originals are its source, its best cheap images are kept
beside them unless they are clearly worse: by more than the standard error of the pilot's estimate for the originals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation import class_centers

PRIOR_IMAGES = 4
MAX_RATE = 0.5
"""The error of a mean falls at most with the square root of the number of shots."""
PRIOR_RATE = 0.25
"""Rate for a pilot with only one number of shots, which shows no rate."""
LEAST_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class Curve:
    """Expected error of each class of a data set as a function of the shots of one source."""

    error: np.ndarray
    """`[C]` at `shots`."""
    shots: float
    rate: float
    """Power by which the error falls."""

    def at(self, shots: float) -> np.ndarray:
        """`[C]` expected share of recognised images with that many shots."""
        return 1 - self.error * (self.shots / shots) ** self.rate


@dataclass(frozen=True, slots=True)
class Option:
    """One way to get training images for a class."""

    source: str
    shots: int
    """Images of the source in total, the pilot's included."""
    usd: float
    """US dollars beyond the pilot."""
    value: float
    """Expected share of recognised images."""


def errors_of(
    train: np.ndarray, train_classes: np.ndarray, test: np.ndarray, test_classes: np.ndarray, num_classes: int
) -> np.ndarray:
    """`[C]` share of each class's test images that CLER assigns to another class; 1 for a class without test images."""
    centers, empty = class_centers(train, train_classes, num_classes=num_classes)
    scores = test @ centers.numpy().T
    scores[:, empty.numpy()] = -np.inf
    return _share(scores.argmax(axis=1) != test_classes, test_classes, num_classes)


def leave_one_out_errors(features: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """`[C]` the same, with each image tested on the centres of all others; features `[N, D]` have unit norm."""
    centers, _ = class_centers(features, classes, num_classes=num_classes)
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, classes, features)
    without = sums[classes] - features
    length = np.linalg.norm(without, axis=1)
    own = np.where(length > 1e-6, (without * features).sum(axis=1) / np.maximum(length, 1e-6), -np.inf)
    scores = features @ centers.numpy().T
    scores[np.arange(len(features)), classes] = own
    return _share(scores.argmax(axis=1) != classes, classes, num_classes)


def _share(wrong: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.bincount(classes, minlength=num_classes)
    return np.where(counts > 0, np.bincount(classes[wrong], minlength=num_classes) / np.maximum(counts, 1), 1.0)


def fit_curve(few: np.ndarray, few_shots: float, many: np.ndarray, many_shots: float, num_images: int) -> Curve:
    """The curve through errors `[C]` at fewer and at more shots, each measured on `num_images` images per class."""
    pooled = max(float(many.mean()), LEAST_ERROR)
    rate = PRIOR_RATE
    if many_shots > few_shots:
        before = max(float(few.mean()), LEAST_ERROR)
        rate = float(np.clip(np.log(before / pooled) / np.log(many_shots / few_shots), 0.0, MAX_RATE))
    shrunk = (num_images * many + PRIOR_IMAGES * pooled) / (num_images + PRIOR_IMAGES)
    return Curve(np.clip(shrunk, LEAST_ERROR, 1.0), many_shots, rate)


def options_of(
    curves: Mapping[str, Curve],
    usd_per_image: Mapping[str, float],
    pilot: Mapping[str, int],
    max_shots: int,
    class_index: int,
) -> list[Option]:
    """Every source and number of shots of a class, from the pilot's number upwards."""
    options = []
    for source, curve in curves.items():
        first = pilot[source]
        for shots in range(first, max(max_shots, first) + 1):
            value = float(curve.at(max(shots, 1))[class_index]) if shots else 0.0
            options.append(Option(source, shots, usd_per_image[source] * (shots - first), value))
    return options


def worth_keeping(cheap: float, original: float, num_images: int) -> bool:
    """Whether cheap images are not clearly worse than originals; `cheap` and `original` are their expected accuracies."""
    error = (original * (1 - original) / (num_images + PRIOR_IMAGES)) ** 0.5
    return cheap >= original - error


def allocate(
    options: Sequence[Sequence[Option]], weights: Sequence[float], budget_usd: float
) -> tuple[list[Option], float]:
    """One option per class, and the remaining dollars: steps up the hulls of the classes in the order of weighted gain per dollar.

    Each class needs an option that costs nothing.
    """
    hulls = [_hull(each) for each in options]
    steps = []
    for number, hull in enumerate(hulls):
        for place in range(1, len(hull)):
            gain = weights[number] * (hull[place].value - hull[place - 1].value)
            cost = hull[place].usd - hull[place - 1].usd
            steps.append((gain / cost, -number, place, cost))
    chosen = [0] * len(hulls)
    left = budget_usd
    stopped: set[int] = set()
    for _, negative, place, cost in sorted(steps, key=lambda step: (-step[0], -step[1], step[2])):
        number = -negative
        if number in stopped:
            continue
        if cost <= left:
            chosen[number] = place
            left -= cost
        else:
            stopped.add(number)
    return [hull[place] for hull, place in zip(hulls, chosen, strict=True)], left


def _hull(options: Sequence[Option]) -> list[Option]:
    """The upper concave hull over dollars, starting with the best of the cheapest options."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.usd, -each.value)):
        if hull and (option.value <= hull[-1].value or option.usd == hull[-1].usd):
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(low: Option, high: Option) -> float:
    return (high.value - low.value) / (high.usd - low.usd)


def spread_evenly(have: np.ndarray, most: np.ndarray, first: np.ndarray, images: int) -> np.ndarray:
    """`[C]` shots after `images` more are given out, one per class and round, to the classes with the fewest, up to `most`.

    `have`: `[C]` shots before. `first`: `[C]`, within a round the class with the largest value comes first.
    """
    shots = have.copy()
    order = np.argsort(-first, kind="stable")
    while images > 0:
        open_ = [number for number in order if shots[number] < most[number]]
        if not open_:
            break
        least = min(shots[number] for number in open_)
        for number in [number for number in open_ if shots[number] == least][:images]:
            shots[number] += 1
            images -= 1
    return shots
