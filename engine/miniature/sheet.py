"""A contact sheet: for each group a row of real images over rows of generated ones of the same classes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.miniature.evaluate import class_prompts, generate, real_images
from engine.world.classes import DATASETS

_COLUMNS, _GAP, _ZOOM = 20, 4, 2


def contact_sheet(pipe: Any, settings: dict[str, Any], path: Path, rows: int = 1) -> None:
    """Draw `rows` images of up to 20 classes of each data set and save them below a real image each, as a PNG."""
    strips: list[np.ndarray] = []
    for dataset in DATASETS:
        real, labels = real_images(dataset, "test", 1)
        chosen = np.linspace(0, len(labels) - 1, min(_COLUMNS, len(labels))).round().astype(int)
        prompts, asked = class_prompts(dataset, rows)
        wanted = np.isin(asked.numpy(), chosen)
        drawn = generate(pipe, [prompt for prompt, take in zip(prompts, wanted, strict=True) if take], settings)
        strips.append(_strip(real[chosen]))
        strips += [_strip(drawn[row::rows]) for row in range(rows)]
        strips.append(np.full((_GAP, strips[-1].shape[1], 3), 255, np.uint8))
    sheet = Image.fromarray(np.concatenate(strips[:-1]))
    sheet = sheet.resize((sheet.width * _ZOOM, sheet.height * _ZOOM), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _strip(images: np.ndarray) -> np.ndarray:
    """[N, S, S, 3] to [S, 20 * S, 3], white where there are fewer."""
    size = images.shape[1]
    strip = np.full((size, _COLUMNS * size, 3), 255, np.uint8)
    strip[:, : len(images) * size] = images.transpose(1, 0, 2, 3).reshape(size, -1, 3)
    return strip
