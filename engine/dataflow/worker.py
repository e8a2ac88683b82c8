"""The actor that makes images: takes leases, writes fragments to disk, returns receipts."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.dataflow.leases import Lease
from engine.dataflow.rows import Pricing, Row, to_tables
from engine.dataflow.stages import Stage, Stages, Views, values_of
from engine.images import PNG, ImageFormat
from engine.models.device import device_name
from engine.models.faults import DeviceFault, is_device_fault
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.sources import Made, Maker, Plan, Stored, encode_generated
from engine.store import Receipt, write_fragments

if TYPE_CHECKING:
    import torch

FRAGMENT_BYTES = 64 << 20
"""A fragment is written when its images reach this size …"""
READ_BYTES = 64 << 20
"""A block of read images is full when its encoded bytes or its pixels reach this size; the rest is leased again."""
PIXEL_BYTES = 256 << 20
"""Maximum bytes of pixels that wait for encoding."""


@dataclass(frozen=True)
class WorkerJob:
    """Everything that a worker is made from; picklable."""

    maker: Maker
    stages: tuple[Stage, ...]
    """Run in this order on the images."""
    uri: str
    """URI of the workspace."""
    run_id: str
    device: str
    """Torch device."""
    flush_seconds: float = 15.0
    """… or when its oldest row reaches this age, so that a killed actor loses little."""
    image_format: ImageFormat = PNG
    """Format in which generated images are stored."""

    @property
    def added(self) -> pa.Schema:
        """Columns that the stages add."""
        return pa.schema([one for stage in self.stages for one in stage.columns])


@dataclass
class Report:
    """Result of a lease: a few hundred bytes, however large the images are."""

    receipts: list[Receipt] = field(default_factory=list)
    """Receipts of the fragments written since the last report; they may hold rows of earlier leases."""
    work: list[dict[str, Any]] = field(default_factory=list)
    """Ledger rows for these receipts, without their run id."""
    rest: np.ndarray | None = None
    """Indices of the lease that did not fit into a block of read images."""
    rows: int = 0
    """Number of recipes of the lease that were made."""
    seconds: float = 0.0
    """Duration of the lease."""
    rejected: int = 0
    """Images of `receipts` that a stage rejects; they are rows of `errors` but no failures."""
    failed: int = 0
    """Number of recipes of the lease that failed, …"""
    reason: str = ""
    """… and why the last of them failed; known before their rows are written."""


@dataclass(frozen=True)
class ReadBlock:
    """Images that a processor has read for a device elsewhere."""

    indices: np.ndarray
    """`[N]` int64 plan indices, a prefix of the lease."""
    made: list[Made]
    """Results without pixels."""
    views: Views
    """Size → uint8 images of the results that have one, in their order: `[G, 3, h, w]`, or a list of `[3, H, W]` for None."""
    seconds: float
    """Time spent reading."""


@dataclass(frozen=True)
class _Encoding:
    """A generated batch that is being encoded in a lossy format."""

    indices: np.ndarray
    recipes: Sequence[Recipe]
    made: Sequence[Made]
    seconds: float
    """Busy seconds per image."""
    encodes: list[Future[None]]
    """Each sets the stored bytes and pixels of one of `made`."""


class Worker:
    """Actor: makes the recipes of leases, runs the stages on the device that made them, and writes fragments.

    Encoding and writing run in separate threads, so the device does not wait for them: a lossless image is encoded after
    the stages, a lossy one before them, while the device makes the next batch.
    """

    def __init__(self, plan: Plan, job: WorkerJob):
        self._plan, self._job = plan, job
        self._rows: list[Row] = []
        self._bytes = 0
        self._oldest = 0.0
        self._writes: list[Future[Report]] = []
        self._has_written = False
        self._encodes: list[Future[Stored]] = []
        self._lossy: _Encoding | None = None
        self._pixel_bytes = 0
        self._failed, self._reason = 0, ""

    def where(self) -> tuple[str, tuple[str, ...]]:
        """Node and GPUs of the actor; answered before any model is loaded."""
        import ray

        context = ray.get_runtime_context()
        return context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ()))

    def follow(self, plan: Plan) -> None:
        """Makes the recipes of another plan from now on."""
        self._plan = plan

    def load(self, pricing: Pricing) -> list[Preprocessing | None]:
        """Loads the models; returns the sizes at which the stages take images."""
        import torch

        self._pricing = pricing
        device = self._job.device
        if device == "cpu":
            torch.set_num_threads(1)  # one actor per core
        try:
            self._job.maker.load(device)  # first, since its model is the one that may not fit
            self._stages = Stages(self._job.stages, device)
        except RuntimeError as error:
            if is_device_fault(error):
                raise DeviceFault(device, str(error)) from None
            raise
        self._device_name = device_name(device)
        self._encoding = ThreadPoolExecutor(1 if device == "cpu" else 8)
        self._writing = ThreadPoolExecutor(1)
        return self._stages.preprocessings

    def make(
        self,
        lease: Lease,
        token: str,
        notes: Any,
        block: ReadBlock | None = None,
        usd_per_read_second: float | None = None,
    ) -> Report:
        """Makes a lease; its rows are written with this report or a later one.

        `block`: the images, if a processor elsewhere has read them, at `usd_per_read_second`.
        """
        started = time.perf_counter()
        self._failed, self._reason = 0, ""
        if lease.reads and block is None:
            block = read_block(self._plan, self._job.maker, lease, self._stages.preprocessings, _noting(token, notes))
        if block is not None:
            self._add_read(block, usd_per_read_second)
            made = len(block.indices)
        else:
            for part in self._batches(lease):
                _noting(token, notes)(part)
                self._add_generated(part)
                if lease.care:  # a death is blamed on the batch that was noted last
                    self._add_lossy()
            self._add_lossy()
            made = len(lease)
        if first := not self._has_written:  # readers see the first rows soon
            self._write()
        report = self._collect(wait=first)
        report.rest = lease.indices[made:] if made < len(lease) else None
        report.rows, report.seconds = made, time.perf_counter() - started
        report.failed, report.reason = self._failed, self._reason
        return report

    def flush(self) -> Report:
        """Writes the remaining rows and waits for them."""
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
        if self._job.image_format.is_lossless:
            self._add(indices, recipes, made, {None: _pixels(made)}, seconds)
            return
        self._add_lossy()
        images = [one for one in made if one.pixels is not None and one.stored is None]
        encodes = [self._encoding.submit(_store, one, self._job.image_format) for one in images]
        self._lossy = _Encoding(indices, recipes, made, seconds, encodes)

    def _add_lossy(self) -> None:
        """Adds the batch that is being encoded, if there is one: the stages see the pixels that its bytes decode to."""
        batch, self._lossy = self._lossy, None
        if batch is None:
            return
        try:
            for encode in batch.encodes:
                encode.result()
        except RuntimeError as error:
            if is_device_fault(error):
                raise DeviceFault(self._job.device, str(error)) from None
            raise
        self._add(batch.indices, batch.recipes, batch.made, {None: _pixels(batch.made)}, batch.seconds)

    def _add_read(self, block: ReadBlock, usd_per_second: float | None) -> None:
        import torch

        recipes = [self._plan[int(index)] for index in block.indices]
        seconds = block.seconds / max(1, len(recipes))
        views = {
            size: torch.from_numpy(pixels) if size else [torch.from_numpy(one) for one in pixels]
            for size, pixels in block.views.items()
        }
        self._add(block.indices, recipes, block.made, views, seconds, usd_per_second)

    def _add(
        self,
        indices: np.ndarray,
        recipes: Sequence[Recipe],
        made: Sequence[Made],
        views: Views,
        seconds: float,
        usd_per_second: float | None = None,
    ) -> None:
        rows = [
            Row(int(index), recipe, one, seconds + one.search_seconds, usd_per_second)
            for index, recipe, one in zip(indices, recipes, made, strict=True)
        ]
        self._run_stages([row for row in rows if not row.reason], views)
        for row, one in zip(rows, made, strict=True):
            if not row.reason:
                if one.stored is not None:
                    row.stored = one.stored
                    self._bytes += len(one.stored.encoded)
                else:
                    assert one.pixels is not None
                    row.stored = self._encoding.submit(_encode, one.pixels, self._job.image_format)
                    self._encodes.append(row.stored)
                    self._pixel_bytes += one.pixels.numel()
                    self._bytes += one.pixels.numel() // 2  # about the size of its PNG
            elif not row.is_rejected:
                self._failed, self._reason = self._failed + 1, row.reason
            one.pixels = None
            self._oldest = self._oldest or time.monotonic()
            self._rows.append(row)
        if self._pixel_bytes > PIXEL_BYTES:  # of all batches so far: a fast device would fill the memory
            wait(self._encodes)
            self._encodes, self._pixel_bytes = [], 0
        if self._bytes >= FRAGMENT_BYTES or time.monotonic() - self._oldest >= self._job.flush_seconds:
            self._write()

    def _run_stages(self, rows: Sequence[Row], views: Views) -> None:
        staged = self._stages.run([row.recipe for row in rows], views)
        for at, row in enumerate(rows):
            row.stage_seconds = {name: float(seconds[at]) for name, seconds in staged.seconds.items()}
        for at, (stage, reason) in staged.reasons.items():
            rows[at].stage, rows[at].reason, rows[at].is_rejected = stage.name, reason, stage.rejects
        for name, column in staged.columns.items():
            for at, value in zip(staged.kept, values_of(column), strict=True):
                rows[at].added[name] = value

    def _write(self) -> None:
        self._has_written = True
        if self._rows:
            self._writes.append(self._writing.submit(self._write_rows, self._rows))
        self._rows, self._bytes, self._oldest = [], 0, 0.0
        # small images reach PIXEL_BYTES late or never: what is encoded must not be held until then
        self._encodes = [one for one in self._encodes if not one.done()]
        while len(self._writes) > 2 and not self._writes[-3].done():  # the device waits for a slow disk
            self._writes[-3].result()

    def _write_rows(self, rows: list[Row]) -> Report:
        job = self._job
        tables = to_tables(rows, self._pricing, job.run_id, self._device_name, job.added)
        receipts = [
            write_fragments(job.uri, name, table, indices)
            for name, table, indices in (
                ("images", tables.images, tables.image_indices),
                ("errors", tables.errors, tables.error_indices),
            )
            if table.num_rows
        ]
        return Report(receipts, tables.work, rejected=sum(row.is_rejected for row in rows))

    def _collect(self, wait: bool) -> Report:
        report, unfinished = Report(), []
        for write in self._writes:
            if wait or write.done():
                written = write.result()
                report.receipts += written.receipts
                report.work += written.work
                report.rejected += written.rejected
            else:
                unfinished.append(write)
        self._writes = unfinished
        return report


def read_block(
    plan: Plan,
    maker: Maker,
    lease: Lease,
    sizes: Sequence[Preprocessing | None],
    note: Callable[[np.ndarray], None],
) -> ReadBlock:
    """Reads and resizes the images of a lease, on any processor of the cluster, until the block is full."""
    import torchvision.transforms.v2  # noqa: F401, an import of seconds is not the price of an image

    started = time.perf_counter()
    made: list[Made] = []
    weight = 0
    step = 1 if lease.care == 2 else maker.rows_per_call
    for start in range(0, len(lease), step):
        part = lease.indices[start : start + step]
        note(part)
        read = maker.read([plan[int(index)] for index in part], sizes)
        weight += sum(len(one.stored.encoded) for one in read if one.stored)
        weight += sum(view.numel() for one in read for view in one.views)
        made += read
        if weight >= READ_BYTES:
            break
    views: dict[Preprocessing | None, Any] = {}
    for number, size in enumerate(sizes):
        pixels = [one.views[number].numpy() for one in made if one.views]
        empty = np.zeros((0, 3, *(size.size if size else (1, 1))), np.uint8)
        views[size] = pixels if size is None else np.stack(pixels) if pixels else empty
    for one in made:
        one.views = []
    return ReadBlock(lease.indices[: len(made)], made, views, time.perf_counter() - started)


def read_elsewhere(
    plan: Plan, maker: Maker, lease: Lease, sizes: Sequence[Preprocessing | None], token: str, notes: Any
) -> tuple[tuple[int, str], ReadBlock]:
    """Task: `read_block`, and the number of its images and the node as a small result that the driver may fetch."""
    import ray

    block = read_block(plan, maker, lease, sizes, _noting(token, notes))
    return (len(block.indices), ray.get_runtime_context().get_node_id()), block


def _noting(token: str, notes: Any) -> Callable[[np.ndarray], None]:
    """A function that notes each begun batch with the `Notes` actor, if the lease is made with care."""
    if notes is None:
        return lambda indices: None
    import ray

    def note(indices: np.ndarray) -> None:
        ray.get(notes.begin.remote(token, indices))

    return note


def _encode(pixels: "torch.Tensor", image_format: ImageFormat) -> Stored:
    return encode_generated(_array(pixels), image_format)[0]


def _store(made: Made, image_format: ImageFormat) -> None:
    """Sets the stored image of `made`, and its pixels to those that the stored bytes decode to."""
    import torch

    assert made.pixels is not None
    made.stored, kept = encode_generated(_array(made.pixels), image_format)
    made.pixels = torch.from_numpy(np.moveaxis(kept, 2, 0).copy()).to(made.pixels.device)


def _pixels(made: Sequence[Made]) -> "list[torch.Tensor]":
    return [one.pixels for one in made if one.pixels is not None]


def _array(pixels: "torch.Tensor") -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
