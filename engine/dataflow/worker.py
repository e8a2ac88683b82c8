"""The actor that makes images: leases in, fragments on disk, receipts out."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.dataflow.leases import Lease
from engine.dataflow.rows import Pricing, Row, to_tables
from engine.images import content_hash, encode_png
from engine.models.device import device_name
from engine.models.encoder import ImageEncoder
from engine.models.faults import DeviceFault, is_device_fault
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.sources import Made, Maker, Plan, Stored
from engine.store import Receipt, write_fragments

if TYPE_CHECKING:
    import torch

FRAGMENT_BYTES = 64 << 20
"""A fragment is written when its images weigh this much …"""
READ_BYTES = 64 << 20
"""A block of read images is handed over when its encoded bytes or its pixels weigh this much; the rest is leased anew."""
PIXEL_BYTES = 256 << 20
"""Most pixels that wait for their encoding at once."""


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is made from; picklable."""

    maker: Maker
    encoder: str
    """What the encoder is loaded from."""
    load_encoder: Callable[..., ImageEncoder]
    """`engine.models.load_encoder`, or another function of a source and a device."""
    uri: str
    """The workspace."""
    run_id: str
    device: str
    """Torch device."""
    flush_seconds: float = 15.0
    """… or when its oldest row is this old, so that a killed actor loses little."""


@dataclass
class Report:
    """What a worker hands back: a few hundred bytes, whatever the images weigh."""

    receipts: list[Receipt] = field(default_factory=list)
    """Of the fragments written since the last report; they may hold rows of earlier leases."""
    work: list[dict[str, Any]] = field(default_factory=list)
    """Ledger rows of these receipts, without their run."""
    rest: np.ndarray | None = None
    """Indices of the lease that did not fit into a block of read images."""
    rows: int = 0
    """Recipes of the lease that were made."""
    seconds: float = 0.0
    """Time it took."""
    failed: int = 0
    """Recipes of the lease that failed, …"""
    reason: str = ""
    """… and why the last of them did; known before their rows are written."""


@dataclass(frozen=True)
class ReadBlock:
    """Images that a processor has read for a device elsewhere."""

    indices: np.ndarray
    """`[N]` int64 plan indices, the first of the lease."""
    made: list[Made]
    """Results without their pixels."""
    pixels: np.ndarray
    """`[G, 3, h, w]` uint8 of the results that have an image, in their order."""
    seconds: float
    """Time that reading took."""


