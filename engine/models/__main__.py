"""`python -m engine.models list`: which generators there are, what each takes and needs, under which licence.

`python -m engine.models convert-glide base.pt upsample.pt FOLDER`: OpenAI's files of GLIDE as safetensors.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.models.registry import generator_names, generator_spec


def generators_table() -> Table:
    """One row a generator of the registry."""
    table = Table(
        title="Generators", caption="GB: weights in the entry's dtype. The first reference mode is the default."
    )
    for column in (
        "generator",
        "class",
        "references by",
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
    """Prints the table, or converts."""
    parser = argparse.ArgumentParser(prog="python -m engine.models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one row a generator")
    convert = commands.add_parser("convert-glide", help="OpenAI's base.pt and upsample.pt as a folder of safetensors")
    for name in ("base", "upsampler", "folder"):
        convert.add_argument(name, type=Path)
    options = parser.parse_args()
    if options.command == "convert-glide":
        from engine.models.glide import convert as convert_glide

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
