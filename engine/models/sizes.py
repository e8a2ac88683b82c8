"""Sizes that a generator can make, told from its files before it is loaded."""

import json
from pathlib import Path

from engine.models.spec import GeneratorSpec

HUB_MULTIPLE = 8
"""Pixels that one latent of a published autoencoder stands for, at least."""


def check_size(spec: GeneratorSpec, size: int) -> None:
    """Raises ValueError for a side in pixels that is no multiple of what one latent of the autoencoder stands for.

    A model may need more, as multiples of its patches too; it then says so when it is loaded.
    """
    multiple = HUB_MULTIPLE
    if spec.is_local:
        config = Path(spec.source) / "vae" / "config.json"
        blocks = json.loads(config.read_text("utf-8")).get("block_out_channels", [0]) if config.is_file() else [0]
        multiple = 2 ** (len(blocks) - 1)
    if size % multiple:
        below = max(1, size // multiple) * multiple
        raise ValueError(
            f"generator size {size} is no multiple of {multiple}, the pixels per latent of {spec.name}; "
            f"give {below} or {below + multiple}"
        )
