"""Mining on the cluster: workers search shards of generated images in the whole database, streamed from the table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from engine.dataflow.resources import Ask, choose_ask, current_cluster
from engine.retriever.database import Database
from engine.store import IdSet, Workspace
from engine.store.rows import quote

if TYPE_CHECKING:
    from engine.dataflow.run import Run

QUERIES_PER_SHARD = 10_000
"""Generated images that a worker searches for at once: enough to make reading the database a small part of its time."""


def mine_missing(run: "Run", generated_ids: Sequence[str], database: Database, *, k: int, mask: bool) -> int:
    """Mines, on the cluster, the negatives of generated images that have none in this database yet.

    The negatives are rows of the table `negatives`; `read_negatives` reads them. Ids of failed images are skipped.

    Args:
        run: an open run over the workspace.
        generated_ids: images whose negatives are wanted, embedded by the database's encoder.
        database: real images.
        k: negatives per generated image.
        mask: skip images of the generated image's own class.

    Returns:
        The number of generated images that were mined now.

    Raises:
        ValueError: the ids, the database or the encoder are invalid (`engine.retriever.negatives.mine`).
    """
    workspace = run.workspace
    there = workspace.done_ids().contains(list(generated_ids))
    wanted = [one for one, made in zip(generated_ids, there, strict=True) if made]
    known = read_negatives(workspace, database, k=k, mask=mask, where="rank = 1")["generated_id"]
    mined = IdSet(known.chunks).contains(wanted)
    missing = [one for one, done in zip(wanted, mined, strict=True) if not done]
    if not missing:
        return 0
    run.connect()
    for table, seconds, ask in _mine_shards(run, database, missing, k=k, mask=mask):
        workspace.check_lock()
        workspace.add_rows("negatives", table)
        run.add_work("mine", table.num_rows, seconds, ask)
    return len(missing)


def read_negatives(workspace: Workspace, database: Database, *, k: int, mask: bool, where: str = "") -> pa.Table:
    """The negatives (`NEGATIVE_SCHEMA`) that were mined in this database with these settings."""
    same = f"encoder = {quote(database.encoder)} AND database = '{database.name}' AND k = {k} AND masked = {str(mask).lower()}"
    return workspace.negatives(f"{same} AND {where}" if where else same)


def _mine_shards(
    run: "Run", database: Database, ids: Sequence[str], *, k: int, mask: bool
) -> Iterator[tuple[pa.Table, float, Ask]]:
    """Negatives of one shard after another, with the busy seconds and the resources of each task."""
    import ray

    shards = [ids[at : at + QUERIES_PER_SHARD] for at in range(0, len(ids), QUERIES_PER_SHARD)]
    cluster = current_cluster(may_grow=False)
    ask = choose_ask(cluster, 1.0, device=run.device)
    most = min(len(shards), cluster.room(ask))
    task = ray.remote(num_cpus=ask.num_cpus, num_gpus=ask.num_gpus)(_mine_shard)
    selection = ray.put(database.ids())
    waiting = list(reversed(shards))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < 2 * most:  # so that a finished worker finds its next shard ready
            arguments = run.workspace.uri, database.encoder, waiting.pop(), selection, k, mask, ask.device
            running.append(task.remote(*arguments))
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
        torch.set_num_threads(1)  # one task per core
    started = time.perf_counter()
    table = mine(Workspace.open(uri, create=False), encoder, ids, selection, k, mask, device)
    return table, time.perf_counter() - started
