"""Failing GPUs: told apart from recipes that kill their process, counted, and no longer used."""

from collections.abc import Callable

import numpy as np

SICK_AFTER = 3
"""Number of workers in a row that a GPU may lose, with different leases, before it is no longer used."""

Place = tuple[str, tuple[str, ...]]
"""Node id and GPU ids of a worker."""


class Devices:
    """Lost workers of each GPU."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._lost: dict[Place, list[np.ndarray]] = {}
        self.sick: set[Place] = set()
        """GPUs that are no longer used."""

    def worked(self, place: Place | None) -> None:
        """Records that a lease was made there."""
        if place:
            self._lost.pop(place, None)

    def failed(self, place: Place | None, culprit: np.ndarray, reason: str) -> None:
        """Records that a worker was lost there while it made the recipes `culprit` (empty while it started)."""
        if place is None or not place[1]:
            return
        lost = self._lost.setdefault(place, [])
        if not any(np.isin(culprit, earlier).any() for earlier in lost):  # a recipe that kills again is no new evidence
            lost.append(culprit)
        if len(lost) >= SICK_AFTER:
            self.sick.add(place)
            self._say(f"{_name(place)} ended {SICK_AFTER} workers in a row and is left alone ({reason})")

    def __str__(self) -> str:
        return ", ".join(_name(place) for place in sorted(self.sick))


def _name(place: Place) -> str:
    node, gpus = place
    return f"GPU {', '.join(gpus)} of node {node[:8]}"
