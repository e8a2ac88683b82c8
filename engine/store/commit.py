"""Workers write fragments, one committer makes them visible: what is committed stays, what is not leaves no row."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from engine.store.schemas import conform

if TYPE_CHECKING:
    from engine.store.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What a worker hands back for rows it has written: a few hundred bytes, whatever the rows weigh."""

    table_name: str
    """`images` or `errors`."""
    fragments: list[str]
    """Metadata of each Lance fragment, as JSON."""
    rows: int
    """Rows in these fragments."""

    def to_dict(self) -> dict[str, Any]:
        """The receipt as one row of plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Receipt":
        """The receipt in a row; values may be numpy's, as a Ray Data row has them."""
        fragments = [str(fragment) for fragment in values["fragments"]]
        return cls(table_name=str(values["table_name"]), fragments=fragments, rows=int(values["rows"]))


def write_fragments(uri: str, table_name: str, table: pa.Table) -> Receipt:
    """Writes rows that no reader sees until a `Committer` commits the receipt; durable when this returns.

    The rows are cast to the table's columns as they are now; embedding columns that `table` lacks are null.
    Raises ValueError for a table that does not fit.
    """
    import lance

    path = f"{uri}/{table_name}.lance"
    schema = lance.dataset(path).schema
    rows = conform(table, schema)
    if not rows.num_rows:
        return Receipt(table_name=table_name, fragments=[], rows=0)
    fragments = lance.fragment.write_fragments(rows, path, schema=schema, mode="append")
    return Receipt(table_name=table_name, fragments=[json.dumps(f.to_json()) for f in fragments], rows=rows.num_rows)


class Committer:
    """Collects receipts and commits them every few seconds, and what is left when its block ends, however it ends."""

    def __init__(self, workspace: "Workspace", every_seconds: float = 5.0) -> None:
        self._workspace = workspace
        self._every_seconds = every_seconds
        self._pending: dict[str, list[Receipt]] = {}
        self._committed_at = time.monotonic()
        self._unsure: set[str] = set()
        self.rows: dict[str, int] = {"images": 0, "errors": 0}
        """Rows made visible so far, by table."""

    def add(self, receipt: Receipt) -> None:
        """Takes a receipt; its rows become visible with the next commit."""
        if receipt.rows:
            self._pending.setdefault(receipt.table_name, []).append(receipt)

    def maybe_commit(self) -> int:
        """Commits if the last commit is `every_seconds` ago; returns the number of rows made visible."""
        due = time.monotonic() - self._committed_at >= self._every_seconds
        return self.flush() if due else 0

    def flush(self) -> int:
        """Commits all that is pending; returns the number of rows made visible.

        Raises RuntimeError when a table's count does not grow by exactly the rows of the receipts, or when the
        workspace's lock was lost to another run.
        """
        rows = sum([self._commit(name) for name in list(self._pending)])
        self._committed_at = time.monotonic()
        return rows

    def _commit(self, name: str) -> int:
        import lance

        self._workspace.check_lock()
        dataset = self._workspace.dataset(name)
        if name in self._unsure:
            self._forget_visible(name, dataset)
        receipts = self._pending[name]
        rows = sum(receipt.rows for receipt in receipts)
        fragments = [lance.FragmentMetadata.from_json(text) for receipt in receipts for text in receipt.fragments]
        self._check_files(name, rows, fragments)
        if fragments:
            before = dataset.count_rows()
            append = lance.LanceOperation.Append(fragments)
            self._unsure.add(name)
            after = lance.LanceDataset.commit(dataset.uri, append, read_version=dataset.version).count_rows()
            if after != before + rows:
                raise RuntimeError(f"table {name} went from {before} to {after} rows in a commit of {rows}")
        del self._pending[name]
        self._unsure.discard(name)
        self.rows[name] += rows
        return rows

    def _forget_visible(self, name: str, dataset: Any) -> None:
        # an interrupt or a lost answer may have come after a commit took effect: its rows must not go in again
        visible = {file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files}
        pending = []
        for receipt in self._pending[name]:
            if json.loads(receipt.fragments[0])["files"][0]["path"] in visible:
                self.rows[name] += receipt.rows
            else:
                pending.append(receipt)
        self._pending[name] = pending

    def _check_files(self, name: str, rows: int, fragments: Sequence[Any]) -> None:
        written = sum(fragment.num_rows for fragment in fragments)
        if written != rows:
            raise RuntimeError(f"receipts for table {name} promise {rows} rows and their fragments hold {written}")
        if not self._workspace.is_local:
            return
        folder = Path(self._workspace.table_uri(name)) / "data"
        for file in (file for fragment in fragments for file in fragment.files):
            if not (folder / file.path).exists():
                raise RuntimeError(f"{folder / file.path} is not there; a cluster needs a workspace all nodes share")

    def __enter__(self) -> "Committer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
