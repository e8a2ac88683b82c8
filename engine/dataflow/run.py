"""A run fills plans: it makes the images that the table lacks, runs stages on them, and commits every few seconds."""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from engine.costs import PriceBook
from engine.dataflow.accounts import Accounts
from engine.dataflow.apply import apply_stage, rows_per_lease
from engine.dataflow.cluster import RayConnection
from engine.dataflow.fill_result import FillResult
from engine.dataflow.filling import Filling
from engine.dataflow.kept import KeptWorkers
from engine.dataflow.labels import store_labels
from engine.dataflow.leases import Backlog
from engine.dataflow.merging import run_on_cluster
from engine.dataflow.pool import Pool
from engine.dataflow.resources import CPU_ASK, Ask, Cluster, Device, choose_ask, current_cluster
from engine.dataflow.rows import Pricing
from engine.dataflow.stages import Embed, Stage, check_stages
from engine.dataflow.ticker import Ticker
from engine.dataflow.worker import Report, WorkerJob
from engine.failures import RunFailed
from engine.images import PNG, ImageFormat
from engine.log import say
from engine.models import ImageEncoder, load_encoder
from engine.models.cpu_time import cpu_warning
from engine.models.gpu_decoding import Decode
from engine.progress import Progress
from engine.sources import GeneratorMaker, Maker, MakerBySource, Plan, plan_ids
from engine.store import Committer, Workspace, WorkspaceLost
from engine.store.commit import TRANSIENT
from engine.store.compaction import run_here

MAX_WORKERS_VARIABLE = "IMAGEFOUNDRY_MAX_WORKERS"
ROUNDS = 3
"""Number of times that recipes without a receipt are made again before the run reports them as missing."""
ROWS_PER_FILL = 65_536
"""Rows whose columns are written at once, since each write rewrites these columns of the fragments that it touches …"""
FILL_SECONDS = 60.0
"""… or the rows of this many seconds."""


