"""A plan and a maker without a model, and ways for them to fail."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.dataflow import stages
from engine.recipe import Recipe
from engine.sources import Made


@dataclass(frozen=True)
class PaintPlan:
    """`num` flat pictures."""

    num: int

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Recipe:
        return Recipe(
            source="generative",
            dataset="paint",
            class_index=index % 3,
            class_name="colour",
            prompt="paint",
            generator="paint",
            seed=index,
        )


@dataclass
class PaintMaker:
    """Paints each seed's colour."""

    rows_per_call: int = 4
    gpus_per_actor: float = 0.25
    seconds_per_call: float = 0.0
    bad_seeds: tuple[int, ...] = ()
    kill_once: str = ""
    """A file: the first actor to reach the second call makes it and kills itself."""
    load_error: str = ""
    calls: int = 0

    def load(self, device: str) -> None:
        if self.load_error:
            raise ValueError(self.load_error)

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        import torch

        self.calls += 1
        time.sleep(self.seconds_per_call)
        if self.kill_once and self.calls == 2:
            die_once(self.kill_once)
        return [
            Made(reason="this colour does not exist")
            if recipe.seed in self.bad_seeds
            else Made(torch.full((3, 32, 32), recipe.seed % 256, dtype=torch.uint8), batch_size=self.rows_per_call)
            for recipe in recipes
        ]


def die_once(marker: str) -> None:
    """Kills this process the way the kernel would, if nobody did so before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class DyingWriter:
    """Writes a block's fragments and dies before it can hand back their receipt, once."""

    marker: str

    def __call__(self, block: pa.Table, uri: str) -> pa.Table:
        receipts = stages.write_block(block, uri)
        die_once(self.marker)
        return receipts
