"""Blame for a dead process: from a lease to its batch, and from the batch to the one recipe that ends its process."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.dataflow.leases import Lease
from engine.failures import RunFailed

MAX_UNMARKED_DEATHS = 3
"""Number of deaths of a lease without a note after which it is cut in half."""


@dataclass
class Verdict:
    """Decision on a lease whose process died."""

    again: list[Lease] = field(default_factory=list)
    """Leases to make again."""
    killers: list[int] = field(default_factory=list)
    """Indices that become error rows: their processes died twice while each was made alone."""


def judge(lease: Lease, noted: np.ndarray | None) -> Verdict:
    """Decides on a lease after a death that only its own recipes can have caused.

    Args:
        lease: the lease that was being made.
        noted: the indices that were begun last, if the lease was made with care; None if nothing was noted.
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
    """Actor on the driver's node: remembers which recipes were begun, so that they are known after a death."""

    def __init__(self) -> None:
        self._begun: dict[str, np.ndarray] = {}

    def begin(self, token: str, indices: np.ndarray) -> None:
        """Records that these recipes are begun."""
        self._begun[token] = indices

    def last(self, token: str) -> np.ndarray | None:
        """Returns the indices that were begun last under a token, and forgets them."""
        return self._begun.pop(token, None)


class Suspects:
    """Leases with which a process died. They are made one at a time, so that a killer never has two processes."""

    def __init__(self) -> None:
        self._waiting: deque[Lease] = deque()
        self._out: set[str] = set()
        self._notes: Any = None
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, lease: Lease) -> None:
        """Takes a lease that must be made with care."""
        self._waiting.append(lease)

    def next(self, matches: Callable[[Lease], bool]) -> Lease | None:
        """The next suspect of a kind, if none is being made."""
        lease = next((one for one in self._waiting if matches(one)), None) if not self._out else None
        if lease is not None:
            self._waiting.remove(lease)
        return lease

    def begin(self, lease: Lease) -> tuple[str, Any]:
        """Returns a token for the call that makes a lease, and the `Notes` actor if the lease needs notes."""
        self._tokens += 1
        token = str(self._tokens)
        if not lease.care:
            return token, None
        self._out.add(token)
        if self._notes is None:
            self._notes = start_notes()
        return token, self._notes

    def end(self, token: str) -> None:
        """Records that the call is over, whether it succeeded or not."""
        self._out.discard(token)

    def judge(self, lease: Lease, token: str) -> Verdict:
        """`judge`, with the indices noted under the token."""
        import ray

        return judge(lease, ray.get(self._notes.last.remote(token)) if lease.care else None)

    def close(self) -> None:
        """Ends the actor."""
        import ray

        if self._notes is not None:
            ray.kill(self._notes)


def start_notes() -> Any:
    """The handle of a `Notes` actor that survives the loss of any other node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(Notes).remote()


def told(error: Any) -> Exception:
    """The error to raise in the driver for a worker's `RayTaskError`: the worker's one sentence, if it has one."""
    if isinstance(error.cause, OSError):
        return RunFailed(f"a worker cannot go on ({first_line(error.cause)}); fix that and run the same command again")
    return error.cause if isinstance(error.cause, ValueError | RunFailed) else error


def first_line(error: BaseException) -> str:
    """The first meaningful line of a library's error message, 200 characters at most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
