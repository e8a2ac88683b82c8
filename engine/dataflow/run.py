"""A run fills plans: what the table lacks is made, embedded and committed, every few seconds, until all is there."""

import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import numpy as np

from engine.costs import Instance, PriceBook, billed_usd, usd_per_device_second
from engine.dataflow.progress import Progress
from engine.dataflow.resources import Pool, cluster_nodes, size_pool
from engine.dataflow.stages import Pricing
from engine.dataflow.stream import cut_blocks, cut_ids, stream_embeddings, stream_images
from engine.models import ImageEncoder
from engine.sources import Maker, Plan
from engine.store import Committer, Receipt, Workspace
from engine.store.ids import id_bytes, id_names

REPORT_EVERY_SECONDS = 15.0
"""How often a run renews its row in `runs`, so that one that is killed is billed up to then."""
_SUMS = ("rows", "busy_seconds", "usd_compute", "usd_labels")
_KIND = ("stage", "source", "dataset", "strategy", "generator")


@dataclass
class FillResult:
    """What became of a plan."""

    planned: int
    present: int
    """Recipes whose image was in the table already, or that repeat another of the plan."""
    made: int = 0
    errors: int = 0
    embedded: int = 0
    """Images of earlier runs that were embedded with this run's encoder."""


@dataclass
class Run:
    """One writing run over a workspace; a context manager, so that what was made is committed and accounted for."""

    workspace: Workspace
    encoder: ImageEncoder
    prices: PriceBook
    instance_name: str | None = None
    """Instance of the price book to price by; the cluster's accelerator decides when it is None."""
    config: dict[str, Any] = field(default_factory=dict)
    """What to record of the run's configuration."""
    commit_every_seconds: float = 5.0

    def __enter__(self) -> "Run":
        import ray

        self.run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._lock = self.workspace.lock(self.run_id)
        self._lock.__enter__()
        self._started_at = datetime.now(UTC)
        self._clock = self._reported = time.monotonic()
        self._work: dict[tuple[str, ...], dict[str, Any]] = {}
        self._images = self._errors = 0
        self._cluster = ray.cluster_resources()
        self.instance = self._find_instance()
        self.workspace.ensure_encoder(self.encoder.name, self.encoder.dimension)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._work:
                self._report("finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed")
                self.workspace.add_ledger([{**row, "run_id": self.run_id} for row in self._work.values()])
            if kind is None and self._images:
                self.workspace.compact()
        finally:
            self._lock.__exit__(kind, error, trace)

    def fill(self, name: str, plan: Plan, maker: Maker) -> FillResult:
        """Makes what the table lacks of a plan, and embeds what it has without this run's encoder.

        Raises:
            ValueError: a model cannot be loaded on the workers.
        """
        ids, indices = _distinct(plan)
        done = self.workspace.done_ids().contains(ids)
        pending = np.sort(indices[~done])
        result = FillResult(len(plan), len(plan) - len(pending))
        if done.any():
            result.embedded = self._embed(name, id_names(ids[done]))
        if not len(pending):
            return result
        pool = size_pool(self._cluster, maker.gpus_per_actor, -(-len(pending) // maker.rows_per_call))
        blocks = list(cut_blocks(pending, maker.rows_per_call, pool.num_actors))
        progress = Progress(name, len(pending))
        stream = stream_images(
            blocks,
            plan,
            maker,
            self.encoder.source,
            pool=pool,
            pricing=self._pricing(pool),
            run_id=self.run_id,
            uri=self.workspace.uri,
        )
        with (
            Committer(self.workspace, self.commit_every_seconds) as committer,
            _Ticker(self, committer, progress) as ticker,
        ):
            for receipts, work in stream:
                with ticker.guard:
                    for receipt in receipts:
                        committer.add(receipt)
                    self._count(result, progress, receipts, work)
        return result

    def _embed(self, name: str, ids: list[str]) -> int:
        """Fills the encoder's column of committed images that lack it; returns how many."""
        missing = self.workspace.ids_without(self.encoder.name, ids)
        if not missing:
            return 0
        blocks = list(cut_ids(missing))
        pool = size_pool(self._cluster, 0.25, len(blocks))
        progress = Progress(f"{name}: embed", len(missing))
        for found, vectors, seconds in stream_embeddings(
            blocks, self.encoder.source, pool=pool, uri=self.workspace.uri
        ):
            self.workspace.fill_embeddings(self.encoder.name, found, vectors)
            usd = self.add_work("embed", len(found), seconds, pool)
            progress.add(len(found), 0, usd)
            progress.show()
        progress.close()
        return progress.rows

    def add_work(self, stage: str, rows: int, busy_seconds: float, pool: Pool) -> float:
        """Enters what a stage did to images of any kind into the ledger; returns its price in US dollars."""
        usd = busy_seconds * self._pricing(pool).usd_per_device_second
        self._add_work(
            dict(zip(_KIND, (stage, "", "", "", ""), strict=True))
            | dict(zip(_SUMS, (rows, busy_seconds, usd, 0.0), strict=True))
        )
        return usd

    def _pricing(self, pool: Pool) -> Pricing:
        return Pricing(
            usd_per_device_second(self.instance, num_gpus=pool.num_gpus, num_cpus=pool.priced_cpus),
            {source: self.prices.usd_per_label(source) for source in ("generative", "retrieval", "original")},
        )

    def _count(
        self, result: FillResult, progress: Progress, receipts: list[Receipt], work: list[dict[str, Any]]
    ) -> None:
        images = sum(receipt.rows for receipt in receipts if receipt.table_name == "images")
        errors = sum(receipt.rows for receipt in receipts if receipt.table_name == "errors")
        result.made += images
        result.errors += errors
        self._images += images
        self._errors += errors
        for entry in work:
            self._add_work(entry)
        progress.add(images, errors, sum(entry["usd_compute"] + entry["usd_labels"] for entry in work))

    def _add_work(self, entry: dict[str, Any]) -> None:
        total = self._work.setdefault(tuple(entry[name] for name in _KIND), {**entry, **dict.fromkeys(_SUMS, 0)})
        for name in _SUMS:
            total[name] += entry[name]

    def _find_instance(self) -> Instance:
        if self.instance_name:
            return self.prices.instance(self.instance_name)
        accelerators = [
            name.removeprefix("accelerator_type:") for name in self._cluster if name.startswith("accelerator_type:")
        ]
        if not self._cluster.get("GPU"):
            return self.prices.for_device(None)
        return self.prices.for_device(accelerators[0] if accelerators else "gpu")

    def report_if_due(self) -> None:
        """Renews the run's row in `runs` every `REPORT_EVERY_SECONDS`."""
        if time.monotonic() - self._reported >= REPORT_EVERY_SECONDS:
            self._report("running")

    def _report(self, status: str) -> None:
        self._reported = time.monotonic()
        wall = time.monotonic() - self._clock
        nodes = cluster_nodes(self._cluster, self.instance.num_cpus, self.instance.num_gpus)
        self.workspace.put_run(
            {
                "run_id": self.run_id,
                "started_at": self._started_at,
                "wall_seconds": wall,
                "nodes": nodes,
                "instance": self.instance.name,
                "usd_per_hour": self.instance.usd_per_hour,
                "busy_seconds": float(sum(row["busy_seconds"] for row in self._work.values())),
                "usd_busy": float(sum(row["usd_compute"] for row in self._work.values())),
                "usd_billed": billed_usd(self.instance, nodes, wall),
                "images": self._images,
                "errors": self._errors,
                "status": status,
                "config": json.dumps(self.config, default=str),
            }
        )


def _distinct(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The plan's distinct ids `[U]` S16, and the first index `[U]` int64 of each."""
    step = 65_536
    parts = [
        id_bytes([plan[index].id for index in range(start, min(start + step, len(plan)))])
        for start in range(0, len(plan), step)
    ]
    if not parts:
        return np.zeros(0, "S16"), np.zeros(0, np.int64)
    ids, indices = np.unique(np.concatenate(parts), return_index=True)
    return ids, indices


class _Ticker:
    """Commits, reports and prints each second, also while the next block is still being made."""

    def __init__(self, run: Run, committer: Committer, progress: Progress):
        self._run = run
        self._committer = committer
        self._progress = progress
        self.guard = threading.Lock()
        """Held by whoever touches the committer, the run's sums or the progress."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._error: BaseException | None = None

    def _tick(self) -> None:
        while not self._ended.wait(1.0):
            try:
                with self.guard:
                    self._committer.maybe_commit()
                    self._run.report_if_due()
                    self._progress.show()
            except BaseException as error:  # told to the run's own thread below
                self._error = error
                return

    def __enter__(self) -> "_Ticker":
        self._progress.show(force=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._progress.close()
        if self._error and kind is None:
            raise self._error
