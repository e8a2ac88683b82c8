"""Contracts of rows: what every metric, source and part of a prompt strategy must fulfil, shipped for those who add one."""

import math
from dataclasses import fields

import numpy as np

from engine.catalog import Dataset
from engine.evaluation.metrics import Metric, MetricInputs, measure
from engine.models.prompt_weights import read_weights
from engine.prompts import Base, Materials, Modifier, Prompt, PromptRequest
from engine.sources.kinds import PlanRequest, ShotPlan, SourceKind

RANGES = {"share": (0.0, 1.0), "points": (0.0, 100.0), "cosine": (-1.0, 1.0), "distance": (0.0, math.inf)}
"""Lowest and highest value of each unit."""
_NAMES = ("cat (house)", "dog", "bird")
BRACKETS = Dataset(
    "brackets",
    "own",
    "accuracy",
    "",
    _NAMES,
    ("a {c}", "the {c}"),
    prompts=tuple((f"a {name} at sea",) for name in _NAMES),
)
"""A data set with a class name that holds the brackets of attention weights."""


def made_up_inputs(num_shots: int = 10, noise: float = 0.2, seed: int = 0) -> MetricInputs:
    """Inputs of metrics for three classes of noisy unit vectors in 8 dimensions; less noise is better."""
    random = np.random.default_rng(seed)

    def images(shots: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
        classes = np.tile(np.arange(3), shots)
        features = (np.eye(8)[classes] + spread * random.normal(size=(len(classes), 8))).astype(np.float32)
        return features / np.linalg.norm(features, axis=1, keepdims=True), classes

    (test, truth), (train, labels) = images(20, 0.2), images(num_shots, noise)
    return MetricInputs(
        train_features=train,
        train_labels=labels,
        train_classes=labels,
        test_features=test,
        test_labels=truth,
        num_classes=3,
        text_features=np.eye(8, dtype=np.float32)[:3, None],
        fid_features=(test, train),
        fid_name="made up",
    )


def check_metric(metric: Metric) -> None:
    """A metric returns a number of its unit, the same for the same inputs, and leaves these as they are.

    Raises AssertionError if it does not.
    """
    assert metric.heading, f"{metric.name} has no heading"
    assert metric.compute, f"{metric.name} is not computed from arrays"
    low, high = RANGES[metric.unit]
    for noise in (0.1, 30.0):
        inputs, same = made_up_inputs(noise=noise), made_up_inputs(noise=noise)
        value = measure([metric], inputs).values[metric.name]
        assert isinstance(value, float), f"{metric.name} is a {type(value).__name__}, not a float"
        assert low <= value <= high, f"{metric.name} is {value}, not from {low} to {high}"
        assert measure([metric], same).values[metric.name] == value, f"{metric.name} changes from call to call"
        for field in fields(inputs):
            np.testing.assert_equal(getattr(inputs, field.name), getattr(same, field.name))


def check_source(kind: SourceKind, request: PlanRequest) -> ShotPlan:
    """A source plans recipes of its own name, no two alike, the same each time, and says where they are read from.

    Raises AssertionError if it does not; returns the plan.
    """
    plan, again = kind.make_plan(request), kind.make_plan(request)
    names = request.dataset.class_names
    recipes = [plan[index] for index in range(len(plan))]
    assert recipes, f"{kind.name} plans nothing"
    assert len({recipe.id for recipe in recipes}) == len(recipes), f"{kind.name} plans an image twice"
    assert [recipe.id for recipe in recipes] == [again[index].id for index in range(len(again))]
    for recipe in recipes:
        assert (recipe.source, recipe.dataset, recipe.split) == (kind.name, request.dataset.name, "train")
        assert recipe.class_name == names[recipe.class_index]
    counts = [plan.num_recipes(shots) for shots in range(request.shots + 1)]
    assert counts == sorted(counts), "a set of more shots has fewer images"
    assert (counts[0], counts[-1]) == (0, len(plan))
    for shots, count in enumerate(counts):
        of_class = np.bincount([recipe.class_index for recipe in recipes[:count]], minlength=len(names))
        assert of_class.max(initial=0) <= shots, f"a class has more than {shots} of its {shots}-shot set"
    if kind.is_generated:
        assert all(recipe.generator and recipe.prompt for recipe in recipes)
    else:
        corpora = getattr(plan, "corpora", {})
        assert all(recipe.key and recipe.corpus in corpora for recipe in recipes), "an image's corpus is not known"
    return plan


def check_strategy_part(part: Base | Modifier) -> None:
    """A part of a prompt strategy is a pure function, keeps the class name, and declares the materials that it looks up.

    Raises AssertionError if it is not so.
    """
    sentences = [[f"some {name}", f"one {name}"] for name in BRACKETS.class_names]
    needed = Materials(
        {BRACKETS.name: sentences} if part.needs_sentences else {},
        {BRACKETS.name: [["id-0", "id-1"]] * 3} if part.needs_references else {},
    )
    for shot in range(40):
        request = PromptRequest(BRACKETS, 0, shot, 1, needed)
        prompt = _apply(part, request)
        assert prompt == _apply(part, request), f"{part.name} changes from call to call"
        read = read_weights(prompt.text)
        assert "cat (house)" in read.text, f"{part.name} loses the class name: {read.text!r}"
        start = read.text.index("cat (house)")
        weights = {read.weights[place] for place in range(start, start + len("cat (house)"))}
        assert weights == {1.0}, f"{part.name} takes brackets of the class name for weights"
        assert bool(prompt.reference_id) <= part.needs_references


def _apply(part: Base | Modifier, request: PromptRequest) -> Prompt:
    if isinstance(part, Base):
        return part.write(request)
    return part.modify(Prompt("a photo of a cat \\(house\\)"), request)
