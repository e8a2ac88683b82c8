"""One committer makes the rows of workers visible; uncommitted work leaves no row."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.failures import RunFailed
from engine.store.fence import WorkspaceLost
from engine.store.receipts import Receipt

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

COMMITTED = ("images", "errors", "captions", "caption_parts")
"""Tables that take receipts, in the order of their commits: a part is done only when its captions are there."""
MAX_FAILED_COMMITS = 8
"""Consecutive failed commits before a run gives up; the waits between them are 1, 2, 4, … seconds."""
LONGEST_WAIT_SECONDS = 30.0
FLUSH_TRIES = 4

TRANSIENT = (OSError, RuntimeError, ValueError)
"""Exceptions of Lance and Arrow for a failing store; all others are errors in the program."""

sleep = time.sleep


class CommitFailed(RunFailed):
    """The store refused every attempt to commit; the next run makes the uncommitted rows again."""


class Committer:
    """Collects receipts and commits them every few seconds, and the rest when its block ends, however it ends.

    Each index of a plan of `num_planned` recipes is accepted once, as an image or an error; a second receipt is refused.
    """

    def __init__(
        self,
        workspace: "Workspace",
        num_planned: int = 0,
        every_seconds: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._every_seconds = every_seconds
        self._clock = clock
        self._accepted = np.zeros(int(num_planned), bool)
        self._pending: dict[str, list[Receipt]] = {name: [] for name in COMMITTED}
        self._attempts: dict[str, tuple[Any, list[Receipt]]] = {}
        self._due_at = clock() + every_seconds
        self._failures = 0
        self._waiting_since: float | None = None
        self.rows: dict[str, int] = dict.fromkeys(COMMITTED, 0)
        """Number of rows made visible so far, by table."""
        self.refused = 0
        """Receipts refused because one of their indices was already accepted."""
        self.problem = ""
        """Why the last commit failed, in one sentence; empty if it succeeded."""

    def add(self, receipt: Receipt) -> list[int]:
        """Takes a receipt; its rows become visible with the next commit. Returns [] if it is accepted.

        A receipt that names an accepted index is refused as a whole, and its other indices are returned, to be made
        again. A receipt without indices is always accepted.
        """
        if receipt.indices:
            indices = np.asarray(receipt.indices, np.int64)
            assert len(indices) == receipt.rows == len(np.unique(indices)), "one index for each row, each once"
            assert indices.max() < len(self._accepted), "an index outside the plan"
            known = self._accepted[indices]
            if known.any():
                self.refused += 1
                again: list[int] = indices[~known].tolist()
                return again
            self._accepted[indices] = True
        if receipt.rows:
            self._pending[receipt.table_name].append(receipt)
            self._waiting_since = self._clock() if self._waiting_since is None else self._waiting_since
        return []

    @property
    def lag_seconds(self) -> float:
        """Seconds that the oldest receipt has waited for its commit; 0 if none waits."""
        return 0.0 if self._waiting_since is None else self._clock() - self._waiting_since

    def missing(self, expected: np.ndarray) -> np.ndarray:
        """Returns the plan indices among `expected` `[N] int64` that no accepted receipt names, in their order."""
        rest: np.ndarray = expected[~self._accepted[expected]]
        return rest

    def maybe_commit(self) -> int:
        """Commits if a commit is due; returns the number of rows made visible.

        A failed commit is retried later, together with newer receipts, and `problem` says why it failed.
        Raises CommitFailed after `MAX_FAILED_COMMITS` failures in a row, WorkspaceLost if another run took over.
        """
        if self._clock() < self._due_at:
            return 0
        before = sum(self.rows.values())
        try:
            self._commit_all()
        except (CommitFailed, WorkspaceLost):
            raise
        except TRANSIENT as error:
            self._failed(error)
            if self._failures >= MAX_FAILED_COMMITS:
                raise self._give_up() from error
        return sum(self.rows.values()) - before

    def flush(self) -> int:
        """Commits everything pending, in a few attempts; returns the number of rows made visible.

        Raises CommitFailed if all attempts fail or a receipt is invalid, WorkspaceLost if another run took over.
        """
        before = sum(self.rows.values())
        for left in reversed(range(FLUSH_TRIES)):
            try:
                self._commit_all()
                break
            except (CommitFailed, WorkspaceLost):
                raise
            except TRANSIENT as error:
                self._failed(error)
                if not left:
                    raise self._give_up() from error
                sleep(2.0 ** (FLUSH_TRIES - 1 - left))
        return sum(self.rows.values()) - before

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self.problem = f"cannot commit to workspace {self._workspace.uri}: {(str(error).splitlines() or [''])[0][:300]}"
        self._due_at = self._clock() + min(2.0 ** (self._failures - 1), LONGEST_WAIT_SECONDS)

    def _give_up(self) -> CommitFailed:
        fix = "see that the store can be written to and start this run again to resume it"
        return CommitFailed(f"{self.problem} ({self._failures} times in a row); {fix}")

    def _commit_all(self) -> None:
        self._workspace.check_lock()
        for name in list(self._attempts):
            self._finish(name)
        for name in [name for name, receipts in self._pending.items() if receipts]:
            self._begin(name)
            self._finish(name)
        self._failures = 0
        self._waiting_since = None
        self.problem = ""
        self._due_at = self._clock() + self._every_seconds

    def _begin(self, name: str) -> None:
        import lance

        receipts = self._pending[name]
        fragments = [lance.FragmentMetadata.from_json(text) for receipt in receipts for text in receipt.fragments]
        self._check_fragments(name, sum(receipt.rows for receipt in receipts), fragments)
        version = self._workspace.dataset(name).version
        transaction = lance.Transaction(version, lance.LanceOperation.Append(fragments))
        self._attempts[name] = (transaction, list(receipts))

    def _finish(self, name: str) -> None:
        # its receipts belong to this transaction, which lands once, despite retries and interrupts
        transaction, receipts = self._attempts[name]
        taken = {id(receipt) for receipt in receipts}
        self._pending[name] = [receipt for receipt in self._pending[name] if id(receipt) not in taken]
        rows = sum(receipt.rows for receipt in receipts)
        self._workspace.append(name, transaction, rows)
        del self._attempts[name]
        self.rows[name] += rows

    def _check_fragments(self, name: str, rows: int, fragments: list[Any]) -> None:
        written = sum(fragment.num_rows for fragment in fragments)
        if written != rows:
            raise CommitFailed(f"receipts for table {name} promise {rows} rows and their fragments hold {written}")
        if not self._workspace.is_local:
            return
        folder = Path(self._workspace.table_uri(name)) / "data"
        for file in (file for fragment in fragments for file in fragment.files):
            if not (folder / file.path).exists():
                raise CommitFailed(f"{folder / file.path} is not there; a cluster needs a workspace all nodes share")

    def __enter__(self) -> "Committer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, WorkspaceLost):
            self.flush()
