"""Mining on the cluster: shards of generated images against the whole database, which each worker streams from the table."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from engine.dataflow.resources import Ask, choose_ask, current_cluster
from engine.store import Workspace

QUERIES_PER_SHARD = 10_000
"""Generated images a worker searches for at once: enough that reading the database is a small part of its time."""


def mine_shards(
    workspace: Workspace,
    encoder: str,
    generated_ids: Sequence[str],
    selection: str | Sequence[str],
    *,
    k: int,
    mask: bool,
) -> Iterator[tuple[pa.Table, float, Ask]]:
    """Negatives (`NEGATIVE_SCHEMA`) of one shard after another, as they are finished, with a task's busy seconds and what it held.

    Raises:
        ValueError: what `engine.retriever.negatives.mine` says of the ids, the database or the encoder.
    """
    import ray

    shards = [generated_ids[at : at + QUERIES_PER_SHARD] for at in range(0, len(generated_ids), QUERIES_PER_SHARD)]
    cluster = current_cluster(may_grow=False)
    ask = choose_ask(cluster, 1.0)
    most = min(len(shards), cluster.room(ask))
    task = ray.remote(num_cpus=ask.num_cpus, num_gpus=ask.num_gpus)(_mine_shard)
    shared = ray.put(selection)
    waiting = list(reversed(shards))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < 2 * most:  # so that a finished worker finds its next shard ready
            running.append(task.remote(workspace.uri, encoder, waiting.pop(), shared, k, mask, ask.device))
        done, running = ray.wait(running)
        try:
            table, seconds = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            raise
        yield table, seconds, ask


def _mine_shard(
    uri: str, encoder: str, ids: Sequence[str], selection: Any, k: int, mask: bool, device: str
) -> tuple[pa.Table, float]:
    import time

    import torch

    from engine.retriever.negatives import mine

    if device == "cpu":
        torch.set_num_threads(1)  # one task a core
    started = time.perf_counter()
    table = mine(Workspace.open(uri, create=False), encoder, ids, selection, k, mask, device)
    return table, time.perf_counter() - started
