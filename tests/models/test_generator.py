from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.models import DiffusionGenerator, generator_names, generator_spec, load_generator
from engine.models.generator import References
from engine.models.generators.prompt_cache import PromptCache
from engine.recipe import Recipe


@pytest.fixture(scope="module")
def generator(tiny_pipeline: str) -> DiffusionGenerator:
    return load_generator(tiny_pipeline, batch_size=4)


def recipe(number: int, **changes: object) -> Recipe:
    values = {
        "source": "generative",
        "dataset": "things",
        "class_index": 0,
        "class_name": "cat",
        "prompt": f"a cat number {number}",
        "seed": number,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "height": 16,
        "width": 16,
    }
    return Recipe(**{**values, **changes})


def test_alone_is_as_in_company(generator: DiffusionGenerator):
    together = generator.generate([recipe(number) for number in range(6)])
    for number in (0, 3, 5):
        assert torch.equal(generator.generate([recipe(number)])[0], together[number])


def test_order_does_not_matter(generator: DiffusionGenerator):
    recipes = [recipe(number) for number in range(5)]
    assert torch.equal(generator.generate(recipes[::-1]).flip(0), generator.generate(recipes))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 99},
        {"prompt": "a dog"},
        {"negative_prompt": "a dog"},
        {"guidance_scale": 5.0},
        {"num_inference_steps": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_field_changes_the_picture(generator: DiffusionGenerator, changes: dict[str, object]):
    assert not torch.equal(generator.generate([recipe(1, **changes)]), generator.generate([recipe(1)]))


def test_pictures_have_the_size_asked_for(generator: DiffusionGenerator):
    assert generator.generate([recipe(1, height=24, width=16)]).shape == (1, 3, 24, 16)
    with pytest.raises(ValueError, match="group them by batch_key"):
        generator.generate([recipe(1), recipe(2, height=24)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reference_id": "a" * 32, "reference_mode": "controlnet"},
            "does not support reference_mode 'controlnet'; choose from: img2img",
        ),
        (
            {"reference_id": "a" * 32, "reference_mode": "img2img", "reference_scale": 0.9},
            "runs or skips less than one of 2 steps",
        ),
        ({"reference_mode": "img2img"}, "require a reference image; give reference_id too"),
        ({"negative_prompt": "a dog", "guidance_scale": 1.0}, "negative prompt has no effect"),
        ({"prompt": ""}, "the prompt is empty"),
    ],
)
def test_what_it_cannot_honour_is_refused(generator: DiffusionGenerator, changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        generator.generate([recipe(1, **changes)])


def test_guidance_of_one_needs_no_negative_prompt(generator: DiffusionGenerator):
    assert generator.generate([recipe(1, guidance_scale=1.0)]).shape == (1, 3, 16, 16)


def test_a_prompt_is_encoded_once(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    encoded: list[str] = []
    real = generator._pipeline.encode_prompt
    monkeypatch.setattr(
        generator._pipeline,
        "encode_prompt",
        lambda prompt, *rest, **named: (encoded.append(prompt), real(prompt, *rest, **named))[1],
    )
    generator.generate([recipe(number, prompt="a quite new prompt") for number in range(9)])
    assert [prompt for prompt in encoded if prompt] == ["a quite new prompt"]


def test_the_prompts_not_used_for_longest_are_forgotten():
    encoded: list[str] = []

    def encode(prompt: str) -> dict[str, torch.Tensor]:
        encoded.append(prompt)
        return {"prompt_embeds": torch.full((4,), float(len(prompt)))}

    cache = PromptCache(max_bytes=32)  # two prompts of 16 bytes
    cache.stack(encode, ["a", "bb"])
    assert cache.stack(encode, ["a", "ccc"])["prompt_embeds"].tolist() == [[1.0] * 4, [3.0] * 4]
    cache.stack(encode, ["a", "ccc", "bb"])
    assert encoded == ["a", "bb", "ccc", "bb"]


def test_out_of_memory_halves_the_batch_and_is_remembered(tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch):
    generator = load_generator(tiny_pipeline, batch_size=8)
    real = generator._sample_batch

    def at_most_two(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        if len(recipes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(recipes, references)

    monkeypatch.setattr(generator, "_sample_batch", at_most_two)
    assert len(generator.generate([recipe(number) for number in range(5)])) == 5
    assert generator.batch_size == 2


def test_too_big_even_alone_is_an_error(tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch):
    generator = load_generator(tiny_pipeline, batch_size=2)

    def never(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generator, "_sample_batch", never)
    with pytest.raises(torch.OutOfMemoryError):
        generator.generate([recipe(0)])


def test_pixels_that_are_not_finite_are_an_error(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        generator,
        "_sample_batch",
        lambda recipes, references, on_step: torch.full((len(recipes), 3, 16, 16), float("nan")),
    )
    with pytest.raises(ValueError, match="not finite"):
        generator.generate([recipe(0)])


def test_the_revision_of_a_folder_is_its_weights(tiny_pipeline: str, tmp_path: Path):
    from engine.testing.models import save_pipeline

    other = save_pipeline(tmp_path / "pipeline", seed=1)
    assert generator_spec(tiny_pipeline).revision != generator_spec(str(other)).revision
    assert generator_spec(tiny_pipeline) == replace(generator_spec(tiny_pipeline), height=16, width=16)


def test_unknown_names_and_folders_are_refused(tmp_path: Path):
    assert {"mini", "sd21", "sdxl"} <= set(generator_names())
    with pytest.raises(ValueError, match="unknown generator 'sd12'; did you mean sd21"):
        generator_spec("sd12")
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        generator_spec(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weights"):
        generator_spec(str(tmp_path))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="pickled weights"):
        generator_spec(str(tmp_path))


def test_missing_weights_are_one_sentence(tiny_pipeline: str, tmp_path: Path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"generator .* could not be loaded"):
        load_generator(str(broken))
