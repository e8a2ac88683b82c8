"""Commits that land once, and under the workspace's lock only on top of this run's own last version of a table."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.failures import RunFailed
from engine.store.durable import sync_commit

FENCED = ("images", "errors", "runs", "ledger")
"""Tables to which only the owner of the lock commits."""
HARMLESS = ("CreateIndex", "Rewrite", "BaseOperation")
"""Transactions by others that change no row: indices, merged files, and `BaseOperation`, which reserves file numbers.
One may end just after another run took over."""
BARRIER_TRIES = 200
TOKEN_KEY = "imagefoundry.fence"
"""Key in a table's schema metadata: the fencing token of the run that raised the newest barrier."""


class WorkspaceLost(RunFailed):
    """Another writer committed to a table whose lock this run holds; this run must not commit any more."""


class Fence:
    """The last version of one table that this run committed; every commit goes on top of it, or fails.

    Creating a fence commits a barrier with the run's fencing token, so an unfinished commit by an earlier owner of the lock
    fails, and so does that owner's attempt to raise a barrier of its own. Raises WorkspaceLost if the table has a later token.
    """

    def __init__(self, uri: str, dataset: Any, token: int) -> None:
        self._uri = uri
        self._mutex = threading.RLock()
        self._tried: set[str] = set()
        self._landed: set[str] = set()
        self._dataset = raise_barrier(uri, dataset, token)

    @property
    def version(self) -> int:
        """The table's version after this run's last commit."""
        with self._mutex:
            return int(self._dataset.version)

    @property
    def dataset(self) -> Any:
        """The table as this run's last commit left it, a `lance.LanceDataset`."""
        with self._mutex:
            return self._dataset

    def check(self) -> None:
        """Raises WorkspaceLost if another run has committed."""
        with self._mutex:
            self._catch_up()

    def commit(self, transaction: Any) -> None:
        """Commits a transaction on top of the run's last version; one that has landed is not committed again.

        After an exception, call it again with the same transaction: the commit may have taken effect.
        Raises WorkspaceLost if another run has committed, and Lance's exceptions if the store fails.
        """
        import lance

        with self._mutex:
            self._catch_up()
            if transaction.uuid in self._landed:
                return
            transaction = replace(transaction, read_version=self._dataset.version)
            self._tried.add(transaction.uuid)
            try:
                after = lance.LanceDataset.commit(self._dataset, transaction, max_retries=0)
            except Exception:
                self._catch_up()
                if transaction.uuid not in self._landed:
                    raise
            else:
                if after.version == self._dataset.version + 1:
                    self._landed.add(transaction.uuid)
                    self._dataset = after
                else:
                    self._catch_up()
            _sync(self._dataset, transaction)

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """The table at the run's last version, for a block that changes it through Lance; its commits count as the run's."""
        with self._mutex:
            self._catch_up()
            try:
                yield self._dataset
            finally:
                latest = self._dataset.latest_version
                for version in range(self._dataset.version + 1, latest + 1):
                    if _is(self._transaction(version), "Append", "Overwrite", "Restore", "Project"):
                        raise self._lost()
                self._dataset = self._dataset.checkout_version(latest)

    def _catch_up(self) -> None:
        """Finds commits that took effect although their answer was lost."""
        latest = self._dataset.latest_version
        for version in range(self._dataset.version + 1, latest + 1):
            transaction = self._transaction(version)
            if transaction.uuid in self._tried - self._landed:
                self._landed.add(transaction.uuid)
            elif not _is(transaction, *HARMLESS):
                raise self._lost()
        if latest != self._dataset.version:
            self._dataset = self._dataset.checkout_version(latest)

    def _transaction(self, version: int) -> Any:
        try:
            transaction = self._dataset.read_transaction(version)
        except (OSError, ValueError) as error:
            if "not found" in str(error):  # a later run has cleaned it up
                raise self._lost() from error
            raise
        if transaction is None:
            raise self._lost()
        return transaction

    def _lost(self) -> WorkspaceLost:
        return lost(self._uri)


def token_of(dataset: Any) -> int:
    """The fencing token in a version of a table; 0 if no run with a token has written to it."""
    return int((dataset.schema.metadata or {}).get(TOKEN_KEY.encode(), b"0"))


def raise_barrier(uri: str, dataset: Any, token: int) -> Any:
    """Commits a barrier that changes no row but blocks earlier unfinished appends; returns the table after it.

    `Project` onto the same columns does this, and puts the token into the version that it makes. It fails after a concurrent
    commit, so the token is compared and set in one step. Raises WorkspaceLost if the table has a later token.
    """
    import lance

    for _ in range(BARRIER_TRIES):
        dataset = dataset.checkout_version(dataset.latest_version)
        if (found := token_of(dataset)) >= token:
            if found == token:  # an earlier try took effect although its answer was lost
                return dataset
            raise lost(uri)
        schema = _with_token(dataset.lance_schema, token)
        transaction = lance.Transaction(dataset.version, lance.LanceOperation.Project(schema))
        try:
            projected = lance.LanceDataset.commit(dataset, transaction, max_retries=0)
        except Exception:
            if dataset.latest_version == dataset.version:
                raise  # the store failed; otherwise another writer came in between
        else:
            _sync(projected, transaction)
            return projected
    fix = "stop the process that writes to it without the lock"
    raise ValueError(f"another process commits to workspace {uri} without pause; {fix}")


def _with_token(schema: Any, token: int) -> Any:
    # the only way to change the metadata and keep the numbers of the fields: what a schema is pickled from
    build, (metadata, *fields) = schema.__reduce__()
    return build(json.dumps(json.loads(metadata) | {TOKEN_KEY: list(str(token).encode())}), *fields)


def lost(uri: str) -> WorkspaceLost:
    """The error of a run whose workspace was taken over by another run."""
    return WorkspaceLost(f"another run took over workspace {uri}; start this run again to resume it")


def commit_unfenced(dataset: Any, transaction: Any, rows: int) -> None:
    """Commits a transaction that adds `rows` rows without a fence: once, on top of the newest version.

    Raises WorkspaceLost if the table does not grow by exactly these rows.
    """
    import lance

    versions = range(transaction.read_version + 1, dataset.latest_version + 1)
    if any(_uuid(dataset, version) == transaction.uuid for version in versions):
        return
    before = dataset.count_rows()
    committed = lance.LanceDataset.commit(dataset, transaction)
    if (after := committed.count_rows()) != before + rows:
        name = Path(dataset.uri).stem
        found = f"table {name} went from {before} to {after} rows in a commit of {rows}"
        raise WorkspaceLost(f"{found}, so another process writes to it; stop that process, or hold the lock")
    _sync(committed, transaction)


def _is(transaction: Any, *names: str) -> bool:
    return type(transaction.operation).__name__ in names


def _uuid(dataset: Any, version: int) -> str:
    transaction = dataset.read_transaction(version)
    return "" if transaction is None else str(transaction.uuid)


def _sync(dataset: Any, transaction: Any) -> None:
    if "://" not in dataset.uri:
        sync_commit(Path(dataset.uri), dataset.version, transaction)
