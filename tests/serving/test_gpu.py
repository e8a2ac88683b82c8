"""A server whose generator holds a GPU: a logical one, whose work the processor does."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from engine.costs import PriceBook, usd_per_device_second
from engine.images import decode_image
from engine.models import generator_spec, load_generator
from engine.recipe import Recipe
from engine.store import Workspace
from tests.serving.command import started

ONE_GPU = {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": 1, "CPU": 4}), "IMAGEFOUNDRY_DEVICE": "cpu"}


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_generator_on_a_gpu_makes_the_engines_images_at_the_price_of_its_share(
    tmp_path: Path, tiny_pipeline: str, tiny_encoder: str
):
    prices = PriceBook.load(None)
    instance = prices.instances[prices.defaults["gpu"]]
    options = ("--device", "gpu")
    with started(tmp_path, tiny_pipeline, tiny_encoder, *options, variables=ONE_GPU) as server:
        with server.client() as client:
            entry = client.images.generate(prompt="a red apple", extra_body={"seed": 5}).data[0]
        facts = entry.model_extra
        engine = load_generator(tiny_pipeline, batch_size=facts["batch_size"])
        expected = engine.generate([Recipe(**facts["recipe"])])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(decode_image(base64.b64decode(entry.b64_json)), expected)
        share = generator_spec(tiny_pipeline).num_gpus
        price = usd_per_device_second(instance, num_gpus=share)
        (row,) = (
            Workspace.open(server.workspace).fetch([facts["image_id"]], ["usd_compute", "device_seconds"]).to_pylist()
        )
        assert share > 0
        assert row["usd_compute"] == pytest.approx(row["device_seconds"] * price)
