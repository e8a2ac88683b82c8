"""Formats of generated images: the miniature generator through real fills, one format after the other in one table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from engine.catalog import load_dataset
from engine.cli.show import ShowConfig, show
from engine.costs import PriceBook
from engine.dataflow.run import Run
from engine.dataflow.stages import Embed
from engine.images import PNG, ImageFormat, content_hash, decode_image, viewable
from engine.models import generator_spec, load_encoder, load_generator
from engine.models.spec import GeneratorSpec
from engine.recipe import Recipe, embedding_column
from engine.serving.pages.thumbnails import data_uri
from engine.serving.pictures import view
from engine.sources import GenerativePlan, GeneratorMaker
from engine.store import Workspace

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

FORMATS = (PNG, ImageFormat("webp", 80), ImageFormat("jpeg"))
"""Formats of the fills: each plans one more shot than the one before, and so makes one image per class."""
BATCH_SIZE = 2
Row = dict[str, Any]


class Filled(NamedTuple):
    """A table with images of every format."""

    workspace: Workspace
    spec: GeneratorSpec
    made: dict[str, list[Row]]
    """Format → rows of its images, right after they were made."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, cluster: None) -> Filled:
    workspace = Workspace.open(tmp_path_factory.mktemp("formats") / "workspace")
    spec = replace(generator_spec("mini"), num_inference_steps=2)
    made = {}
    for shots, image_format in enumerate(FORMATS, 1):
        plan = GenerativePlan(load_dataset(str(tiny_dataset)), spec, "simple_template", shots)
        with Run(workspace, PriceBook.load(), "azure-e32ads-v5-spot", device="cpu", image_format=image_format) as run:
            result = run.fill("make", plan, GeneratorMaker(spec, BATCH_SIZE), [Embed.of(load_encoder("mini-clip"))])
        assert (result.made, result.present) == (3, 3 * (shots - 1))
        made[str(image_format)] = [row for row in rows_of(workspace) if row["run_id"] == run.run_id]
    return Filled(workspace, spec, made)


def rows_of(workspace: Workspace) -> list[Row]:
    found: list[Row] = workspace.scan(workspace.image_schema().names).read_all().to_pylist()
    return sorted(found, key=lambda row: row["id"])


def generated(filled: Filled, rows: list[Row]) -> Mapping[str, np.ndarray]:
    """Id → pixels `[H, W, 3]` uint8 as the generator makes them."""
    generator = load_generator(filled.spec, device="cpu", batch_size=BATCH_SIZE)
    recipes = [Recipe.from_dict(row) for row in rows]
    pixels = generator.generate(recipes).permute(0, 2, 3, 1).cpu().numpy()
    return {row["id"]: np.ascontiguousarray(one) for row, one in zip(rows, pixels, strict=True)}


@pytest.mark.parametrize("image_format", FORMATS, ids=str)
def test_hash_and_vector_are_those_of_the_stored_pixels(filled: Filled, image_format: ImageFormat):
    encoder = load_encoder("mini-clip", device="cpu")
    rows = filled.made[str(image_format)]
    assert len(rows) == 3
    originals = generated(filled, rows)
    for row in rows:
        assert row["image_format"] == str(image_format)
        assert row["image"] == image_format.encode(originals[row["id"]])
        stored, original = decode_image(row["image"]), originals[row["id"]]
        assert np.array_equal(stored, original) == image_format.is_lossless
        assert row["content_hash"] == content_hash(stored)
        assert (row["image_height"], row["image_width"]) == stored.shape[:2]
        vector, other = (
            encoder.encode_images([torch.from_numpy(np.moveaxis(pixels, 2, 0).copy())])[0].numpy()
            for pixels in (stored, original)
        )
        embedded = np.array(row[embedding_column(encoder.name)], np.float32)
        assert np.abs(embedded - vector).max() < 1e-5
        if not image_format.is_lossless:
            assert np.abs(embedded - other).max() > 1e-4


def test_a_later_run_in_another_format_leaves_images_as_they_are(filled: Filled):
    now = {row["id"]: row for row in rows_of(filled.workspace)}
    assert len(now) == 3 * len(FORMATS)
    for row in (row for rows in filled.made.values() for row in rows):
        assert now[row["id"]] == row
    assert filled.workspace.verify().findings == []


def test_every_format_is_shown_as_it_is_stored(filled: Filled, tmp_path: Path):
    shown = show(ShowConfig(filled.workspace.uri, sample=99, output=tmp_path))
    page = shown.page.read_text()
    for row in shown.rows:
        kind, data = row["image_format"].split("-")[0], row["file"].read_bytes()
        assert row["file"].suffix == {"jpeg": ".jpg"}.get(kind, f".{kind}")
        assert content_hash(decode_image(data)) == row["content_hash"]
        assert viewable(data) == data
        assert view(data) == (data, f"image/{kind}")
        assert data_uri(data).startswith(f"data:image/{kind};")
        assert data_uri(data) in page
