"""`Finisher`: the images of a batch are embedded, encoded and committed together, while the device makes the next batch."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.dataflow.rows import Row
from engine.images import PNG
from engine.serving.orders import Order
from engine.serving.rows import Rows, request_row
from engine.sources import encode_generated


@dataclass(eq=False)
class Finished:
    """An image whose pixels are made, and the order that asked for it."""

    row: Row
    order: Order
    wait_seconds: float


class Finisher:
    """Takes what is finished while it is busy, and goes on with all of it at once: one call of the encoder, one commit."""

    def __init__(
        self,
        embed: Callable[[Sequence[np.ndarray]], dict[str, np.ndarray]],
        commit: Callable[[Rows], Awaitable[list[str]]],
        threads: Executor,
        usd_per_second: float,
    ):
        """`embed`: uint8 `[H, W, 3]` arrays to embedding column → `[N, D] float32`; runs in `threads`. `commit`: returns the ids
        that the table had already. `usd_per_second`: price of the device."""
        self._embed, self._commit, self._threads = embed, commit, threads
        self._usd_per_second = usd_per_second
        self._waiting: list[tuple[Finished, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None
        self._commits: set[asyncio.Task[None]] = set()

    async def finish(self, image: Finished) -> bool:
        """Embeds, encodes and commits an image; returns whether the table had it already. Raises ApiError if the store fails."""
        landed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, landed))
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._go_on())
        return await landed

    async def _go_on(self) -> None:
        together = True
        while self._waiting:
            num = len(self._waiting) if together else 1
            taken, self._waiting = self._waiting[:num], self._waiting[num:]
            loop = asyncio.get_running_loop()
            try:
                rows = await loop.run_in_executor(self._threads, self._finish, [image for image, _ in taken])
            except Exception as error:
                if num > 1:  # only the cause of it may fail
                    together, self._waiting = False, taken + self._waiting
                else:
                    _fail(taken, error)
                continue
            commit = asyncio.ensure_future(self._land(rows, taken))
            self._commits.add(commit)
            commit.add_done_callback(self._commits.discard)

    async def _land(self, rows: Rows, taken: "Sequence[tuple[Finished, asyncio.Future[bool]]]") -> None:
        try:
            present = set(await self._commit(rows))
        except Exception as error:
            _fail(taken, error)
            return
        for image, landed in taken:
            if not landed.done():
                landed.set_result(image.row.recipe.id in present)

    def _finish(self, images: Sequence[Finished]) -> Rows:
        pixels = [image.row.made.pixels.permute(1, 2, 0).cpu().numpy() for image in images]  # type: ignore[union-attr]
        started = time.perf_counter()
        columns = self._embed(pixels)
        seconds = (time.perf_counter() - started) / len(images)
        for image, shown in zip(images, pixels, strict=True):
            image.row.stage_seconds = {"embed": seconds}
            image.row.stored, _ = encode_generated(shown, PNG)
        for image in images:
            image.row.made.pixels = None
        return Rows(
            [image.row for image in images],
            columns,
            [None if image.order.shared else image.order.caller.key_id for image in images],
            [self._request(image) for image in images],
        )

    def _request(self, image: Finished) -> dict[str, Any]:
        seconds = image.row.seconds
        usd = seconds * self._usd_per_second
        return request_row(image.order, image.row.recipe.id, True, image.wait_seconds, seconds, usd)


def _fail(taken: "Sequence[tuple[Finished, asyncio.Future[bool]]]", error: Exception) -> None:
    for _, landed in taken:
        if not landed.done():
            landed.set_exception(error)
