"""`python -m engine.models list` prints the generators with their reference modes, memory and licences.

`python -m engine.models convert-glide base.pt upsample.pt FOLDER` converts OpenAI's files of GLIDE to safetensors.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.models.registry import generator_names
from engine.models.resolve import generator_spec


def generators_table() -> Table:
    """One row per generator of the registry."""
    table = Table(
        title="Generators", caption="GB: weights in the generator's dtype. The first reference mode is the default."
    )
    for column in (
        "generator",
        "class",
        "reference modes",
        "licence",
        "gated",
        "GB",
        "steps",
        "guidance",
        "size",
        "speeds",
    ):
        table.add_column(column, justify="right" if column in ("GB", "steps", "guidance") else "left", overflow="fold")
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


def main() -> int:
    """Runs one subcommand and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print one row per generator")
    convert = commands.add_parser(
        "convert-glide", help="convert OpenAI's base.pt and upsample.pt to a folder of safetensors"
    )
    for name in ("base", "upsampler", "folder"):
        convert.add_argument(name, type=Path)
    options = parser.parse_args()
    if options.command == "convert-glide":
        from engine.models.generators.glide_pipeline import convert as convert_glide

        try:
            convert_glide(options.base, options.upsampler, options.folder)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    console = Console()
    if not console.is_terminal:  # a pipe is as wide as the table
        console = Console(width=200)
    console.print(generators_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
