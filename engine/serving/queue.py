"""The batching queue of one generator: images wait, compatible ones are made together, and nobody's error is another's."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.faults import DeviceFault
from engine.models.generator import Stopped
from engine.recipe import Recipe
from engine.serving.batch_sizes import BatchSizes
from engine.serving.errors import ApiError
from engine.sources import Made
from engine.sources.make import BatchFailed, make_together

if TYPE_CHECKING:
    import torch

    from engine.models import DiffusionGenerator


@dataclass(eq=False)
class Job:
    """One image that waits to be made."""

    recipe: Recipe
    reference: np.ndarray | None = None
    """uint8 `[H, W, 3]`, if the recipe names one."""
    previews: int = 0
    """Previews that are wanted."""
    on_start: Callable[[], None] = lambda: None
    on_preview: Callable[[int, np.ndarray], None] = lambda index, pixels: None
    """Called with the number of the preview and its pixels, uint8 `[h, w, 3]`."""
    is_cancelled: bool = False
    """Whether nobody wants it any more. It is dropped before its batch; a batch of such images alone ends after a step."""
    queued_at: float = 0.0
    wait_seconds: float = 0.0
    """Time in the queue."""
    result: "Future[Done]" = field(default_factory=Future)


@dataclass(frozen=True)
class Done:
    """The outcome of a job."""

    made: Made
    seconds: float
    """Busy seconds of the device: the job's share of its batch."""


@dataclass
class Counts:
    """What a queue has done, for `/metrics`."""

    batches: int = 0
    images: int = 0
    errors: int = 0
    cancelled: int = 0
    busy_seconds: float = 0.0
    wait_seconds: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict)


