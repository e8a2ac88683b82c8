"""Stages over committed images, through Ray Data: processors read and resize, devices process.

No image is made here, and writing the same value twice does no harm, so Ray Data's own retries are enough.
"""

import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.dataflow.resources import Ask
from engine.dataflow.stages import Embed, Stage, Stages, Views
from engine.failures import RunFailed
from engine.images import decode_image
from engine.models.faults import is_device_fault
from engine.models.gpu_decoding import decode_on_gpu
from engine.models.preprocessing import Preprocessing
from engine.store import Workspace
from engine.store.rows import locate

ROWS_PER_LEASE = 256
LEASE_BYTES = 256 << 20
"""Encoded bytes of a lease, about: 50 photographs of 12 megapixels."""
ROWS_PER_FETCH = 64
"""Images that are read from the table at once: 26 MB of photographs of 512 x 512."""
WHOLE_BYTES = 256 << 20
"""Bytes of pixels of original size that a stage takes at once: seven photographs of 12 megapixels."""
MAX_READERS = 64
"""Reading processes that may join where the cluster grows."""
CALLS_AT_ONCE = 3
"""Leases that a worker which decodes on its GPU takes at once: four workers of an H200 embed 18,600 JPEGs per second with three and
9,500 with one (benchmarks/results/2026-11-28-gpu.md)."""
MAX_RESTARTS = 3
"""Number of times that Ray replaces a lost process before the run fails."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Colour codes of a terminal, which Ray puts into its errors."""

_END = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)
"""The line that ends a traceback."""

Lease = dict[str, Any]


@dataclass(frozen=True)
class Applied:
    """Columns that a stage has added to images."""

    table: pa.Table
    """`id` and the stage's columns, for the images that it accepted."""
    num_images: int
    """Images that it processed."""
    seconds: float
    """Busy seconds of the device."""
    reason: str
    """Reason for the last image that was not accepted."""


def apply_stage(
    ids: Sequence[str], stage: Stage, uri: str, ask: Ask, num_workers: tuple[int, int], num_readers: int = 1
) -> Iterator[Applied]:
    """Runs a stage on committed images, in any order; ids without an image are left out.

    Args:
        ids: ids of committed images.
        stage: loaded separately on each worker.
        uri: URI of the workspace.
        ask: resources of one worker.
        num_workers: minimum and maximum number of workers; the pool follows the cluster between the two.
        num_readers: processors that read and decode from the start, for workers that hold GPUs; they follow the cluster too.

    Raises:
        ValueError: the stage cannot be loaded; the message is the worker's one sentence.
        RunFailed: processes die repeatedly.
    """
    import ray
    from ray.data import ActorPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run prints its own progress line

    images = Workspace.open(uri, create=False).dataset("images")
    found, at, _ = locate(images, pa.array(ids, pa.string()))
    size = rows_per_lease(images)
    slices = [slice(start, start + size) for start in range(0, len(found), size)]
    leases: list[Lease] = [{"ids": found[part].to_pylist(), "at": at[part].tolist()} for part in slices]
    if not leases:
        return
    # one row per block and one block per call: a batch larger than a block would bundle blocks
    stream = ray.data.from_items(leases, override_num_blocks=len(leases))
    first, most = (max(1, num) for num in num_workers)
    # images of one size travel as an array; images of different sizes are read where they are processed
    decodes_on_gpu = isinstance(stage, Embed) and stage.decode == "gpu"
    if decodes_on_gpu and not ask.num_gpus:
        raise ValueError("--decode gpu needs a GPU, and the workers have none; leave it out")
    if bool(ask.num_gpus) and stage.preprocessing is not None:
        resize = None if decodes_on_gpu else stage.preprocessing
        readers = max(1, min(num_readers, len(leases)))
        stream = stream.map(
            _Read,
            fn_constructor_args=(uri, resize),
            compute=ActorPoolStrategy(min_size=1, max_size=max(readers, MAX_READERS), initial_size=readers),
            num_cpus=1,
        )
    at_once = CALLS_AT_ONCE if decodes_on_gpu else 1
    stream = stream.map(
        _Apply,
        fn_constructor_args=(uri, stage, ask.device),
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=most,
            initial_size=first,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=at_once > 1,
        ),
        num_cpus=ask.num_cpus,
        num_gpus=ask.num_gpus,
        ray_remote_args_fn=lambda: {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS},
    )
    try:
        for row in stream.iter_rows():
            yield Applied(_read_ipc(row["table"]), int(row["num_images"]), float(row["seconds"]), row["reason"])
    except (ray.exceptions.RayError, RuntimeError) as error:
        text = _ANSI.sub("", str(error))
        if "ValueError: " not in text:
            # the end of a traceback, or Ray's own words
            is_traceback = text.lstrip().startswith("ray::")
            ends = [end for end in _END.findall(text) if is_traceback and not end.startswith("ray.")]
            why = ends[-1] if ends else (text.strip() or type(error).__name__).splitlines()[0]
            raise RunFailed(f"stage {stage.name} stopped ({why[:200]}); run it again to go on") from error
        # the worker's one clear sentence stands at the end of two tracebacks
        raise ValueError(text.rsplit("ValueError: ", 1)[1].strip().splitlines()[0]) from error


def rows_per_lease(images: Any) -> int:
    """Images of a lease, by the mean size of the rows of a Lance dataset."""
    files = [file for fragment in images.get_fragments() for file in fragment.metadata.files]
    weight = sum(file.file_size_bytes or 0 for file in files) / max(1, images.count_rows())
    return max(1, min(ROWS_PER_LEASE, int(LEASE_BYTES / max(weight, 1.0))))


