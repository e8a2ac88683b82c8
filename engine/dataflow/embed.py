"""Embedding of committed images by another encoder, through Ray Data: read and resize on processors, embed on devices.

Nothing is made here, and the same vector may be written twice, so Ray Data's own retries are all that a death needs.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.dataflow.resources import Ask
from engine.failures import RunFailed
from engine.images import decode_image
from engine.models.encoder import ImageEncoder
from engine.models.preprocessing import Preprocessing
from engine.store import Workspace

ROWS_PER_LEASE = 256
MAX_RESTARTS = 3
"""Times that Ray replaces a lost process before the run is given up."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Embedded:
    """Vectors of some images."""

    ids: list[str]
    vectors: np.ndarray
    """`[N, D]` float32, unit norm."""
    seconds: float
    """Busy seconds of the device."""


def stream_embeddings(
    ids: Sequence[str],
    encoder: ImageEncoder,
    load_encoder: Callable[..., ImageEncoder],
    uri: str,
    ask: Ask,
    num_workers: tuple[int, int],
) -> Iterator[Embedded]:
    """Embeds committed images by id, in any order; an id without an image is left out.

    Args:
        ids: of committed images.
        encoder: its source and its preprocessing are used.
        load_encoder: loads it from its source on a device.
        uri: the workspace.
        ask: what an embedding actor holds.
        num_workers: actors to begin with, and at most; between one and these the pool follows the cluster.

    Raises:
        ValueError: the encoder cannot be loaded; the one sentence of the worker.
        RunFailed: processes die again and again.
    """
    import ray
    from ray.data import ActorPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run prints its own line

    leases: list[Row] = [{"ids": list(ids[at : at + ROWS_PER_LEASE])} for at in range(0, len(ids), ROWS_PER_LEASE)]
    # one row per block and one block per call: a batch size larger than a block would bundle blocks
    stream = ray.data.from_items(leases, override_num_blocks=len(leases))
    first, most = (max(1, num) for num in num_workers)
    fuse = not ask.num_gpus
    if not fuse:
        stream = stream.map(_Read, fn_constructor_args=(uri, encoder.preprocessing), concurrency=(1, 64), num_cpus=1)
    stream = stream.map(
        _Embed,
        fn_constructor_args=(uri, encoder.source, load_encoder, ask.device, fuse),
        compute=ActorPoolStrategy(min_size=1, max_size=most, initial_size=first),
        num_cpus=ask.num_cpus,
        num_gpus=ask.num_gpus,
        ray_remote_args_fn=lambda: {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS},
    )
    try:
        for row in stream.iter_rows():
            vectors = np.frombuffer(row["vectors"], np.float32)
            found = list(row["ids"])
            yield Embedded(found, vectors.reshape(len(found), -1), float(row["seconds"]))
    except (ray.exceptions.RayError, RuntimeError) as error:
        text = str(error)
        if "ValueError: " not in text:
            raise RunFailed(
                f"embedding stopped ({text.strip().splitlines()[0][:200]}); run it again to go on"
            ) from error
        # a worker's one clear sentence arrives at the end of two tracebacks
        raise ValueError(text.rsplit("ValueError: ", 1)[1].strip().splitlines()[0]) from error


class _Read:
    """Stage on a processor: ids in, resized pixels out."""

    def __init__(self, uri: str, preprocessing: Preprocessing):
        self._workspace = Workspace.open(uri, create=False)
        self._preprocessing = preprocessing

    def __call__(self, lease: Row) -> Row:
        ids, pixels = _read(self._workspace, self._preprocessing, list(lease["ids"]))
        return {"ids": ids, "pixels": pixels.tobytes()}


class _Embed:
    """Stage on a device: ids and pixels in, vectors out; reads the pixels itself where it runs on a processor."""

    def __init__(self, uri: str, source: str, load_encoder: Callable[..., ImageEncoder], device: str, reads: bool):
        import torch

        if device == "cpu":
            torch.set_num_threads(1)  # one actor per core
        self._workspace = Workspace.open(uri, create=False) if reads else None
        self._encoder = load_encoder(source, device=device)

    def __call__(self, lease: Row) -> Row:
        import torch

        preprocessing = self._encoder.preprocessing
        ids = list(lease["ids"])
        started = time.perf_counter()
        if self._workspace is not None:
            ids, pixels = _read(self._workspace, preprocessing, ids)
        else:
            pixels = np.frombuffer(bytearray(lease["pixels"]), np.uint8).reshape(-1, 3, *preprocessing.size)
        if not ids:
            return {"ids": ids, "vectors": b"", "seconds": 0.0}
        vectors = self._encoder.encode_images(torch.from_numpy(pixels)).cpu().numpy()
        seconds = time.perf_counter() - started
        return {"ids": ids, "vectors": np.ascontiguousarray(vectors, np.float32).tobytes(), "seconds": seconds}


def _read(workspace: Workspace, preprocessing: Preprocessing, ids: list[str]) -> tuple[list[str], np.ndarray]:
    """Ids that have an image, and their pixels `[N, 3, h, w]` uint8; one full-size image exists at a time."""
    images = workspace.fetch(ids, ["image"])
    pixels = [preprocessing.resize_array(decode_image(data.as_py())) for data in images.column("image")]
    stacked = np.stack(pixels) if pixels else np.zeros((0, 3, *preprocessing.size), np.uint8)
    return images.column("id").to_pylist(), stacked