class BatchQueue:
    """Makes the jobs of one generator in a thread of its own.

    The group with the oldest job comes first; a group holds the jobs whose recipes may share a batch. Failing batches are
    repeated one by one, so that only the cause fails.
    """

    def __init__(
        self,
        generator: "DiffusionGenerator",
        *,
        max_batch: int,
        max_waiting: int,
        max_wait_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.most = min(max_batch, generator.adapter.max_batch or max_batch)
        """Images per batch, at most."""
        self.sizes = BatchSizes(self.most)
        self.counts = Counts()
        self.fault: Exception | None = None
        """Why no further job can be made; the process has to be replaced."""
        self._generator, self._clock = generator, clock
        self._max_waiting, self._max_wait_seconds = max_waiting, max_wait_seconds
        self._groups: dict[Hashable, list[Job]] = {}
        self._changed = threading.Condition()
        self._running: list[Job] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Images in the queue that somebody wants."""
        return sum(not job.is_cancelled for jobs in self._groups.values() for job in jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Adds jobs, all or none.

        Raises:
            ApiError: 503 if the queue is full, or if it can make no images any more.
        """
        with self._changed:
            if self._is_closed or self.fault:
                raise ApiError(503, "this process is stopping; try again", code="stopping", retry_after=1)
            if self.num_waiting + len(jobs) > self._max_waiting:
                seconds = self._eta(self._max_waiting, jobs[0].recipe)
                raise ApiError(
                    503, "the queue is full; try again later", code="queue_full", retry_after=min(seconds, 30)
                )
            for job in jobs:
                job.queued_at = self._clock()
                self._groups.setdefault(self._generator.batch_key(job.recipe), []).append(job)
            self._changed.notify_all()

    def place(self, job: Job) -> tuple[int, float]:
        """Images that were queued before the job, and the estimated seconds until it is made."""
        with self._changed:
            ahead = sum(
                other.queued_at < job.queued_at and not other.is_cancelled
                for jobs in self._groups.values()
                for other in jobs
            )
        return ahead, self._eta(ahead + len(self._running), job.recipe)

    def _eta(self, ahead: int, recipe: Recipe) -> float:
        kind = self._kind(recipe)
        size = self.sizes.choose(kind, ahead + 1)
        return (self.sizes.seconds(kind, size) or 1.0) * (1 + ahead // size)

    def close(self) -> None:
        """Refuses further jobs, makes those that wait, and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def warm_up(self, recipe: Recipe) -> None:
        """Measures each batch size once, with copies of a recipe without a reference."""
        for size in self.sizes.sizes(self._kind(recipe)):
            for _ in range(2 if size == 1 else 1):  # the very first batch also loads and compiles
                jobs = [Job(recipe) for _ in range(size)]
                self._make(jobs, size)
        self.counts = Counts()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._groups and not self._is_closed:
                    self._changed.wait()
                if not self._groups:
                    return
                jobs, size = self._take()
                self._running = jobs
            try:
                if jobs:
                    self._make(jobs, size)
            except Exception as error:  # a fault of the device, or of this code: no job may wait forever
                self._break(error, jobs)
                return
            finally:
                self._running = []

    def _take(self) -> tuple[list[Job], int]:
        """The next batch and its size, from the group with the oldest job; those who waited in vain are answered."""
        now = self._clock()
        for key, waiting in list(self._groups.items()):
            kept = []
            for job in waiting:
                if job.is_cancelled:
                    self._finish(job, ApiError(499, "the request was cancelled", code="cancelled"))
                elif now - job.queued_at > self._max_wait_seconds:
                    message = f"the image waited longer than {self._max_wait_seconds:g} s; try again later"
                    self._finish(job, ApiError(503, message, code="queue_timeout", retry_after=5))
                else:
                    kept.append(job)
            if kept:
                self._groups[key] = kept
            else:
                del self._groups[key]
        if not self._groups:
            return [], 0
        key = min(self._groups, key=lambda key: self._groups[key][0].queued_at)
        group = self._groups[key]
        size = self.sizes.choose(self._kind(group[0].recipe), len(group))
        jobs, rest = group[:size], group[size:]
        if rest:
            self._groups[key] = rest
        else:
            del self._groups[key]
        for job in jobs:
            job.wait_seconds = now - job.queued_at
            self.counts.wait_seconds += job.wait_seconds
            job.on_start()
        return jobs, size

    def _kind(self, recipe: Recipe) -> Hashable:
        mode = recipe.reference_mode if recipe.reference_id else ""
        return recipe.height, recipe.width, recipe.num_inference_steps, mode

    def _make(self, jobs: list[Job], size: int) -> None:
        generator, kind = self._generator, self._kind(jobs[0].recipe)
        references = {job.recipe.reference_id: job.reference for job in jobs if job.reference is not None}
        generator.batch_size = size
        watch = _Watch(jobs, generator, self._clock)
        started = self._clock()
        try:
            made = make_together(generator, [job.recipe for job in jobs], references, watch)
        except BatchFailed:
            self.counts.busy_seconds += self._clock() - started
            for job in jobs:
                self._make([job], 1)
            return
        except Stopped:
            self.counts.busy_seconds += self._clock() - started
            for job in jobs:
                self._finish(job, ApiError(499, "the request was cancelled", code="cancelled"))
            return
        seconds = self._clock() - started
        if generator.batch_size < size:  # the device ran out of memory
            self.sizes.limit(kind, generator.batch_size)
        elif not any(one.reason for one in made):
            self.sizes.record(kind, size, seconds)
        counts = self.counts
        counts.batches += 1
        counts.busy_seconds += seconds
        counts.steps += watch.steps
        counts.step_seconds += watch.seconds
        counts.batch_sizes[len(jobs)] = counts.batch_sizes.get(len(jobs), 0) + 1
        for job, one in zip(jobs, made, strict=True):
            counts.images += not one.reason
            counts.errors += bool(one.reason)
            self._finish(job, Done(one, seconds / len(jobs)))

    def _finish(self, job: Job, outcome: "Done | ApiError") -> None:
        if isinstance(outcome, Done):
            job.result.set_result(outcome)
        else:
            self.counts.cancelled += outcome.code == "cancelled"
            job.result.set_exception(outcome)

    def _break(self, error: Exception, jobs: list[Job]) -> None:
        """Answers every job with 503, so that the ingress sends it to another process."""
        with self._changed:
            self.fault = (
                error if isinstance(error, DeviceFault) else RuntimeError(f"the batching queue failed: {error!r}")
            )
            waiting = [job for group in self._groups.values() for job in group]
            self._groups = {}
        for job in (*jobs, *waiting):
            if not job.result.done():
                self._finish(job, ApiError(503, "this process failed; try again", code="process_failed", retry_after=1))


class _Watch:
    """Called after each sampler step of a batch: stops it when nobody wants it, and shows previews."""

    def __init__(self, jobs: Sequence[Job], generator: "DiffusionGenerator", clock: Callable[[], float]):
        self._jobs, self._generator, self._clock = jobs, generator, clock
        self._last = clock()
        self._given = [0] * len(jobs)
        self.steps = 0
        self.seconds = 0.0
        """Seconds of these steps."""

    def __call__(self, step: int, latents: "torch.Tensor") -> None:
        self.steps += 1
        self.seconds += self._clock() - self._last
        if all(job.is_cancelled for job in self._jobs):
            raise Stopped
        recipe = self._jobs[0].recipe
        due = [row for row, job in enumerate(self._jobs) if self._is_due(row, job, step, recipe)]
        if due and len(latents) >= len(self._jobs):
            shown: Any = self._generator.preview(latents, recipe)
            for row in due if shown is not None else ():
                self._jobs[row].on_preview(self._given[row], shown[row].permute(1, 2, 0).cpu().numpy())
                self._given[row] += 1
        self._last = self._clock()

    def _is_due(self, row: int, job: Job, step: int, recipe: Recipe) -> bool:
        """Previews are spread evenly over the steps; the last step has none, since the image follows."""
        number = self._given[row]
        if job.is_cancelled or number >= job.previews:
            return False
        return step < recipe.num_inference_steps and step * (job.previews + 1) >= recipe.num_inference_steps * (
            number + 1
        )
