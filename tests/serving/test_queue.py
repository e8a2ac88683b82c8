"""The batching queue: what is batched, in which order, and whose error is whose."""

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.models.faults import DeviceFault
from engine.recipe import Recipe
from engine.serving.errors import ApiError
from engine.serving.queue import BatchQueue, Done, Job
from tests.serving.helpers import Clock

STEPS = 4


class Painter:
    """Stands in for a generator: notes its batches, paints the seed, and can be held, fail or fill the memory."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.sizes: list[int] = []
        self.batch_size = 1
        self.dtype, self.device = "float32", "cpu"
        self.spec = SimpleNamespace(name="painter")
        self.adapter = SimpleNamespace(max_batch=None)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fails: Callable[[Sequence[Recipe]], None] = lambda recipes: None
        self.steps = 0

    def batch_key(self, recipe: Recipe) -> Any:
        return recipe.height, recipe.num_inference_steps

    def sample(self, recipes: Sequence[Recipe], references: Any, on_step: Any = None) -> torch.Tensor:
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append([recipe.seed for recipe in recipes])
        self.sizes.append(self.batch_size)
        self.fails(recipes)
        latents = torch.zeros(self.batch_size, 4, 2, 2)
        for step in range(1, recipes[0].num_inference_steps + 1):
            self.steps += 1
            if on_step:
                on_step(step, latents)
        return torch.stack([torch.full((3, 2, 2), recipe.seed / 255) for recipe in recipes])

    def preview(self, latents: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        rows = torch.arange(len(latents), dtype=torch.uint8)
        return rows.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def recipe(seed: int, **more: Any) -> Recipe:
    values = {"height": 2, "width": 2, "num_inference_steps": STEPS, "prompt": "a", "seed": seed}
    return Recipe(source="generative", dataset="served", class_index=0, class_name="", **values | more)


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(painter: Painter, clock: Clock) -> Iterator[BatchQueue]:
    found = BatchQueue(painter, max_batch=4, max_waiting=16, max_wait_seconds=60, clock=clock)  # type: ignore[arg-type]
    yield found
    painter.gate.set()
    found.close()


def held(queue: BatchQueue, painter: Painter) -> Job:
    """A job that occupies the device until `painter.gate` is set."""
    painter.gate.clear()
    painter.entered.clear()
    job = Job(recipe(99, height=64))
    queue.submit([job])
    assert painter.entered.wait(60)
    return job


def done(job: Job) -> Done:
    return job.result.result(60)


def test_images_that_match_are_made_together_and_each_is_its_own(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(4)]
    queue.submit(jobs)
    painter.gate.set()
    assert [int(done(job).made.pixels[0, 0, 0]) for job in jobs] == [0, 1, 2, 3]
    assert painter.batches == [[99], [0, 1, 2, 3]]
    assert [done(job).made.batch_size for job in jobs] == [4] * 4


def test_what_must_match_is_never_mixed_and_the_oldest_comes_first(queue: BatchQueue, painter: Painter, clock: Clock):
    held(queue, painter)
    jobs = []
    for seed, steps in ((1, 4), (2, 8), (3, 4), (4, 8)):
        clock.wait(1)
        jobs.append(Job(recipe(seed, num_inference_steps=steps)))
        queue.submit(jobs[-1:])
    painter.gate.set()
    for job in jobs:
        done(job)
    assert painter.batches == [[99], [1, 3], [2, 4]]


def test_no_batch_is_larger_than_the_limit(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(9)]
    queue.submit(jobs)
    painter.gate.set()
    for job in jobs:
        done(job)
    assert max(len(batch) for batch in painter.batches) <= 4


def test_a_poisoned_image_fails_alone(queue: BatchQueue, painter: Painter):
    def poisoned(recipes: Sequence[Recipe]) -> None:
        if any(one.seed == 2 for one in recipes):
            raise RuntimeError("poison")

    painter.fails = poisoned
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(4)]
    queue.submit(jobs)
    painter.gate.set()
    assert [done(job).made.reason for job in jobs] == ["", "", "RuntimeError: poison", ""]
    assert [done(job).made.batch_size for job in jobs if not done(job).made.reason] == [1, 1, 1]


def test_a_batch_that_nobody_wants_ends_after_a_step(queue: BatchQueue, painter: Painter):
    first = held(queue, painter)
    first.is_cancelled = True
    painter.gate.set()
    with pytest.raises(ApiError) as caught:
        first.result.result(60)
    assert caught.value.code == "cancelled"
    assert painter.steps == 1
    after = Job(recipe(1))
    queue.submit([after])
    assert done(after).made.reason == ""


def test_a_cancelled_image_is_not_made_and_its_companions_are(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(3)]
    queue.submit(jobs)
    jobs[1].is_cancelled = True
    painter.gate.set()
    assert [done(job).made.reason for job in (jobs[0], jobs[2])] == ["", ""]
    assert painter.batches[1:] == [[0, 2]]
    with pytest.raises(ApiError):
        jobs[1].result.result(60)


def test_one_cancelled_member_does_not_stop_a_living_batch(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(2)]
    started = threading.Event()
    jobs[0].on_start = started.set
    real = painter.preview

    def cancel(latents: torch.Tensor, one: Recipe) -> torch.Tensor:
        jobs[0].is_cancelled = True
        return real(latents, one)

    jobs[1].previews, painter.preview = 1, cancel  # type: ignore[method-assign]
    queue.submit(jobs)
    painter.gate.set()
    assert done(jobs[1]).made.reason == ""
    assert painter.steps == 2 * STEPS


def test_a_full_queue_says_when_to_come_again(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    queue.submit([Job(recipe(seed)) for seed in range(16)])
    with pytest.raises(ApiError) as caught:
        queue.submit([Job(recipe(100))])
    assert (caught.value.status, caught.value.code) == (503, "queue_full")
    assert caught.value.retry_after is not None
    assert queue.num_waiting == 16


def test_an_order_is_taken_whole_or_not_at_all(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    queue.submit([Job(recipe(seed)) for seed in range(15)])
    with pytest.raises(ApiError):
        queue.submit([Job(recipe(seed)) for seed in (100, 101)])
    assert queue.num_waiting == 15


def test_cancelled_images_take_no_place(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    jobs = [Job(recipe(seed)) for seed in range(16)]
    queue.submit(jobs)
    jobs[0].is_cancelled = True
    queue.submit([Job(recipe(100))])


def test_who_waited_too_long_is_told(queue: BatchQueue, painter: Painter, clock: Clock):
    held(queue, painter)
    late, fresh = Job(recipe(1)), Job(recipe(2))
    queue.submit([late])
    clock.wait(61)
    queue.submit([fresh])
    painter.gate.set()
    with pytest.raises(ApiError) as caught:
        late.result.result(60)
    assert caught.value.code == "queue_timeout"
    assert done(fresh).made.reason == ""


def test_a_device_fault_answers_everybody_and_ends_the_process(queue: BatchQueue, painter: Painter):
    def fault(recipes: Sequence[Recipe]) -> None:
        raise DeviceFault("cuda", "an illegal memory access")

    first = held(queue, painter)
    waiting = Job(recipe(1))
    queue.submit([waiting])
    painter.fails = fault
    painter.gate.set()
    for job in (first, waiting):
        with pytest.raises(ApiError) as caught:
            job.result.result(60)
        assert caught.value.code == "process_failed"
    assert isinstance(queue.fault, DeviceFault)
    with pytest.raises(ApiError):
        queue.submit([Job(recipe(2))])


def test_previews_are_spread_over_the_steps_and_are_the_images_own(queue: BatchQueue, painter: Painter):
    held(queue, painter)
    seen: list[tuple[int, int, int]] = []
    jobs = []
    for row, number in enumerate((0, 3)):

        def show(index: int, pixels: np.ndarray, row: int = row) -> None:
            seen.append((row, index, int(pixels[0, 0, 0])))

        jobs.append(Job(recipe(row), previews=number, on_preview=show))
    queue.submit(jobs)
    painter.gate.set()
    done(jobs[1])
    assert seen == [(1, 0, 1), (1, 1, 1), (1, 2, 1)]


def test_the_place_in_the_queue(queue: BatchQueue, painter: Painter, clock: Clock):
    held(queue, painter)
    jobs = []
    for seed in range(3):
        clock.wait(1)
        jobs.append(Job(recipe(seed)))
        queue.submit(jobs[-1:])
    assert [queue.place(job)[0] for job in jobs] == [0, 1, 2]
    assert all(queue.place(job)[1] > 0 for job in jobs)


def test_warming_up_measures_every_size(painter: Painter):
    queue = BatchQueue(painter, max_batch=8, max_waiting=16, max_wait_seconds=60)  # type: ignore[arg-type]
    queue.warm_up(recipe(0))
    kind = queue._kind(recipe(0))
    assert set(painter.sizes) == {1, 2, 4, 8}
    assert all(queue.sizes.seconds(kind, size) is not None for size in (1, 2, 4, 8))
    assert queue.counts.batches == 0
    queue.close()


def test_closing_makes_what_waits(painter: Painter):
    queue = BatchQueue(painter, max_batch=4, max_waiting=16, max_wait_seconds=60)  # type: ignore[arg-type]
    jobs = [Job(recipe(seed)) for seed in range(6)]
    queue.submit(jobs)
    queue.close()
    assert all(job.result.done() for job in jobs)
    with pytest.raises(ApiError) as caught:
        queue.submit([Job(recipe(9))])
    assert caught.value.code == "stopping"
