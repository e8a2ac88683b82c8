"""Workers that outlive a fill: the next one with the same maker and stages finds their models loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.dataflow.pool import Pool
from engine.dataflow.resources import Ask
from engine.dataflow.worker import WorkerJob


class KeptWorkers:
    """The idle workers of a run between two fills; a context manager that ends them."""

    def __init__(self, is_on: bool):
        self._is_on = is_on
        self._of: tuple[WorkerJob, Ask] | None = None
        self._slots: list[Any] = []
        self._sizes: Any = None

    def __enter__(self) -> "KeptWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the workers, so that others find room."""
        slots, self._slots = self._slots, []
        if slots:
            import ray

            for slot in slots:
                ray.kill(slot.actor)

    @contextmanager
    def lent(self, pool: Pool, job: WorkerJob, ask: Ask) -> Iterator[None]:
        """Lends the workers to a pool if they fit its job, ends them if not; takes those that are idle at its end."""
        if self._of != (job, ask):
            self.end()
        if not self._is_on:
            yield
            return
        slots, self._slots = self._slots, []
        pool.adopt(slots, self._sizes)
        yield
        self._slots, self._sizes = pool.release()
        self._of = job, ask
