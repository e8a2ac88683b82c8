"""Generators in half precision, on tiny twins of every pipeline class and on the shipped one, on any machine's processor."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models import GeneratorSpec, generator_names, generator_spec, load_generator
from engine.models.generators import adapter_of
from engine.recipe import Recipe
from engine.testing import generators as tiny_generators
from engine.testing.twins import image_size, small_references

NAMES = list({generator_spec(name).pipeline: name for name in reversed(generator_names())}.values())
"""One name per pipeline class."""
NAMES.remove("glide")  # its package is not installed, and the network that stands in for it casts nothing
TOLERANCE = {"bfloat16": 6.0, "float16": 1.5}
"""Mean absolute difference to float32, in grey levels of 255; images of two recipes differ by more."""
REFERENCE = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], torch.Tensor]]:
    """Name and dtype → two images, drawn once."""
    specs: dict[str, GeneratorSpec] = {}
    drawn: dict[tuple[str, str], torch.Tensor] = {}

    def get(name: str, dtype: str) -> torch.Tensor:
        if name not in specs:
            saved = tiny_generators.save(name, tmp_path_factory.mktemp("half") / name) if name != "mini" else {}
            specs[name] = generator_spec(name, **saved)
        if (name, dtype) not in drawn:
            drawn[name, dtype] = _draw(specs[name], dtype)
        return drawn[name, dtype]

    with small_references():
        yield get


def _recipes(spec: GeneratorSpec) -> list[Recipe]:
    """Two recipes; those of twins take two steps without guidance, which would magnify what random weights do with rounding.

    FLUX besides takes 1000 times its guidance in its own dtype, and bfloat16 rounds 3500 to 3504.
    """
    twin = spec.name != "mini"
    side = image_size(spec) if twin else spec.height
    needs_reference = adapter_of(spec.pipeline).needs_reference
    changes = {"num_inference_steps": 2, "guidance_scale": min(1.0, spec.guidance_scale)} if twin else {}
    return [
        Recipe(
            source="generative",
            dataset="things",
            class_index=0,
            class_name="cat",
            prompt=prompt,
            seed=seed,
            **{**spec.recipe_fields("reference" if needs_reference else ""), "height": side, "width": side, **changes},
        )
        for seed, prompt in enumerate(("a red apple", "the photo of a dog"))
    ]


def _draw(spec: GeneratorSpec, dtype: str) -> torch.Tensor:
    """Images `[2, 3, H, W]` as floats of 0…255. Skips, by its name, an operator that this processor lacks."""
    generator = load_generator(spec, dtype=dtype, batch_size=1)
    assert generator.dtype == dtype
    assert generator.adapter.denoiser.dtype == getattr(torch, dtype)
    references = {"reference": REFERENCE}
    try:
        return torch.cat([generator.generate([recipe], references) for recipe in _recipes(spec)]).float()
    except RuntimeError as error:
        lacking = re.search(r"\"(\w+)\" not implemented for '(Half|BFloat16)'", str(error))
        if not lacking:
            raise
        pytest.skip(f"this processor lacks {lacking[1]} in {dtype}")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_nearly_float32(name: str, dtype: str, draw: Callable[[str, str], torch.Tensor]):
    exact, half = draw(name, "float32"), draw(name, dtype)
    assert (exact[0] - exact[1]).abs().mean() > TOLERANCE["bfloat16"]
    assert 0 < (half - exact).abs().mean() <= TOLERANCE[dtype]


def test_without_a_dtype_the_device_decides(tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.models.load.native_dtype", lambda wanted, device: "bfloat16")
    assert load_generator(tiny_pipeline).dtype == "bfloat16"
    assert load_generator(tiny_pipeline, dtype="float32").dtype == "float32"


def test_an_unknown_dtype_is_one_sentence(tiny_pipeline: str):
    with pytest.raises(ValueError, match="unknown dtype 'float15'; did you mean float16"):
        load_generator(tiny_pipeline, dtype="float15")


def test_a_dtype_that_a_library_lacks_is_refused(tmp_path: Path):
    spec = generator_spec("glide", **tiny_generators.save("glide", tmp_path / "glide"))
    with pytest.raises(ValueError, match="glide does not support bfloat16; choose from: float32, float16"):
        load_generator(spec, dtype="bfloat16")
