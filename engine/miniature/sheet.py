"""A contact sheet: for each group, real images, images from text alone, and images with the real one as reference."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.miniature.evaluate import class_prompts, generate, real_images
from engine.world.classes import DATASETS, MANY

_COLUMNS, _GAP, _ZOOM = 20, 4, 2


def contact_sheet(pipe: Any, referring: Any, settings: dict[str, Any], path: Path) -> None:
    """Save a PNG of up to 20 classes of each data set: real images, images from text alone, images with the real one as reference."""
    strips: list[np.ndarray] = []
    for dataset in (*DATASETS, MANY):
        real, labels = real_images(dataset, "test", 1)
        chosen = np.linspace(0, len(labels) - 1, min(_COLUMNS, len(labels))).round().astype(int)
        prompts = [class_prompts(dataset, 1)[0][i] for i in chosen]
        rows = [real[chosen], generate(pipe, prompts, settings)]
        rows.append(generate(referring, prompts, settings, references=real[chosen]))
        strips += [_strip(row) for row in rows]
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
