"""A plan and a maker without a model, and ways for them to fail."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dataflow.stages import Embed
from engine.images import content_hash, encode_png
from engine.models.faults import DeviceFault
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.sources import Generates, Made, Stored

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PaintPlan:
    """`num` flat pictures, the first `num_read` of them read instead of painted."""

    num: int
    num_read: int = 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Recipe:
        return Recipe(
            source="original" if index < self.num_read else "generative",
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
    needs_gpu: bool = False
    seconds_per_call: float = 0.0
    bad_seeds: tuple[int, ...] = ()
    """Recipes that fail."""
    poison_seeds: tuple[int, ...] = ()
    """Recipes that kill their process, each time."""
    kill_once: str = ""
    """A file: the first worker to reach the second call makes it and kills itself."""
    sick_device: str = ""
    """Workers on this GPU of the machine meet a device fault with each call."""
    load_error: str = ""
    dies_while_loading: bool = False
    touched: str = ""
    """A folder in which each call leaves a file named by its device and process."""
    meet: int = 0
    """Processes that wait for each other in that folder, a minute at most, so that none is too late for its share."""
    counted: str = ""
    """A file to which each call adds a byte for each of its recipes."""
    calls: int = 0

    def reads(self, source: str) -> bool:
        return source == "original"

    def load(self, device: str) -> None:
        self.device = device
        if self.dies_while_loading:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.load_error:
            raise ValueError(self.load_error)

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        import torch

        self._begin(recipes)
        return [
            Made(reason="this colour does not exist")
            if recipe.seed in self.bad_seeds
            else Made(torch.full((3, 32, 32), recipe.seed % 256, dtype=torch.uint8), batch_size=self.rows_per_call)
            for recipe in recipes
        ]

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        import numpy as np
        import torch

        self._begin(recipes)
        made = []
        for recipe in recipes:
            if recipe.seed in self.bad_seeds:
                made.append(Made(reason="this colour does not exist"))
                continue
            pixels = np.full((32, 32, 3), recipe.seed % 256, np.uint8)
            shown = [size.resize_array(pixels) if size else np.moveaxis(pixels, 2, 0).copy() for size in sizes]
            stored = Stored(encode_png(pixels), content_hash(pixels), 32, 32)
            made.append(Made(views=[torch.from_numpy(one) for one in shown], stored=stored))
        return made

    def _begin(self, recipes: Sequence[Recipe]) -> None:
        self.calls += 1
        if self.touched:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
            (Path(self.touched) / f"{gpu}.{os.getpid()}").touch()
            patience = time.monotonic() + 60
            while len(os.listdir(self.touched)) < self.meet and time.monotonic() < patience:
                time.sleep(0.05)
        time.sleep(self.seconds_per_call)
        if self.counted:
            with open(self.counted, "ab", buffering=0) as file:
                file.write(bytes(len(recipes)))
        if self.sick_device and os.environ.get("CUDA_VISIBLE_DEVICES") == self.sick_device:
            raise DeviceFault(f"cuda:{self.sick_device}", "an illegal memory access was encountered")
        if self.kill_once and self.calls == 2:
            die_once(self.kill_once)
        if any(recipe.seed in self.poison_seeds for recipe in recipes):
            os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: str) -> None:
    """Kills this process the way the kernel would, if nobody did so before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class PaintEncoder:
    """Embeds a picture as its mean colour; its libraries load in a second where open_clip takes ten."""

    source: str = "paint-encoder"
    dimension: int = 4
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing((8, 8), "shortest", "bicubic"))

    @property
    def name(self) -> str:
        return self.source

    def encode_images(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        import torch

        means = torch.stack([image.float().mean((1, 2)) for image in images])
        return torch.nn.functional.normalize(torch.cat([means, torch.ones(len(means), 1)], 1), dim=-1)


def load_paint_encoder(source: str, *, device: str = "cpu") -> PaintEncoder:
    """As `engine.models.load_encoder`."""
    return PaintEncoder(source)


def paint_embed(name: str = "paint-encoder") -> Embed:
    """The stage of a `PaintEncoder`."""
    encoder: Any = PaintEncoder(name)
    loader: Any = load_paint_encoder
    return Embed.of(encoder, loader)


@dataclass(frozen=True)
class FlatPlan:
    """`num` flat images."""

    num: int
    first: int = 0
    """Seed of the first image; another value plans other images."""

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Recipe:
        return Recipe(
            source="generative",
            dataset="flat",
            class_index=0,
            class_name="colour",
            prompt="flat",
            generator="flat",
            seed=self.first + index,
        )


@dataclass
class FlatMaker(Generates):
    """Generates flat 32x32 images and waits `seconds_per_row` for each: the cost of the engine without a model."""

    seconds_per_row: float = 0.0
    rows_per_call: int = 64
    gpus_per_actor: float = 0.25

    def load(self, device: str) -> None:
        """Loads nothing."""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """One image per recipe, `[3, 32, 32]` uint8 of the seed's grey."""
        import torch

        time.sleep(self.seconds_per_row * len(recipes))
        return [Made(torch.full((3, 32, 32), recipe.seed % 256, dtype=torch.uint8)) for recipe in recipes]
