"""`TableWriter`: the one process of a server that writes the table. What it has acknowledged is committed."""

import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from engine.costs import PriceBook
from engine.cpus import usable_cpus
from engine.dataflow.accounts import REPORT_EVERY_SECONDS, Accounts
from engine.serving.admission import Admission, spent_from
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.known_ids import KnownIds
from engine.store import Committer, Workspace, WorkspaceLost, write_fragments
from engine.store.maintenance import ensure_id_index
from engine.store.rows import quote
from engine.store.schemas import TABLES, conform

COMMITS_PER_MERGE = 24
"""Every read goes through all files of the table, so the many small ones of a server are merged early."""
COMMITS_PER_CLEANING = 512
"""Commits until indices are brought up to date and old versions deleted, which takes a second per million images."""
KEEP_VERSIONS_FOR = timedelta(minutes=2)
"""Older versions of the tables are deleted; a reader holds one for seconds."""
OWNER = pa.schema([pa.field("owner", pa.string())])
"""Column of `images`: id of the key that may see the image; null for everybody."""


@dataclass
class Batch:
    """Rows that wait for the next commit."""

    tables: Mapping[str, pa.Table]
    work: Sequence[Mapping[str, Any]]
    """Ledger rows of the work on these images."""
    is_repeated: bool = False
    """Whether a process that died may have written its rows."""
    landed: "Future[list[str]]" = field(default_factory=Future)


