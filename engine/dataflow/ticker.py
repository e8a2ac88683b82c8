"""Commits, reports and prints once per second, even while the next lease is still being made."""

import threading
from collections.abc import Callable
from types import TracebackType

from engine.progress import Progress
from engine.store import Committer

TICK_SECONDS = 1.0


class Ticker:
    """A thread beside a fill; a failing task does not stop the others."""

    def __init__(
        self, committer: Committer, progress: Progress, renew: Callable[[], bool], maintain: Callable[[], None]
    ):
        self.guard = threading.Lock()
        """Held while the committer, the run's sums or the progress are used."""
        self._committer, self._progress = committer, progress
        self._renew, self._maintain = renew, maintain
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._maintaining: threading.Thread | None = None
        self._failure: BaseException | None = None

    def check(self) -> None:
        """Raises errors that end the run: commits that fail permanently, a workspace that another run took over."""
        if self._failure is not None:
            raise self._failure

    def tick(self) -> None:
        """One turn."""
        renewed = False
        with self.guard:
            if self._failure is None:
                try:
                    self._committer.maybe_commit()
                except Exception as error:  # `check` raises it in the run's own thread
                    self._failure = error
            self._progress.problem = self._committer.problem
            try:
                renewed = self._renew()
            except Exception as error:  # the next turn tries again, and the end of the run reports a permanent failure
                self._progress.problem = self._progress.problem or f"the run's row could not be renewed ({error})"
            self._progress.show()
        if renewed and not (self._maintaining and self._maintaining.is_alive()):
            # may take minutes, and needs nothing that the guard protects
            self._maintaining = threading.Thread(target=self._maintain, name="maintenance", daemon=True)
            self._maintaining.start()

    def _run(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self.tick()

    def __enter__(self) -> "Ticker":
        self._progress.show(force=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._maintaining:
            self._maintaining.join()
        self._progress.close()
        if self._failure is not None and kind is None:
            raise self._failure
