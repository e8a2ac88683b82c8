"""`python -m engine.models list`: which generators there are, what each takes and needs, under which licence."""

import argparse

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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m engine.models", description=__doc__)
    parser.add_argument("command", choices=["list"], help="list: one row a generator")
    parser.parse_args()
    console = Console()
    if not console.is_terminal:  # a pipe is as wide as the table
        console = Console(width=200)
    console.print(generators_table())


if __name__ == "__main__":
    main()