class Worker:
    """Actor: makes the recipes of leases, embeds the pixels on the device that made them, and writes fragments.

    Encoding and writing run in threads beside, so the device does not wait for them.
    """

    def __init__(self, plan: Plan, job: WorkerJob):
        self._plan, self._job = plan, job
        self._rows: list[Row] = []
        self._bytes = 0
        self._oldest = 0.0
        self._writes: list[Future[Report]] = []
        self._has_written = False
        self._encodes: list[Future[Stored]] = []
        self._pixel_bytes = 0
        self._failed, self._reason = 0, ""

    def where(self) -> tuple[str, tuple[str, ...]]:
        """Node and GPUs that the actor was placed on; answered before any model is loaded."""
        import ray

        context = ray.get_runtime_context()
        return context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ()))

    def load(self, pricing: Pricing) -> Preprocessing:
        """Loads the models; gives what a reader must know of the encoder."""
        import torch

        self._pricing = pricing
        device = self._job.device
        if device == "cpu":
            torch.set_num_threads(1)  # one actor per core
        try:
            self._encoder = self._job.load_encoder(self._job.encoder, device=device)
            self._job.maker.load(device)
        except RuntimeError as error:
            if is_device_fault(error):
                raise DeviceFault(device, str(error)) from None
            raise
        self._device_name = device_name(device)
        self._encoding = ThreadPoolExecutor(1 if device == "cpu" else 8)
        self._writing = ThreadPoolExecutor(1)
        return self._encoder.preprocessing

    def make(self, lease: Lease, token: str, notes: Any, block: ReadBlock | None = None) -> Report:
        """Makes a lease; its rows are written with this report or a later one."""
        started = time.perf_counter()
        self._failed, self._reason = 0, ""
        if lease.reads and block is None:
            block = read_block(self._plan, self._job.maker, lease, self._encoder.preprocessing, _noting(token, notes))
        if block is not None:
            self._add_read(block)
            made = len(block.indices)
        else:
            for part in self._batches(lease):
                _noting(token, notes)(part)
                self._add_generated(part)
            made = len(lease)
        if first := not self._has_written:  # the first rows are visible soon
            self._write()
        report = self._collect(wait=first)
        report.rest = lease.indices[made:] if made < len(lease) else None
        report.rows, report.seconds = made, time.perf_counter() - started
        report.failed, report.reason = self._failed, self._reason
        return report

    def flush(self) -> Report:
        """Writes what is left and waits for it."""
        self._write()
        return self._collect(wait=True)

    def _batches(self, lease: Lease) -> "list[np.ndarray]":
        step = 1 if lease.care == 2 else self._job.maker.rows_per_call
        return [lease.indices[start : start + step] for start in range(0, len(lease), step)]

    def _add_generated(self, indices: np.ndarray) -> None:
        recipes = [self._plan[int(index)] for index in indices]
        started = time.perf_counter()
        made = self._job.maker.make(recipes)
        seconds = (time.perf_counter() - started) / len(recipes)
        pixels = [one.pixels for one in made if one.pixels is not None]
        self._add(indices, recipes, made, pixels, seconds)

    def _add_read(self, block: ReadBlock) -> None:
        import torch

        recipes = [self._plan[int(index)] for index in block.indices]
        seconds = block.seconds / max(1, len(recipes))
        self._add(block.indices, recipes, block.made, torch.from_numpy(block.pixels), seconds)

    def _add(
        self,
        indices: np.ndarray,
        recipes: Sequence[Recipe],
        made: Sequence[Made],
        pixels: "Sequence[torch.Tensor] | torch.Tensor",
        seconds: float,
    ) -> None:
        started = time.perf_counter()
        vectors = iter(self._embed(pixels))
        embed_seconds = (time.perf_counter() - started) / max(1, len(pixels))
        for index, recipe, one in zip(indices, recipes, made, strict=True):
            row = Row(int(index), recipe, one, seconds + one.search_seconds)
            if not row.reason:
                row.embed_seconds, row.embedding = embed_seconds, next(vectors)
                if not np.isfinite(row.embedding).all():
                    row.reason, row.stage = "the embedding is not finite", "embed"
                elif one.stored is not None:
                    row.stored = one.stored
                    self._bytes += len(one.stored.encoded)
                else:
                    assert one.pixels is not None
                    row.stored = self._encoding.submit(_encode, one.pixels)
                    self._encodes.append(row.stored)
                    self._pixel_bytes += one.pixels.numel()
                    self._bytes += one.pixels.numel() // 2  # about what a PNG of it weighs
            if row.reason:
                self._failed, self._reason = self._failed + 1, row.reason
            one.pixels = None
            self._oldest = self._oldest or time.monotonic()
            self._rows.append(row)
        if self._pixel_bytes > PIXEL_BYTES:  # of this batch and those before it: a fast device would fill the memory
            wait(self._encodes)
            self._encodes, self._pixel_bytes = [], 0
        if self._bytes >= FRAGMENT_BYTES or time.monotonic() - self._oldest >= self._job.flush_seconds:
            self._write()

    def _embed(self, pixels: "Sequence[torch.Tensor] | torch.Tensor") -> np.ndarray:
        """`[N, D]` float32, unit norm."""
        if not len(pixels):
            return np.zeros((0, self._encoder.dimension), np.float32)
        try:
            return np.asarray(self._encoder.encode_images(pixels).cpu().numpy())
        except RuntimeError as error:
            if is_device_fault(error):
                raise DeviceFault(self._job.device, str(error)) from None
            raise

    def _write(self) -> None:
        self._has_written = True
        if self._rows:
            self._writes.append(self._writing.submit(self._write_rows, self._rows))
        self._rows, self._bytes, self._oldest = [], 0, 0.0
        while len(self._writes) > 2 and not self._writes[-3].done():  # a slow disk holds the device back
            self._writes[-3].result()

    def _write_rows(self, rows: list[Row]) -> Report:
        job = self._job
        tables = to_tables(rows, self._pricing, job.run_id, self._device_name, self._encoder.name)
        receipts = [
            write_fragments(job.uri, name, table, indices)
            for name, table, indices in (
                ("images", tables.images, tables.image_indices),
                ("errors", tables.errors, tables.error_indices),
            )
            if table.num_rows
        ]
        return Report(receipts, tables.work)

    def _collect(self, wait: bool) -> Report:
        report, unfinished = Report(), []
        for write in self._writes:
            if wait or write.done():
                written = write.result()
                report.receipts += written.receipts
                report.work += written.work
            else:
                unfinished.append(write)
        self._writes = unfinished
        return report


def read_block(
    plan: Plan,
    maker: Maker,
    lease: Lease,
    preprocessing: Preprocessing,
    note: Callable[[np.ndarray], None],
) -> ReadBlock:
    """Reads and resizes the images of a lease, on any processor of the cluster, until the block is full."""
    started = time.perf_counter()
    made: list[Made] = []
    weight = 0
    step = 1 if lease.care == 2 else maker.rows_per_call
    for start in range(0, len(lease), step):
        part = lease.indices[start : start + step]
        note(part)
        read = maker.read([plan[int(index)] for index in part], preprocessing)
        weight += sum(len(one.stored.encoded) for one in read if one.stored)
        weight += sum(one.pixels.numel() for one in read if one.pixels is not None)
        made += read
        if weight >= READ_BYTES:
            break
    pixels = [one.pixels.numpy() for one in made if one.pixels is not None]
    stacked = np.stack(pixels) if pixels else np.zeros((0, 3, *preprocessing.size), np.uint8)
    for one in made:
        one.pixels = None
    return ReadBlock(lease.indices[: len(made)], made, stacked, time.perf_counter() - started)


def read_elsewhere(
    plan: Plan, maker: Maker, lease: Lease, preprocessing: Preprocessing, token: str, notes: Any
) -> tuple[int, ReadBlock]:
    """Task: `read_block`, and the number of its images as a small result that the driver may fetch."""
    block = read_block(plan, maker, lease, preprocessing, _noting(token, notes))
    return len(block.indices), block


def _noting(token: str, notes: Any) -> Callable[[np.ndarray], None]:
    """Notes what is begun with the `Notes` actor, where the lease is made with care."""
    if notes is None:
        return lambda indices: None
    import ray

    def note(indices: np.ndarray) -> None:
        ray.get(notes.begin.remote(token, indices))

    return note


def _encode(pixels: "torch.Tensor") -> Stored:
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    return Stored(encode_png(array), content_hash(array), array.shape[0], array.shape[1])
