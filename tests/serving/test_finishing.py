"""What a batch has made is finished together, nobody's error is another's, and everybody learns the outcome."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engine.dataflow.rows import Row
from engine.images import decode_image
from engine.recipe import Recipe
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.finishing import Finished, Finisher
from engine.serving.orders import Order
from engine.serving.rows import Rows
from engine.sources import Made

CALLER = Caller("key", "a key")


def finished(seed: int, *, shared: bool = False) -> Finished:
    """An image of one colour, its seed."""
    recipe = Recipe(source="generative", dataset="served", class_index=0, class_name="", prompt="a", seed=seed)
    order = Order(CALLER, f"request {seed}", "/v1/images/generations", (recipe,), shared=shared)
    pixels = torch.full((3, 2, 2), seed, dtype=torch.uint8)
    return Finished(Row(0, recipe, Made(pixels=pixels), make_seconds=1.0), order, wait_seconds=0.5)


class Embedder:
    """Notes what it gets together, and can be held or refuse a colour."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.refused: int | None = None

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.gate.wait(60)
        colours = [int(image[0, 0, 0]) for image in images]
        self.calls.append(colours)
        if self.refused in colours:
            raise RuntimeError(f"refused {self.refused}")
        return {"embedding": np.array(colours, np.float32)[:, None]}


class Table:
    """Notes commits."""

    def __init__(self) -> None:
        self.commits: list[Rows] = []
        self.present: set[str] = set()
        self.fails = False

    async def __call__(self, rows: Rows) -> list[str]:
        if self.fails:
            raise ApiError(503, "the table cannot be written", code="store_failed")
        self.commits.append(rows)
        return [row.recipe.id for row in rows.rows if row.recipe.id in self.present]


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def table() -> Table:
    return Table()


def run(embedder: Embedder, table: Table, first: Finished, others: Sequence[Finished]) -> list[bool | BaseException]:
    """Outcomes of `first`, and of `others`, which come while the encoder is busy with it."""

    async def play() -> list[bool | BaseException]:
        with ThreadPoolExecutor(1) as threads:
            finisher = Finisher(embedder, table, threads, usd_per_second=2.0)
            embedder.gate.clear()
            tasks = [asyncio.ensure_future(finisher.finish(first))]
            await asyncio.to_thread(embedder.entered.wait, 60)
            tasks += [asyncio.ensure_future(finisher.finish(one)) for one in others]
            await asyncio.sleep(0)
            embedder.gate.set()
            return list(await asyncio.gather(*tasks, return_exceptions=True))

    return asyncio.run(play())


def test_what_comes_while_the_encoder_is_busy_is_embedded_and_committed_together(embedder: Embedder, table: Table):
    images = [finished(seed, shared=seed == 3) for seed in range(1, 6)]
    table.present = {images[2].row.recipe.id}
    assert run(embedder, table, images[0], images[1:]) == [False, False, True, False, False]
    assert embedder.calls == [[1], [2, 3, 4, 5]]
    assert [len(rows.rows) for rows in table.commits] == [1, 4]
    rows = table.commits[1]
    for number, image in enumerate(images[1:]):
        assert rows.rows[number] is image.row
        assert rows.columns["embedding"][number] == image.row.recipe.seed
        assert (decode_image(image.row.image().encoded) == image.row.recipe.seed).all()
        assert rows.requests[number]["image_id"] == image.row.recipe.id
        assert rows.requests[number]["usd"] == pytest.approx(2 * image.row.seconds)
        assert image.row.seconds > 1
        assert image.row.made.pixels is None
    assert rows.owners == ["key", None, "key", "key"]


def test_one_that_cannot_be_embedded_fails_alone(embedder: Embedder, table: Table):
    embedder.refused = 3
    outcomes = run(embedder, table, finished(1), [finished(seed) for seed in range(2, 6)])
    assert [type(one) for one in outcomes] == [bool, bool, RuntimeError, bool, bool]
    assert embedder.calls == [[1], [2, 3, 4, 5], [2], [3], [4], [5]]
    assert sorted(row.recipe.seed for rows in table.commits for row in rows.rows) == [1, 2, 4, 5]


def test_a_failed_commit_is_everybodys(embedder: Embedder, table: Table):
    table.fails = True
    outcomes = run(embedder, table, finished(1), [finished(2), finished(3)])
    assert [getattr(one, "code", None) for one in outcomes] == ["store_failed"] * 3