@dataclass
class Run:
    """One writing run over a workspace; a context manager that commits and accounts for everything that was made.

    Ray is connected when the first recipe is missing; if none is missing, it is never connected.
    """

    workspace: Workspace
    prices: PriceBook
    instance_name: str | None = None
    """Instance of the price book for prices; None selects it by the cluster's accelerator."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration to record with the run."""
    commit_every_seconds: float = 5.0
    flush_seconds: float = 15.0
    """Maximum seconds that a worker keeps a row before it writes it."""
    ray: RayConnection | None = None
    """A connection that outlives the run; None for a connection of the run's own."""
    device: Device = "auto"
    """Device of the models."""
    image_format: ImageFormat = PNG
    """Format in which generated images are stored; those in the table stay as they are."""
    max_errors: float = 0.2
    """Share of failing recipes that stops the run."""
    max_workers: int | None = field(default_factory=lambda: int(os.environ.get(MAX_WORKERS_VARIABLE, "0")) or None)
    """Maximum workers per pool; None for as many as fit into the cluster. `IMAGEFOUNDRY_MAX_WORKERS` is the default."""
    keep_workers: bool = False
    """Whether workers stay until the next fill, for one with the same maker and stages."""
    say: Callable[[str], None] = say
    """Called with lines about dead workers and failing GPUs."""
    on_report: Callable[[Report], None] = lambda report: None
    """Called with each report of a worker."""
    rejected_by: set[str] = field(default_factory=set, init=False)
    """Names of the stages of all fills that reject images; error rows of these stages are no failures."""

    def __enter__(self) -> "Run":
        self.run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.say = partial(say, run_id=self.run_id) if self.say is say else self.say
        self._accounts = Accounts(self.workspace, self.run_id, self.prices, self.instance_name, self.config)
        with ExitStack() as stack:
            stack.enter_context(self.workspace.lock(self.run_id))
            self._connection = self.ray or stack.enter_context(RayConnection())
            self._kept = stack.enter_context(KeptWorkers(self.keep_workers))
            self._is_connected = False
            self._workers = CPU_ASK
            self.workspace.settle_runs()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if not self._accounts.has_work or isinstance(error, WorkspaceLost):
                return  # the run that took over has settled this one's accounts
            stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._accounts.report("finished" if kind is None else "interrupted" if stopped else "running")
            if kind is None:
                self._compact(clean=True)
            elif not stopped:  # what was accepted may not have been committed
                self.workspace.settle_runs({self.run_id: "failed"})

    def fill(self, name: str, plan: Plan, maker: Maker, stages: Sequence[Stage] = ()) -> FillResult:
        """Makes the images of a plan that the table lacks, and runs the stages on them before their rows are written.

        Images of earlier runs that lack a column of a stage get it as well.

        Args:
            name: name shown in the progress line.
            plan: recipes to make.
            maker: makes the images.
            stages: run in this order, in the worker that made the image; `Embed.of(encoder)` for embeddings.

        Raises:
            ValueError: a model cannot be loaded on the workers; the cluster can never hold a worker; two stages add the
                same column.
            RunFailed: too many recipes fail, commits fail permanently, or recipes are missing at the end.
        """
        check_stages(stages)
        for stage in stages:
            self.workspace.ensure_columns(stage.columns)
        try:
            result = self._fill(name, plan, maker, stages)
        except RunFailed:  # what was committed stays, and has its labels
            store_labels(self.workspace, plan)
            raise
        store_labels(self.workspace, plan)
        return result

    def _fill(self, name: str, plan: Plan, maker: Maker, stages: Sequence[Stage]) -> FillResult:
        result = FillResult(len(plan), 0)
        result.updated = self._update_present(name, plan, stages)
        rejecting = [stage.name for stage in stages if stage.rejects]
        self.rejected_by.update(rejecting)
        done = self.workspace.done_ids(rejecting)
        backlog = Backlog(plan, done, maker.reads)
        if not backlog:
            backlog.close()
            result.present = len(plan)
            return result
        needs_gpu = maker.needs_gpu or any(stage.needs_gpu for stage in stages)
        ask = self._ask(max([maker.gpus_per_actor, *(stage.num_gpus for stage in stages)]), needs_gpu)
        self._workers = ask
        self._warn_of_processors(maker, backlog.most_left, ask)
        progress = Progress(name, backlog.most_left, run_id=self.run_id)
        planned_before = self._accounts.planned or 0
        job = WorkerJob(
            maker, tuple(stages), self.workspace.uri, self.run_id, ask.device, self.flush_seconds, self.image_format
        )
        with (
            Committer(self.workspace, len(plan), self.commit_every_seconds) as committer,
            Ticker(committer, progress, self.renew, self._compact_if_due) as ticker,
            Pool(backlog, plan, job, ask, self.cluster, cache(self._price), self.max_workers, self.say) as pool,
            self._kept.lent(pool, job, ask),
        ):
            filling = Filling(self, self._accounts, plan, job, pool, committer, progress, result)
            for _ in range(ROUNDS):
                for report in pool.reports():
                    self.on_report(report)
                    ticker.check()
                    with ticker.guard:
                        result.present = backlog.num_present
                        progress.total = len(plan) - backlog.num_present
                        self._accounts.planned = planned_before + progress.total
                        filling.take(report)
                        filling.check_errors(self.max_errors)
                missing = committer.missing(np.flatnonzero(backlog.is_pending))
                if not len(missing):
                    break
                pool.make_again(missing.tolist())
            else:
                raise RunFailed(f"{len(missing):,} of {len(plan):,} recipes were neither made nor failed; run it again")
        filling.metrics.show(progress.total, 0, 0.0)  # no worker is left, and nothing waits
        self.workspace.drop_old_errors(backlog.pending_ids(), self.run_id)
        filling.check_all_errors(self.max_errors)
        return result

    def embed(
        self,
        encoder: ImageEncoder,
        what: Plan | Sequence[str],
        name: str = "",
        load_encoder: Callable[..., ImageEncoder] = load_encoder,
        decode: Decode = "cpu",
    ) -> int:
        """Embeds the committed images of a plan, or with these ids, that lack an encoder's embedding. Makes no image.

        Returns the number of embedded images. `load_encoder` loads the encoder from its source on the workers; `decode`
        is where they decode the images (`Embed.of`).
        """
        return self.apply(Embed.of(encoder, load_encoder, decode), what, name or f"embed by {encoder.name}")

    def apply(self, stage: Stage, what: Plan | Sequence[str], name: str = "") -> int:
        """Runs a stage on the committed images of a plan, or with these ids, that lack one of its columns.

        Returns the number of images that got the columns. Makes no image.

        Raises:
            ValueError: the stage rejects images, although these are already committed; or workers cannot load it.
            RunFailed: processes die repeatedly.
        """
        if stage.rejects or not stage.columns.names:
            raise ValueError(
                f"stage {stage.name} adds no column or rejects images, and committed images stay; give it to a fill"
            )
        self.workspace.ensure_columns(stage.columns)
        ids: list[str] = list(what) if len(what) and isinstance(what[0], str) else plan_ids(what)  # type: ignore
        missing = self.workspace.ids_lacking(stage.columns.names, ids)
        if not missing:
            return 0
        self._kept.end()
        ask = self._ask(stage.num_gpus, stage.needs_gpu)
        progress = Progress(name or stage.name, len(missing), run_id=self.run_id)
        cluster = self.cluster()
        leases = -(-len(missing) // rows_per_lease(self.workspace.dataset("images")))
        most = min(leases, self.max_workers or len(missing))
        num_workers = min(cluster.room(ask), most)
        pool = (num_workers, most if cluster.may_grow else num_workers)
        pending: list[pa.Table] = []
        written = time.monotonic()
        try:
            for part in apply_stage(missing, stage, self.workspace.uri, ask, pool, cluster.spare_cpus(ask)):
                pending.append(part.table)
                usd = self._accounts.add_stage(stage.name, part.table.num_rows, part.seconds, ask)
                if num_failed := part.num_images - part.table.num_rows:
                    self.say(f"{num_failed} images keep no {stage.columns.names[0]} ({part.reason})")
                progress.add(part.table.num_rows, num_failed, usd)
                progress.show()
                rows = sum(table.num_rows for table in pending)
                if rows >= ROWS_PER_FILL or time.monotonic() - written >= FILL_SECONDS:
                    self.workspace.fill_columns(pa.concat_tables(pending))
                    pending, written = [], time.monotonic()
                self.renew()
        finally:  # what is finished is kept, however the others end
            if pending:
                self.workspace.fill_columns(pa.concat_tables(pending))
        progress.close()
        return progress.rows

    def add_work(self, stage: str, rows: int, busy_seconds: float, ask: Ask, **of: Any) -> float:
        """Records in the ledger what a stage did; returns the price in US dollars.

        `of`: the kind of image (`source`, `dataset`, `strategy`, `generator`), any by default, and `fetched_bytes`.
        """
        return self._accounts.add_stage(stage, rows, busy_seconds, ask, **of)

    def connect(self) -> None:
        """Connects Ray, unless already connected."""
        self._connection.connect()
        self._is_connected = True
        self._accounts.sample(self.cluster().nodes)

    def _update_present(self, name: str, plan: Plan, stages: Sequence[Stage]) -> int:
        """Fills missing columns of images of earlier runs; returns the number of these images."""
        adding = [stage for stage in stages if stage.columns.names and not stage.rejects]
        lacking = " OR ".join(f"{column} IS NULL" for stage in adding for column in stage.columns.names)
        if not lacking or not self.workspace.count(lacking):
            return 0
        ids = plan_ids(plan)
        return max(self.apply(stage, ids, f"{name}: {stage.name}") for stage in adding)

    def _ask(self, gpus_per_actor: float, needs_gpu: bool) -> Ask:
        self.connect()
        return choose_ask(self.cluster(), gpus_per_actor, needs_gpu, self.device)

    def _warn_of_processors(self, maker: Maker, num_images: int, ask: Ask) -> None:
        makers = maker.makers.values() if isinstance(maker, MakerBySource) else [maker]
        for one in makers:
            if isinstance(one, GeneratorMaker) and ask.device == "cpu":
                num_workers = min(max(1, self.cluster().room(ask)), self.max_workers or num_images)
                if line := cpu_warning(one.spec, num_images, num_workers):
                    self.say(line)

    def cluster(self) -> Cluster:
        """The current state of the cluster. Raises RunFailed if it is a local one that was killed."""
        self._connection.check()
        return current_cluster(may_grow=not self._connection.is_private)

    def _price(self, ask: Ask, node_id: str) -> Pricing:
        """Prices of what a worker on a node holds."""
        cluster = self.cluster()
        self._accounts.sample(cluster.nodes)
        return self._accounts.pricing(ask, cluster.node(node_id))

    def renew(self) -> bool:
        """Renews the run's row if it is due; returns whether it was."""
        if not self._accounts.is_due():
            return False
        if self._is_connected:
            self._accounts.sample(self.cluster().nodes)
        self._accounts.report("running")
        return True

    @property
    def _merges_elsewhere(self) -> bool:
        """Whether other nodes have processors for merging that no worker holds."""
        return self._is_connected and not self._connection.is_private and self.cluster().spare_cpus(self._workers) > 0

    def _compact_if_due(self) -> None:
        with suppress(*TRANSIENT):  # the store failed; the next turn looks again
            if any(self.workspace.compaction_due(name) for name in ("images", "errors")):
                self._compact(clean=False)

    def _compact(self, clean: bool) -> None:
        try:
            self.workspace.compact(clean=clean, run=run_on_cluster if self._merges_elsewhere else run_here)
        except Exception as error:  # the rows are committed: a table that stays in many files is no reason to fail
            self.say(f"warning: the table was not compacted ({error}); the next run tries again")
