"""A small workspace of every kind of image, and its pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.images import ImageFormat, content_hash, decode_image
from engine.recipe import IMAGE_SCHEMA, Recipe
from engine.store import Workspace
from tests.store.helpers import add, error_rows

FORMATS = {
    "png": ImageFormat("png"),
    "webp": ImageFormat("webp", 90),
    "lossless": ImageFormat("webp", 100),
    "jpeg": ImageFormat("jpeg", 90),
}
MINI = {"generator": "mini", "revision": "21c74a5a3421e737", "strategy": "class_name"}
CLASSES = {
    "zoo": ("big cat", "a/b: c?", "no", "Apple", "apple", "con", "50%", "Größe", "same"),
    "park": ("same", ".hidden", "train", "x_y"),
}
"""Class names that some file system, YAML or reader stumbles over."""


@dataclass(frozen=True)
class Filled:
    """A workspace and what is in it."""

    workspace: Workspace
    rows: dict[str, dict]
    """Id → row as it was written."""

    def pixels(self, one: str) -> np.ndarray:
        return decode_image(self.rows[one]["image"])


def row(recipe: Recipe, image_format: str = "png", size: int = 12, **more) -> dict:
    """A row of `images` for a recipe, with pixels made from its id."""
    random = np.random.default_rng(int(recipe.id[:12], 16))
    image = FORMATS[image_format].encode(random.integers(0, 256, (size, size + 4, 3), np.uint8))
    pixels = decode_image(image)
    return {
        **recipe.as_dict(),
        **{"id": recipe.id, "image": image, "content_hash": content_hash(pixels)},
        **{"image_height": pixels.shape[0], "image_width": pixels.shape[1], "device_seconds": 0.5, "usd_compute": 1e-6},
        **{"usd_labels": 0.12 if recipe.source == "original" else 0.0, "run_id": "run-1", "batch_size": 8},
        **{
            "dtype": "float32",
            "device": "cpu",
            "image_format": None if recipe.source != "generative" else image_format,
        },
        **more,
    }


def fill(place: Path, rows: list[dict], errors: int = 0) -> Filled:
    """Commits rows to a new workspace."""
    workspace = Workspace.open(place)
    add(workspace, pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA))
    if errors:
        add(workspace, error_rows(range(errors)), "errors")
    return Filled(workspace, {one["id"]: one for one in rows})


def every_kind() -> list[dict]:
    """Generated images in three formats, some with a reference, retrieved ones and originals of train and test."""
    rows = []
    for dataset, names in CLASSES.items():
        for index, name in enumerate(names):
            where = {"dataset": dataset, "class_index": index, "class_name": name}
            original = row(Recipe(source="original", **where, corpus=dataset, key=f"a{index}"), "webp")
            rows.append(original)
            rows.append(row(Recipe(source="original", **where, split="test", corpus=dataset, key=f"t{index}"), "jpeg"))
            rows.append(row(Recipe(source="retrieval", **where, corpus="pool", key=f"r{index}", prompt=name), "png"))
            for seed, image_format in enumerate(("png", "webp", "lossless", "jpeg")):
                prompt = f'a photo of {name}, "quoted" & <b>bold</b> é\n'
                rows.append(row(Recipe(source="generative", **where, **MINI, seed=seed, prompt=prompt), image_format))
            guided = {"reference_id": original["id"], "reference_mode": "controlnet", "reference_scale": 1.0}
            rows.append(row(Recipe(source="generative", **where, **MINI, **guided, seed=9)))
    return rows
