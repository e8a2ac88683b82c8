"""`imagefoundry models` and `imagefoundry convert-glide`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ModelsConfig:
    """No settings."""


def models(config: ModelsConfig) -> "Table":
    """One row per generator of the registry."""
    from engine.models.__main__ import generators_table

    return generators_table()


@dataclass(frozen=True)
class ConvertGlideConfig:
    """The two checkpoints and the folder to write."""

    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """OpenAI's base.pt."""
    upsampler: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="UPSAMPLER")]
    """OpenAI's upsample.pt."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write the safetensors to."""


def convert_glide(config: ConvertGlideConfig) -> Path:
    """Converts the checkpoints and returns the folder. Raises ValueError if a file is not one of OpenAI's."""
    from engine.models.generators.glide_pipeline import convert

    convert(config.base, config.upsampler, config.folder)
    return config.folder
