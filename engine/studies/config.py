"""Settings of every study, and the parts made from them: data sets, an encoder, a table, a price book."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.cache import check_cache_folder
from engine.catalog import Dataset, load_dataset
from engine.command import check_place
from engine.costs import PriceBook
from engine.images import ImageFormat
from engine.models import ImageEncoder
from engine.models.lazy import LazyEncoder
from engine.models.reach import check_encoder
from engine.models.registry import encoder_names, generator_names

if TYPE_CHECKING:
    from engine.dataflow.cluster import RayConnection
    from engine.dataflow.run import Run
    from engine.store import Workspace


MAX_SEED = 2**63 - 1
"""Largest seed; it fits into 64 bits with a sign."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Data sets, encoder, workspace, and prices."""

    datasets: tuple[str, ...] = ("mini-common", "mini-fine", "mini-rare", "mini-novel")
    """Catalog names, folders of images, or NAME=PATH for a catalog data set in another folder."""
    encoder: str = "mini-clip"
    """Registry name, open_clip ARCHITECTURE/WEIGHTS pair (ViT-B-32/openai) or open_clip folder."""
    workspace: str = "workspace"
    """Folder or s3:// prefix of the image table; a run continues where the last one stopped."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the models: `auto` takes GPUs if the cluster has or can add them, or if the generator needs them."""
    image_format: str = "png"
    """Format in which generated images are stored: `png` (lossless), `webp` or `jpeg`."""
    image_quality: int | None = None
    """Quality of webp and jpeg, 1 to 100; 90 if not given. webp of 100 is lossless."""
    max_errors: float = 0.2
    """Share of failing recipes (of at least 200) that stops the run."""

    def __post_init__(self) -> None:
        """Expands `~` in paths, and makes paths of models absolute, since workers run in another folder."""
        for each in fields(self):
            value = getattr(self, each.name)
            resolve = each.name in ("encoder", "generator", "generator_source", "generator_auxiliaries")
            object.__setattr__(self, each.name, expanded(value, resolve))

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_not_empty(datasets=self.datasets)
        check_cache_folder()
        check_place("workspace", self.workspace)
        if not 0 <= self.max_errors <= 1:
            raise ValueError(f"max_errors is {self.max_errors}; give a share from 0 to 1")
        _ = self.stored_format

    @property
    def stored_format(self) -> ImageFormat:
        """Format in which generated images are stored. Raises ValueError if format or quality are invalid."""
        return ImageFormat(self.image_format, self.image_quality)


class Parts:
    """Objects that the settings name, each made at its first use."""

    def __init__(self, config: Settings):
        self.config = config

    def check(self) -> None:
        """Checks every name that the run will need, before anything is started.

        Raises:
            ValueError: a name is invalid; the first such name is reported.
        """
        self.config.check()
        check_encoder(self.config.encoder)
        if self.config.instance:
            self.prices.instance(self.config.instance)
        _ = self.prices, self.datasets

    def run(self, workspace: "Workspace", connection: "RayConnection") -> "Run":
        """A run over the workspace with these settings."""
        from engine.dataflow.run import Run

        config = self.config
        return Run(
            workspace,
            self.prices,
            config.instance,
            asdict(config),
            ray=connection,
            device=config.device,
            image_format=config.stored_format,
            max_errors=config.max_errors,
        )

    @cached_property
    def prices(self) -> PriceBook:
        """The price book."""
        return PriceBook.load(self.config.price_book)

    @cached_property
    def datasets(self) -> list[Dataset]:
        """The data sets, in the configured order."""
        return load_datasets(self.config.datasets)

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The encoder on this machine, for texts; its weights are read when it first encodes a text."""
        return LazyEncoder(self.config.encoder)


def load_datasets(names: Sequence[str]) -> list[Dataset]:
    """The data sets of these names. Raises ValueError if a name is unknown or occurs twice."""
    datasets = [load_dataset(name) for name in names]
    if len({dataset.name for dataset in datasets}) < len(datasets):
        raise ValueError("two data sets have the same name; give each once, and folders different names")
    return datasets


def check_not_empty(**values: tuple[Any, ...]) -> None:
    """Raises ValueError if one of the values is empty."""
    for name, value in values.items():
        if not value:
            raise ValueError(f"{name} is empty; give at least one")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises ValueError if a seed is negative, or if there is none."""
    check_not_empty(seeds=seeds)
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; give 0 or more")
        if seed > MAX_SEED:
            raise ValueError(
                f"seed {seed} is larger than {MAX_SEED}, the largest of torch's generators; give a smaller one"
            )


def expanded(value: Any, resolve: bool = False) -> Any:
    """A setting with `~` expanded at the beginning of a path or of a `NAME=PATH`, in tuples too.

    `resolve`: whether an existing folder becomes absolute, unless the name is in the registry.
    """
    if isinstance(value, tuple):
        return tuple(expanded(each, resolve) for each in value)
    if isinstance(value, Path):
        return value.expanduser()
    if not isinstance(value, str):
        return value
    name, equals, path = value.partition("=") if "=~" in value or (resolve and "=" in value) else ("", "", value)
    path = os.path.expanduser(path)
    if resolve and path and path not in (*encoder_names(), *generator_names()) and Path(path).is_dir():
        path = str(Path(path).resolve())
    return name + equals + path
