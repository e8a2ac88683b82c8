"""A plan is a list of recipes that is never materialised: recipe number `index` is computed on demand."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

from engine.recipe import Recipe

_MAX_KNOWN_IDS = 1 << 16


class Plan(Protocol):
    """Recipes `0 … len(plan) - 1`, each a pure function of its index, all different."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Recipe: ...


class ClassPlan(Protocol):
    """A plan that cycles through the classes: index `shot * C + class`, so the n-shot set is the first `n * C` recipes.

    A class without further images is skipped, so use `num_recipes` for the number of recipes.
    """

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        ...

    @property
    def shots(self) -> int:
        """Images per class, at most."""
        ...

    def __getitem__(self, index: int) -> Recipe: ...

    def num_recipes(self, shots: int) -> int:
        """Number of recipes of the n-shot set, which is a prefix of the plan."""
        ...


def plan_ids(plan: Plan, num: int | None = None) -> list[str]:
    """The ids of a plan's recipes, or of its first `num`, without repetitions, in order."""
    return list(dict.fromkeys(plan[index].id for index in range(len(plan) if num is None else num)))


def shot_ids(plan: ClassPlan, start: int, stop: int) -> Iterator[tuple[str, int]]:
    """(id, class index) of the shots `start … stop - 1` of every class; shots 0 … n - 1 are the n-shot set."""
    for index in range(plan.num_recipes(start), plan.num_recipes(stop)):
        recipe = plan[index]
        yield recipe.id, recipe.class_index


class ShotIds(Sequence[Sequence[str]]):
    """The ids of a plan by class and shot, `ids[class_index][shot]`, computed at first use."""

    def __init__(self, plan: ClassPlan):
        self.num_shots = plan.shots
        self._plan = plan
        self._known: dict[int, str] = {}

    def __len__(self) -> int:
        return self._plan.num_classes

    def __getitem__(self, class_index: Any) -> Any:
        return _ClassShotIds(self, range(len(self))[class_index])

    def id_at(self, index: int) -> str:
        """The id of recipe `index`; the first `_MAX_KNOWN_IDS` requested ids are kept."""
        found = self._known.get(index)
        if found is None:
            found = self._plan[index].id
            if len(self._known) < _MAX_KNOWN_IDS:
                self._known[index] = found
        return found


def several_labels(plan: Plan) -> dict[str, tuple[list[int], list[str]]]:
    """Id → class indices and class names of the plan's images whose data set gives an image several labels; those of all its parts."""
    found: dict[str, tuple[list[int], list[str]]] = getattr(plan, "several_labels", dict)()
    return found


class _ClassShotIds(Sequence[str]):
    def __init__(self, ids: ShotIds, class_index: int):
        self._ids, self._class_index = ids, class_index

    def __len__(self) -> int:
        return self._ids.num_shots

    def __getitem__(self, shot: Any) -> Any:
        return self._ids.id_at(range(len(self))[shot] * len(self._ids) + self._class_index)


class ConcatenatedPlan:
    """Several plans one after the other."""

    def __init__(self, plans: Sequence[Plan]):
        self._plans = list(plans)
        self._ends = list(accumulate(len(plan) for plan in self._plans))

    def several_labels(self) -> dict[str, tuple[list[int], list[str]]]:
        """Those of all parts."""
        return {one: labels for plan in self._plans for one, labels in several_labels(plan).items()}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return self._plans[number][index - (self._ends[number - 1] if number else 0)]