class TableWriter:
    """Commits what waits, all of it at once, then what has come meanwhile: no timer, one commit for many requests.

    It holds the workspace's lock, so a run on the same workspace is refused as long as the server lives.
    """

    def __init__(
        self,
        config: ServeConfig,
        cluster: Callable[[], dict[str, float]] = lambda: {"CPU": float(usable_cpus())},
    ):
        self._config, self._cluster = config, cluster
        self._stack = ExitStack()
        self._workspace = Workspace.open(config.workspace)
        self.run_id = f"serve-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._stack.enter_context(self._workspace.lock(self.run_id))
        self._workspace.settle_runs()
        self._workspace.ensure_columns(OWNER)
        ensure_id_index(self._workspace)
        self._known = KnownIds(self._workspace)
        self._admission = Admission(spent_from(self._workspace))
        prices = PriceBook.load(config.price_book)
        self._accounts = Accounts(self._workspace, self.run_id, prices, config.instance, asdict(config))
        self._accounts.sample([cluster()])
        self._commits = 0
        self._counts: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._waiting: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.problem: Exception | None = None
        """Why nothing can be written any more; the process has to be replaced."""
        self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
        self._thread.start()

    def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """Headers about the caller's rate. Raises ApiError (429) if its rate or its budget is used up."""
        return self._admission.admit(caller, images)

    def put(
        self,
        tables: Mapping[str, bytes],
        work: Sequence[Mapping[str, Any]] = (),
        counts: Mapping[str, Any] | None = None,
        is_repeated: bool = False,
    ) -> "Future[list[str]]":
        """Commits rows, given as table name → Arrow IPC stream. `counts`: the newest counts of the process that sends them.

        `is_repeated`: an earlier writer may have written these rows before it died; those that are there are left out.
        Returns the ids among `images` that the table had already, whose rows were not added again. Raises ApiError (503)
        if the store fails.
        """
        if counts:
            self._counts[counts["generator"], counts["process"]] = counts
        batch = Batch({name: pa.ipc.open_stream(data).read_all() for name, data in tables.items()}, work, is_repeated)
        if self.problem:
            raise _failed(self.problem)
        self._waiting.put(batch)
        return batch.landed

    def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """Generator → the newest counts of each of its processes."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for (generator, _), counts in sorted(self._counts.items()):
            found.setdefault(generator, []).append(counts)
        return found

    def close(self) -> None:
        """Commits what waits, closes the accounts and gives the lock back."""
        self._waiting.put(None)
        self._thread.join()
        with self._stack:
            if self._accounts.has_work and self.problem is None:
                self._accounts.sample([self._cluster()])
                self._accounts.report("finished")

    def _run(self) -> None:
        while True:
            try:
                batches = self._next()
            except queue.Empty:
                self._renew()
                continue
            ends = None in batches
            landing = [batch for batch in batches if batch is not None]
            try:
                if landing:
                    self._land(landing)
                self._renew()
            except Exception as error:  # whatever it is, nobody may wait forever
                if isinstance(error, WorkspaceLost):
                    self.problem = error
                for batch in landing:
                    if not batch.landed.done():
                        batch.landed.set_exception(_failed(error))
            if ends or self.problem:
                return

    def _next(self) -> list[Batch | None]:
        batches = [self._waiting.get(timeout=REPORT_EVERY_SECONDS)]
        while True:
            try:
                batches.append(self._waiting.get_nowait())
            except queue.Empty:
                return batches

    def _land(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.is_repeated:
                self._drop_written(batch)
        try:
            present = self._commit_images(batches)
        except Exception:  # a commit may have landed nevertheless
            self._known.read_again()
            raise
        for name in sorted({name for batch in batches for name in batch.tables} - {"images", "errors"}):
            parts = [batch.tables[name] for batch in batches if name in batch.tables]
            self._workspace.add_rows(name, pa.concat_tables(parts, promote_options="default"))
        for batch in batches:
            for row in batch.work:
                self._accounts.add(dict(row))
            for request in batch.tables["requests"].to_pylist() if "requests" in batch.tables else ():
                self._admission.charge(request["key_id"], request["usd"])
            images = batch.tables.get("images")
            batch.landed.set_result(
                [] if images is None else [one for one in images["id"].to_pylist() if one in present]
            )
        self._commits += 1
        if self._commits % COMMITS_PER_CLEANING == 0:
            try:
                self._workspace.compact(keep_versions_for=KEEP_VERSIONS_FOR)
            finally:
                self._known.read_again()
        elif self._commits % COMMITS_PER_MERGE == 0:
            self._workspace.compact(clean=False)

    def _drop_written(self, batch: Batch) -> None:
        """Leaves out the rows of small tables that are there; images are always compared by id."""
        tables = dict(batch.tables)
        for name in tables.keys() - {"images", "errors"}:
            rows = conform(tables[name], TABLES[name])
            first = rows.column_names[0]
            values = ", ".join(quote(value) for value in set(rows[first].to_pylist()))
            there = self._workspace.read(name, f"{first} IN ({values})").to_pylist()
            tables[name] = rows.filter(pa.array([row not in there for row in rows.to_pylist()], pa.bool_()))
        batch.tables = tables

    def _commit_images(self, batches: Sequence[Batch]) -> set[str]:
        """Commits images and errors; returns the ids that had a row before, or twice among these."""
        uri, present = self._workspace.uri, set[str]()
        receipts = []
        images = [batch.tables["images"] for batch in batches if "images" in batch.tables]
        if images:
            table = pa.concat_tables(images, promote_options="default")
            ids = table["id"].to_pylist()
            known = self._known.among(ids)
            keep, seen = [], set(known)
            for one in ids:
                keep.append(one not in seen)
                seen.add(one)
            present = known | {one for one, kept in zip(ids, keep, strict=True) if not kept}
            table = self._of_this_run(table.filter(pa.array(keep)))
            there = set(self._workspace.image_schema().names)
            if missing := [field for field in table.schema if field.name not in there]:
                self._workspace.ensure_columns(pa.schema(missing))
            self._accounts.images += table.num_rows
            receipts.append(write_fragments(uri, "images", table, dataset=self._workspace.dataset("images")))
        errors = [batch.tables["errors"] for batch in batches if "errors" in batch.tables]
        if errors:
            table = self._of_this_run(pa.concat_tables(errors))
            self._accounts.errors += table.num_rows
            receipts.append(write_fragments(uri, "errors", table, dataset=self._workspace.dataset("errors")))
        with Committer(self._workspace) as committer:
            for receipt in receipts:
                committer.add(receipt)
        self._known.add(one for table in images for one in table["id"].to_pylist())
        return present

    def _of_this_run(self, table: pa.Table) -> pa.Table:
        column = pa.array([self.run_id] * table.num_rows, pa.string())
        return table.set_column(table.schema.get_field_index("run_id"), "run_id", column)

    def _renew(self) -> None:
        if self._accounts.is_due():
            self._accounts.sample([self._cluster()])
            self._accounts.report("running")


def _failed(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ApiError(503, f"the table cannot be written ({reason}); try again", code="store_failed", retry_after=5)
