"""`imagefoundry models` and `imagefoundry convert-glide`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("generator", "class", "reference modes", "licence", "gated", "GB", "steps", "guidance", "size", "speeds")
NUMBERS = ("GB", "steps", "guidance")


@dataclass(frozen=True)
class ModelsConfig:
    """No settings."""


def models(config: ModelsConfig) -> "Table":
    """One row per generator of the registry."""
    from rich.table import Table

    from engine.models.registry import generator_names
    from engine.models.resolve import generator_spec

    table = Table(
        title="Generators", caption="GB: weights in the generator's dtype. The first reference mode is the default."
    )
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for name in generator_names():
        spec = generator_spec(name)
        table.add_row(
            name,
            spec.pipeline,
            ", ".join(spec.reference_modes),
            spec.licence or "?",
            "yes" if spec.gated else "",
            f"{spec.weights_gb:.1f}" if spec.weights_gb >= 0.05 else f"{spec.weights_gb:.3f}",
            str(spec.num_inference_steps),
            f"{spec.guidance_scale:g}",
            f"{spec.width}x{spec.height}",
            ", ".join(["exact", *(speed for speed in ("fast", "lossy") if spec.levers.get(speed))]),
        )
    return table


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