class _Read:
    """On a processor: takes ids, returns resized pixels; encoded images if there is no size."""

    def __init__(self, uri: str, size: Preprocessing | None):
        self._workspace = Workspace.open(uri, create=False)
        self._size = size

    def __call__(self, lease: Lease) -> Lease:
        ids: list[str] = []
        images: list[Any] = []
        for part in _fetched(self._workspace, lease):
            ids += part.column("id").to_pylist()
            images += part.column("image").to_pylist() if self._size is None else [_stack(part, self._size)]
        if self._size is None:
            return {"ids": ids, "at": lease["at"], "encoded": images}
        return {"ids": ids, "at": lease["at"], "pixels": np.concatenate(images).tobytes()}


class _Apply:
    """On a device: takes ids and pixels, returns columns; reads the images itself if none come with the ids."""

    def __init__(self, uri: str, stage: Stage, device: str):
        import torch

        if device == "cpu":
            torch.set_num_threads(1)  # one actor per core
        self._workspace = Workspace.open(uri, create=False)
        self._stage, self._device = stage, device
        self._stages = Stages([stage], device)
        self._turn = threading.Lock()
        self._ended = -math.inf

    def __call__(self, lease: Lease) -> Lease:
        try:
            return self._process(lease)
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # Ray gives the images to a new process; an error would end the whole run

    def _process(self, lease: Lease) -> Lease:
        started = time.perf_counter()
        tables: list[pa.Table] = []
        num_images, seconds, reason = 0, 0.0, ""
        for ids, pixels, rows in self._parts(lease):
            views: Views = {self._stage.preprocessing: pixels}
            with self._turn:  # leases are decoded side by side; a stage is called by one of them at a time
                staged = self._stages.run_on(ids, views, rows)
                ended = time.perf_counter()
                seconds += ended - max(started, self._ended)  # a second that leases share counts once
                self._ended = ended
            kept = pa.array([ids[at] for at in staged.kept], pa.string())
            tables.append(pa.table({"id": kept} | staged.columns))
            num_images += len(ids)
            reason = next(iter(staged.reasons.values()), (None, reason))[1]
        table = _ipc(pa.concat_tables(tables))
        return {"table": table, "num_images": num_images, "seconds": seconds, "reason": reason}

    def _parts(self, lease: Lease) -> Iterator[tuple[list[str], Any, pa.Table | None]]:
        """Ids, pixels and inputs of the images: all at once if they are resized, else as many as `WHOLE_BYTES` hold."""
        import torch

        ids, size = list(lease["ids"]), self._stage.preprocessing
        if "pixels" in lease:
            assert size is not None
            pixels = torch.from_numpy(np.frombuffer(bytearray(lease["pixels"]), np.uint8)).view(-1, 3, *size.size)
            yield ids, pixels, self._rows(lease)
        elif "encoded" in lease:
            assert size is not None
            yield ids, decode_on_gpu(lease["encoded"], size, self._device), self._rows(lease)
        elif size:
            resized, facts = [], []
            for part in _fetched(self._workspace, lease, self._stage.inputs):
                resized.append(_stack(part, size))
                facts.append(part.drop_columns(["image"]))
            rows = pa.concat_tables(facts)
            yield _ids(rows), torch.from_numpy(np.concatenate(resized)), rows
        else:
            for some, whole in _whole(_fetched(self._workspace, lease, self._stage.inputs)):
                yield _ids(some), whole, some

    def _rows(self, lease: Lease) -> pa.Table | None:
        """The stage's inputs."""
        if not self._stage.inputs:
            return None
        return self._workspace.fetch(list(lease["ids"]), list(self._stage.inputs), list(lease["at"]))


def _fetched(workspace: Workspace, lease: Lease, inputs: Sequence[str] = ()) -> Iterator[pa.Table]:
    """`id`, `image` and `inputs` of a lease's images that are in the table, part by part."""
    ids, at = list(lease["ids"]), list(lease["at"])
    for start in range(0, len(ids), ROWS_PER_FETCH):
        part = slice(start, start + ROWS_PER_FETCH)
        yield workspace.fetch(ids[part], ["image", *inputs], at[part])


def _stack(images: pa.Table, size: Preprocessing) -> np.ndarray:
    """`[N, 3, h, w]` uint8; decodes one full-size image at a time to save memory."""
    pixels = [size.resize_array(decode_image(data.as_py())) for data in images.column("image")]
    return np.stack(pixels) if pixels else np.zeros((0, 3, *size.size), np.uint8)


def _whole(parts: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, list[Any]]]:
    """Rows without the encoded image, and pixels uint8 `[3, H, W]`, up to `WHOLE_BYTES` of them at a time; something even if there is no row."""
    import torch

    rows: list[pa.Table] = []
    pixels: list[Any] = []
    weight, is_first = 0, True
    for part in parts:
        facts = part.drop_columns(["image"])
        rows.append(facts.slice(0, 0))
        for number, data in enumerate(part.column("image")):
            pixels.append(torch.from_numpy(np.moveaxis(decode_image(data.as_py()), 2, 0).copy()))
            rows.append(facts.slice(number, 1))
            weight += pixels[-1].nbytes
            if weight >= WHOLE_BYTES:
                yield pa.concat_tables(rows), pixels
                rows, pixels, weight, is_first = [], [], 0, False
    if pixels or is_first:
        yield pa.concat_tables(rows), pixels


def _ids(rows: pa.Table) -> list[str]:
    found: list[str] = rows.column("id").to_pylist()
    return found


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _read_ipc(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        table: pa.Table = reader.read_all()
    return table
