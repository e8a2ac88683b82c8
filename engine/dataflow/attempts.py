"""Blame for a dead process: from a lease to its batch, from the batch to the one recipe that ends its process."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.dataflow.leases import Lease

MAX_UNMARKED_DEATHS = 3
"""Deaths of a lease without a note, from which on it is cut in halves."""


@dataclass
class Verdict:
    """What to do with a lease whose process died."""

    again: list[Lease] = field(default_factory=list)
    """Leases that are made again."""
    killers: list[int] = field(default_factory=list)
    """Indices that become error rows: their processes died twice while they were made alone."""


def judge(lease: Lease, noted: np.ndarray | None) -> Verdict:
    """Decides after a death that only the lease's own recipes can have caused.

    Args:
        lease: was being made.
        noted: the indices that were begun last, where the lease is made with care; None where nothing was noted.
    """
    died = replace(lease, deaths=lease.deaths + 1)
    if lease.care == 0:
        return Verdict([replace(died, care=1)])
    if noted is None or not len(noted):
        return _halve(died) if died.deaths > MAX_UNMARKED_DEATHS else Verdict([died])
    rest = np.setdiff1d(lease.indices, noted)
    if lease.care == 1:
        return Verdict([replace(lease, indices=rest, care=0, deaths=0), replace(died, indices=np.sort(noted), care=2)])
    killer = int(noted[0])
    if killer not in lease.died_alone:
        return Verdict([replace(died, died_alone=lease.died_alone | {killer})])
    return Verdict([replace(died, indices=rest)], [killer])


def _halve(lease: Lease) -> Verdict:
    if len(lease) == 1:
        return Verdict([], [int(lease.indices[0])])
    middle = len(lease) // 2
    return Verdict(
        [replace(lease, indices=part, care=1, deaths=1) for part in (lease.indices[:middle], lease.indices[middle:])]
    )


class Notes:
    """Actor on the driver's node: remembers what is begun, so that it is known after a death."""

    def __init__(self) -> None:
        self._begun: dict[str, np.ndarray] = {}

    def begin(self, token: str, indices: np.ndarray) -> None:
        """These are begun."""
        self._begun[token] = indices

    def last(self, token: str) -> np.ndarray | None:
        """What was begun last under a token; forgets it."""
        return self._begun.pop(token, None)


def start_notes() -> Any:
    """The handle of a `Notes` that no other node can take with it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(Notes).remote()
