"""Merges of small files on the cluster's nodes, so that the driver's disk and processor do not limit a large run."""

from collections.abc import Iterable, Iterator
from typing import Any

from engine.store.compaction import Merge

MERGES_AT_ONCE = 64
"""Merges that are under way; each holds one CPU and some hundred megabytes of memory."""


def run_on_cluster(merges: Iterable[Merge]) -> Iterator[list[Any]]:
    """`engine.store.compaction.Run` with a Ray task per merge. A merge that was cut off with its node is done again."""
    import ray

    waiting = list(merges)
    task = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(Merge.copy)
    under_way: list[Any] = []
    while waiting or under_way:
        while waiting and len(under_way) < MERGES_AT_ONCE:
            under_way.append(task.remote(waiting.pop(0)))
        yield ray.get(under_way.pop(0))
