"""The streams of Ray Data: blocks of indices in, receipts out, in the order they are finished."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.dataflow.resources import WRITER_CPUS, Pool
from engine.dataflow.stages import EmbedImages, MakeImages, Pricing, prepare_writer, write_block
from engine.sources import Maker, Plan
from engine.store import Receipt

ROWS_PER_BLOCK = 512
"""Most rows of a block, which becomes one fragment; the first blocks are a model batch, so that rows appear soon, and
the last ones shrink again, so that all actors end together."""
MODEL_BATCHES_PER_BLOCK = 8
"""Most model batches of a block, so that slow generators commit often too."""


def cut_blocks(pending: np.ndarray, rows_per_call: int, num_actors: int = 1) -> Iterator[pa.Table]:
    """Blocks of indices `[P]` int64: a model batch each at first, then twice as many, up to the largest block, and near
    the end no more than half of an actor's share of what is left."""
    most = max(rows_per_call, min(ROWS_PER_BLOCK, rows_per_call * MODEL_BATCHES_PER_BLOCK))
    start, largest = 0, rows_per_call
    while start < len(pending):
        share = (len(pending) - start) // (2 * num_actors) // rows_per_call * rows_per_call
        size = max(rows_per_call, min(largest, share))
        yield pa.table({"index": pending[start : start + size]})
        start += size
        largest = min(most, largest * 2)


def cut_ids(ids: Sequence[str]) -> Iterator[pa.Table]:
    """Blocks of ids."""
    for start in range(0, len(ids), ROWS_PER_BLOCK):
        yield pa.table({"id": ids[start : start + ROWS_PER_BLOCK]})


def stream_images(
    blocks: list[pa.Table],
    plan: Plan,
    maker: Maker,
    encoder: str,
    *,
    pool: Pool,
    pricing: Pricing,
    run_id: str,
    uri: str,
) -> Iterator[tuple[list[Receipt], list[dict[str, Any]]]]:
    """Makes, embeds and writes the recipes of the blocks; yields each block's receipts and sums of work.

    Raises:
        ValueError: what a worker said, when a model cannot be loaded there.
    """
    import ray

    # a writer's process starts and imports its libraries while the actors load theirs
    ray.remote(num_cpus=WRITER_CPUS)(prepare_writer).remote(uri)
    made = _map_in_pool(blocks, MakeImages, (plan, maker, encoder, pool.device, pricing, run_id), pool)
    written = made.map_batches(
        write_block,
        fn_args=(uri,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=WRITER_CPUS,
        concurrency=-(-pool.num_actors // 2),  # each is a process that starts in seconds and writes in a tenth of one
    )
    for batch in _batches(written):
        for row in batch.to_pylist():
            yield [Receipt.from_dict(values) for values in json.loads(row["receipts"])], json.loads(row["work"])


def stream_embeddings(
    blocks: list[pa.Table], encoder: str, *, pool: Pool, uri: str
) -> Iterator[tuple[list[str], np.ndarray, float]]:
    """Embeds committed images by id; yields ids, vectors `[N, D]` float32 and busy seconds of each block."""
    for batch in _batches(_map_in_pool(blocks, EmbedImages, (uri, encoder, pool.device), pool)):
        vectors = pa.compute.list_flatten(batch.column("vector")).to_numpy()
        yield (
            batch.column("id").to_pylist(),
            vectors.reshape(batch.num_rows, -1),
            float(pa.compute.sum(batch.column("seconds")).as_py()),
        )


def _map_in_pool(blocks: list[pa.Table], actor: type, arguments: tuple[Any, ...], pool: Pool) -> Any:
    import ray

    return ray.data.from_arrow(blocks).map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        # of a fixed size: a pool that grows from one actor stayed at one, and half of the machine idle
        compute=ray.data.ActorPoolStrategy(size=pool.num_actors),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )


def _batches(dataset: Any) -> Iterator[pa.Table]:
    import ray

    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except (ray.exceptions.RayError, RuntimeError) as error:
        text = str(error)
        if "ValueError: " not in text:
            raise
        # a worker's one clear sentence arrives at the end of two tracebacks
        raise ValueError(text.rsplit("ValueError: ", 1)[1].strip().splitlines()[0]) from error
