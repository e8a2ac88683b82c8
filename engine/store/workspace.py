"""A folder or bucket prefix of Lance tables: images, errors, runs, ledger, negatives, heads, reports, and those of a server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.recipe import embedding_column
from engine.store import columns, compaction, maintenance, rows, runs, search
from engine.store.checks import check_folder, normal_uri, short_reason
from engine.store.compaction import KEPT, Run, run_here
from engine.store.durable import synced
from engine.store.fence import FENCED, Fence, commit_unfenced, lost, token_of
from engine.store.ids import IdSet
from engine.store.lock import Held, workspace_lock
from engine.store.migrations import migrate
from engine.store.repair import remove_damage
from engine.store.schemas import TABLES
from engine.store.session import bounded_session
from engine.store.verify import VerifyReport, check_files, damaged, find_damage


class Workspace:
    """The tables of one project, readable by `lancedb.connect(uri).open_table(name)`. Use `Workspace.open`.

    Every read sees one consistent snapshot: the newest version at its start. A workspace can be pickled, but not its lock.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._datasets: dict[str, Any] = {}
        self._session = bounded_session()
        self._held: Held | None = None
        self._fences: dict[str, Fence] = {}

    @classmethod
    def open(cls, uri: str | Path, *, create: bool = True) -> "Workspace":
        """Opens the workspace at a path or at `s3://bucket/prefix`; creates one that does not exist, upgrades one of an older schema.

        Raises ValueError, and changes nothing, if `uri` is a file or is not writable, if there is none and `create` is
        false, or if the tables have other columns than this version's.
        """
        workspace = cls(normal_uri(str(uri)))
        if workspace.is_local:
            check_folder(Path(workspace.uri))
        if not workspace._exists():
            if not create:
                fix = "give the path of one, or make it with a run"
                raise ValueError(f"there is no workspace at {workspace.uri}; {fix}")
            workspace._create()
        migrate(workspace)
        return workspace

    def __reduce__(self) -> tuple[type["Workspace"], tuple[str]]:
        return Workspace, (self.uri,)

    @property
    def is_local(self) -> bool:
        """Whether the workspace is a folder of a file system."""
        return "://" not in self.uri

    def table_uri(self, name: str) -> str:
        """URI of the Lance table `name`."""
        return f"{self.uri}/{name}.lance"

    def table_path(self, name: str) -> Path:
        """Folder of the Lance table `name` in a local workspace."""
        return Path(self.table_uri(name))

    def dataset(self, name: str) -> Any:
        """The newest version of table `name` as a `lance.LanceDataset`: a snapshot that later commits do not change."""
        import lance

        cached = self._datasets.get(name)
        if cached is None:
            try:
                cached = lance.dataset(self.table_uri(name), session=self._session)
            except ValueError as error:
                if name == "images" or "was not found" not in str(error):
                    raise
                self._create_table(name)  # an older release without this table made the workspace
                cached = lance.dataset(self.table_uri(name), session=self._session)
        elif (latest := cached.latest_version) != cached.version:
            # keeps the index cache of the previous handle; a fresh handle would start cold
            cached = cached.checkout_version(latest)
        self._datasets[name] = cached
        return cached

    def _exists(self) -> bool:
        try:
            self.dataset("images")
        except (ValueError, OSError) as error:
            if "was not found" in str(error):
                return False
            raise ValueError(f"cannot open workspace {self.uri}: {short_reason(error)}; check its path") from error
        return True

    def _create_table(self, name: str) -> None:
        import lance

        try:
            lance.write_dataset(TABLES[name].empty_table(), self.table_uri(name), mode="create")
        except OSError as error:
            if "already exists" not in str(error):  # another process may be opening the same new workspace
                raise

    def _create(self) -> None:
        try:
            if self.is_local:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            for name in TABLES:
                self._create_table(name)
        except OSError as error:
            fix = "give a place you may write to"
            raise ValueError(f"cannot write a workspace to {self.uri}: {short_reason(error)}; {fix}") from error

    def image_schema(self) -> pa.Schema:
        """Columns of `images`, embedding columns included."""
        schema: pa.Schema = self.dataset("images").schema
        return schema

    def embedding_columns(self) -> dict[str, int]:
        """Embedding columns of `images` and their dimensions."""
        return {
            field.name: field.type.list_size
            for field in self.image_schema()
            if field.name.startswith("embedding_") and pa.types.is_fixed_size_list(field.type)
        }

    def ensure_columns(self, added: pa.Schema) -> None:
        """Adds the missing columns to `images`; they are null in existing rows.

        Raises ValueError if the table has a column with one of these names and another type.
        """
        columns.ensure(self, added)

    def ensure_encoder(self, encoder: str, dimension: int) -> None:
        """Adds the encoder's column to `images` if it is missing; it is null in existing rows.

        Raises ValueError if the column holds vectors of another dimension.
        """
        columns.ensure_encoder(self, encoder, dimension)

    def _embedding(self, encoder: str) -> str:
        column = embedding_column(encoder)
        if column not in self.embedding_columns():
            raise ValueError(f"workspace {self.uri} has no embeddings of {encoder}; call ensure_encoder first")
        return column

    def ids_lacking(self, names: Sequence[str], ids: Sequence[str]) -> list[str]:
        """Returns the `ids` that are committed and null in one of the columns `names`, in the given order."""
        return columns.ids_lacking(self, names, ids)

    def ids_without(self, encoder: str, ids: Sequence[str]) -> list[str]:
        """Returns the `ids` that are committed and not embedded by this encoder, in the given order."""
        return self.ids_lacking([self._embedding(encoder)], ids)

    def fill_columns(self, table: pa.Table) -> None:
        """Sets columns of rows of `images`, by `id`; nothing else in the table changes.

        Writes only these columns, once per fragment that holds one of the ids, so fill many rows per call, and hold the
        lock if other runs may write.
        Raises ValueError if an id is given twice or is not in the table, or if the table lacks a column.
        """
        with self.writing("images") as images:
            rows.fill(images, table)

    def fill_embeddings(self, encoder: str, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Sets the embeddings `[N, D] float32` of rows of `images`, as `fill_columns` does.

        Raises ValueError if shapes disagree, or if an id is given twice or is not in the table.
        """
        column = self._embedding(encoder)
        self.fill_columns(rows.embedding_table(column, ids, vectors, self.embedding_columns()[column]))

    def count(self, where: str | None = None) -> int:
        """Number of images, or of those for which the SQL condition `where` holds."""
        return int(self.dataset("images").count_rows(where))

    def done_ids(self, rejected_by: Sequence[str] = ()) -> IdSet:
        """Ids of all committed images, and of images that one of these stages has rejected.

        Raises ValueError if the table is damaged.
        """
        names = ", ".join(rows.quote(name) for name in rejected_by)
        rejected = self.read("errors", f"stage IN ({names})").column("id").chunks if names else []
        try:
            return IdSet([*rejected, *(batch.column("id") for batch in self.scan(["id"]))])
        except (OSError, ValueError, RuntimeError) as error:
            check_files(self)
            raise damaged(self.uri, short_reason(error)) from error

    def scan(self, columns: Sequence[str], where: str | None = None) -> pa.RecordBatchReader:
        """The rows of `images`, batch by batch, from a single version of the table."""
        batch_rows = 256 if "image" in columns else rows.SCAN_ROWS if list(columns) == ["id"] else 8_192
        scanner = self.dataset("images").scanner(columns=list(columns), filter=where, batch_size=batch_rows)
        reader: pa.RecordBatchReader = scanner.to_reader()
        return reader

    def fetch(self, ids: Sequence[str], columns: Sequence[str], at: Sequence[int] | None = None) -> pa.Table:
        """`id` and `columns` of these images, in the order of `ids`; absent ones are left out. `at`: see `rows.fetch`."""
        return rows.fetch(self.dataset("images"), ids, columns, at)

    def errors(self, run_id: str | None = None) -> pa.Table:
        """Recipes that could not be made (`ERROR_SCHEMA`), of one run or all runs."""
        return self.read("errors", None if run_id is None else f"run_id = {rows.quote(run_id)}")

    def runs(self) -> pa.Table:
        """All runs (`RUN_SCHEMA`); a killed run has the values of its last report."""
        return self.read("runs")

    def ledger(self) -> pa.Table:
        """Work and cost of all stages of all runs (`LEDGER_SCHEMA`)."""
        return self.read("ledger")

    def negatives(self, where: str | None = None) -> pa.Table:
        """Mined negatives (`NEGATIVE_SCHEMA`), all or those for which the SQL condition `where` holds."""
        return self.read("negatives", where)

    def heads(self, where: str | None = None) -> pa.Table:
        """Trained heads of retrievers (`HEAD_SCHEMA`), all or those for which the SQL condition `where` holds."""
        return self.read("heads", where)

    def read(self, name: str, where: str | None = None) -> pa.Table:
        """All rows of table `name`, or those for which the SQL condition `where` holds."""
        table: pa.Table = self.dataset(name).to_table(filter=where)
        return table

    def add_rows(self, name: str, table: pa.Table) -> None:
        """Appends rows to a table other than `images` and `errors`, which take receipts.

        Raises ValueError if a column is missing, unknown or of the wrong type.
        """
        rows.append(self, name, table)

    def put_run(self, row: dict[str, Any]) -> None:
        """Sets the row of `runs` with this `run_id`. Raises ValueError if a field is missing, unknown or of the wrong type."""
        runs.put_run(self, row)

    def put_ledger(self, run_id: str, rows: list[dict[str, Any]]) -> None:
        """Replaces the ledger of a run with `rows`; `run_id` is filled in.

        Raises ValueError if a field is missing, unknown or of the wrong type.
        """
        if rows:
            runs.put_ledger(self, run_id, rows)

    def settle_runs(self, statuses: Mapping[str, str] | None = None) -> list[str]:
        """Closes the rows of `runs` that still say `running` although the run was killed; returns their ids.

        Their images, errors, seconds, price and ledger are computed from the tables, their status becomes `killed`, or, for
        the runs of `statuses` alone, what that says. Needs the lock; call it before the run that holds it has a row.
        """
        assert self._held is not None, "a run that goes on would be taken for a killed one: hold the lock"
        return runs.settle(self, statuses)

    def drop_old_errors(self, ids: IdSet | Sequence[str] | np.ndarray, run_id: str) -> int:
        """Removes error rows of other runs with these ids, which `run_id` tried again; returns their number."""
        return runs.drop_old_errors(self, ids if isinstance(ids, IdSet) else IdSet([ids]), run_id)

    def verify(self, *, repair: bool = False, num_processes: int = 1) -> VerifyReport:
        """Reads all of `images` and `errors` and reports what is damaged.

        Damage is: files that are missing, truncated or unreadable; ids that are not the hash of the row's recipe, or occur
        twice; images that do not decode to their `content_hash`; embeddings that are not of unit norm. `repair` drops these
        files and rows (of duplicates all but one), so that the next run makes them again. Raises ValueError if another writes.
        """
        if not repair:
            return find_damage(self, num_processes)
        with self.lock("verify", check=False):
            report = find_damage(self, num_processes)
            remove_damage(self, report)
        return report

    @contextmanager
    def lock(self, run_id: str, *, check: bool = True) -> Iterator[None]:
        """Makes this the only writing run during the block. Adds columns that a table of an older release lacks.

        Raises ValueError if another run writes, or, unless `check` is false, if files of the tables are damaged.
        """
        with workspace_lock(self.uri, run_id) as held:
            if check:
                check_files(self)
            held.outrank(max(token_of(self.dataset(name)) for name in FENCED))
            self._held = held
            try:
                self.check_lock()
                self._fences = {name: Fence(self.uri, self.dataset(name), held.token) for name in FENCED}
                columns.ensure_of_release(self)
                yield
            finally:
                self._held, self._fences = None, {}

    def check_lock(self) -> None:
        """Raises WorkspaceLost if this workspace held its lock and another run has taken it over since."""
        if self._held is not None and self._held.lost:
            raise lost(self.uri)

    def append(self, name: str, transaction: Any, num_rows: int) -> None:
        """Commits a transaction that appends `num_rows` rows to a table, under the lock onto the run's own last version.

        It is safe to repeat with the same transaction: rows are added once, even if an earlier try took effect.
        Raises WorkspaceLost if another run has committed, and Lance's exceptions if the store fails.
        """
        if name in self._fences:
            self._fences[name].commit(transaction)
        else:
            commit_unfenced(self.dataset(name), transaction, num_rows)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A table for a block that changes it through Lance, as a `lance.LanceDataset`; on disk when the block has ended.

        Under the lock it is the run's own last version. Raises WorkspaceLost when another run has committed.
        """
        fence = self._fences.get(name)
        for other in self._fences.values() if fence is None else ():
            other.check()  # a process that was stopped and wakes up does not know from its lock yet that it is lost
        with (
            fence.writing() if fence else nullcontext(self.dataset(name)) as dataset,
            synced(self.table_path(name)) if self.is_local else nullcontext(),
        ):
            yield dataset

    def search(
        self,
        vector: np.ndarray,
        encoder: str,
        *,
        k: int = 10,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The `k` images nearest to `vector` `[D]` by cosine distance, nearest first, among those `where` holds for.

        Gives `columns` (the recipe's, by default) and `_distance`, 0 to 2. Exact where the column has no index; images
        without an embedding are never found. Raises ValueError for a vector of another dimension, zero or not finite.
        """
        if np.ndim(vector) != 1:
            raise ValueError(f"the vector has shape {np.shape(vector)}; give one vector, or call search_batch")
        return search.nearest(
            self.dataset("images"), self._embedding(encoder), vector, k=k, where=where, columns=columns
        )

    def search_batch(
        self,
        vectors: np.ndarray,
        encoder: str,
        *,
        k: int = 10,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """`search` for each of `vectors` `[Q, D]`; a column `query_index` says which vector a row was found for."""
        if np.ndim(vectors) != 2:
            raise ValueError(f"the vectors have shape {np.shape(vectors)}; give them as [Q, D]")
        return search.nearest(
            self.dataset("images"), self._embedding(encoder), vectors, k=k, where=where, columns=columns
        )

    def build_indices(self, encoder: str | None = None) -> None:
        """Indexes the ids and the columns that filters name, and the encoder's vectors where they are many.

        What was there is replaced. `search` and `fetch` give the same rows before and after, sooner.
        """
        column = None if encoder is None else self._embedding(encoder)
        with self.writing("images") as images:
            maintenance.build_scalar_indices(images)
            if column is not None:
                maintenance.build_vector_index(images, column)

    def compaction_due(self, name: str) -> bool:
        """Whether table `name` has small files worth merging; reads their metadata alone."""
        return bool(compaction.plan(self.dataset(name)))

    def compact(self, *, clean: bool = True, keep_versions_for: timedelta = KEPT, run: Run = run_here) -> int:
        """Merges small files where that is worth it; returns the bytes written, over time at most four times those made.

        With `clean`, for the end of a run, it also brings indices up to date and deletes old versions and what interrupted
        writers left; no worker may still be writing. Readers keep the versions of the last minutes. Without, it can run beside
        the committer of the same process. Needs the lock. Build a vector index afterwards: it moves with the rows.
        """
        assert self._held is not None, "compact deletes what is not committed: hold the lock"
        self.check_lock()
        written = 0
        for name in TABLES:
            if clean:
                with self.writing(name) as table:
                    table.optimize.optimize_indices()
            written += compaction.merge_small(self, name, run)
            if clean:
                self.check_lock()
                for fence in self._fences.values():  # the files of a run that took over are not to be deleted
                    fence.check()
                compaction.clean(self.dataset(name), keep_versions_for)
        return written
