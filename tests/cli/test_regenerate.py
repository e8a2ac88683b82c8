"""`imagefoundry regenerate` on a small workspace of generated and read images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.catalog import load_dataset
from engine.cli.main import main
from engine.cli.regenerate import RegenerateConfig, regenerate
from engine.images import ImageFormat, content_hash, decode_image
from engine.models import generator_spec
from engine.recipe import IMAGE_SCHEMA, Recipe
from engine.sources import GeneratorMaker, OriginalPlan
from engine.store import Workspace
from engine.testing.models import save_pipeline
from tests.store.helpers import add

BATCH = 2


def row(recipe: Recipe, pixels: np.ndarray, stored_as: ImageFormat, **more) -> dict:
    data = stored_as.encode(pixels)
    kept = decode_image(data)
    values = {
        "image": data,
        "content_hash": content_hash(kept),
        "image_height": len(kept),
        "image_width": kept.shape[1],
    }
    values |= {"device_seconds": 0.0, "usd_compute": 0.0, "usd_labels": 0.0, "run_id": "run", "device": "cpu"}
    values |= {"batch_size": BATCH, "dtype": "float32", "image_format": str(stored_as)}
    return recipe.as_dict() | {"id": recipe.id} | values | more


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Workspace, str, list[str]]:
    """A workspace, the folder of its generator, and the ids: two PNG, one JPEG, one from a folder of images."""
    folder = tmp_path_factory.mktemp("regenerate")
    pipeline = save_pipeline(folder / "tiny")
    spec = replace(generator_spec(str(pipeline)), height=16, width=16, num_inference_steps=2)
    recipes = [
        Recipe(
            source="generative",
            dataset="pets",
            class_index=0,
            class_name="cat",
            prompt="a cat",
            seed=seed,
            **spec.recipe_fields(),
        )
        for seed in range(3)
    ]
    maker = GeneratorMaker(spec, BATCH)
    maker.load("cpu")
    pixels = [one.pixels.permute(1, 2, 0).numpy() for one in (*maker.make(recipes[:2]), *maker.make(recipes[2:]))]
    formats = (ImageFormat(), ImageFormat(), ImageFormat("jpeg", 80))
    rows = [row(*three) for three in zip(recipes, pixels, formats, strict=True)]
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for split in ("train", "test"):
        (folder / "photographs" / split / "cat").mkdir(parents=True)
        (folder / "photographs" / split / "cat" / "one.png").write_bytes(ImageFormat().encode(picture))
    read = replace(OriginalPlan(load_dataset(str(folder / "photographs")), 1)[0], corpus="my-photographs")
    rows.append(row(read, picture, ImageFormat(), image_format=None, dtype="uint8", batch_size=1))
    workspace = Workspace.open(folder / "workspace")
    add(workspace, pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA))
    return workspace, str(pipeline), [one["id"] for one in rows]


def test_images_are_made_again_bit_for_bit(made, capsys):
    workspace, pipeline, ids = made
    corpus = f"my-photographs={Path(workspace.uri).parent / 'photographs'}"
    assert main(["regenerate", workspace.uri, *ids, "--generator", pipeline, "--corpora", corpus]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [*(f"{one}  equal bit for bit" for one in ids), "4 of 4 images are equal bit for bit."]
    sample = RegenerateConfig(workspace.uri, sample=2, where="source = 'generative'", generator=pipeline)
    assert regenerate(sample).num_equal == 2


def test_an_image_that_is_not_its_recipes_is_found(made, tmp_path, capsys):
    workspace, pipeline, ids = made
    (first,) = workspace.fetch(ids[:1], IMAGE_SCHEMA.names).to_pylist()
    pixels = decode_image(first["image"]).copy()
    pixels[0, 0, 0] ^= 8
    other = Workspace.open(tmp_path / "other")
    changed = row(Recipe.from_dict(first), pixels, ImageFormat(), device="NVIDIA H100")
    add(other, pa.Table.from_pylist([changed], schema=IMAGE_SCHEMA))
    assert main(["regenerate", other.uri, ids[0], "--generator", pipeline]) == 1
    said = capsys.readouterr().out
    assert f"{ids[0]}  differs by up to 8 of 255 levels (device NVIDIA H100 then, cpu now)" in said
    assert "0 of 1 images are equal" in said


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([], "unknown generator 'tiny'"),
        (["--generator", "mini"], "give the weights of then with --generator"),
    ],
)
def test_other_weights_are_refused(made, flags, why, capsys):
    workspace, _, ids = made
    assert main(["regenerate", workspace.uri, ids[0], *flags]) == 2
    assert why in capsys.readouterr().err


def test_a_corpus_that_is_elsewhere_has_to_be_named(made, capsys):
    workspace, _, ids = made
    assert main(["regenerate", workspace.uri, ids[3]]) == 2
    assert "--corpora my-photographs=PATH" in capsys.readouterr().err
    assert main(["regenerate", workspace.uri, ids[3], "--corpora", "nowhere"]) == 2
    assert "not NAME=PATH" in capsys.readouterr().err
    assert main(["regenerate", workspace.uri, "--where", "true"]) == 2
