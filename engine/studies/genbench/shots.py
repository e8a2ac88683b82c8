"""Images of a plan counted class by class."""

from typing import Any

import numpy as np

from engine.recipe import Recipe


def first_of_each(plan: Any, shots: Any) -> list[Recipe]:
    """The first recipes of each class; `shots`: `[C]`, their number, or one number for all."""
    wanted = np.broadcast_to(np.asarray(shots), (plan.num_classes,))
    recipes = [plan[index] for index in range(plan.num_recipes(int(wanted.max(initial=0))))]
    numbers = shot_numbers(np.array([recipe.class_index for recipe in recipes], np.int64))
    return [recipe for recipe, number in zip(recipes, numbers, strict=True) if number < wanted[recipe.class_index]]


def shot_numbers(classes: np.ndarray) -> np.ndarray:
    """`[N]` number of earlier rows of the same class."""
    seen: dict[int, int] = {}
    numbers: np.ndarray = np.zeros(len(classes), np.int64)
    for row, label in enumerate(classes.tolist()):
        numbers[row] = seen[label] = seen.get(label, -1) + 1
    return numbers
