"""GLIDE's two stages, OpenAI's files turned to safetensors, and what is said where the package or the weights are missing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.models import DiffusionGenerator, generator_spec, load_generator
from engine.testing import generators as tiny_generators
from tests.models.test_generator import recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_generators.save("glide", tmp_path_factory.mktemp("glide"))["source"])


@pytest.fixture(scope="module")
def generator(folder: Path) -> DiffusionGenerator:
    return load_generator(generator_spec("glide", source=str(folder)), batch_size=2)


def test_openais_files_become_safetensors(folder: Path, tmp_path: Path):
    from engine.models.generators.glide_pipeline import STAGES, convert

    states = {stage: load_file(folder / stage / "model.safetensors") for stage in STAGES}
    for stage, state in states.items():
        torch.save(state, tmp_path / f"{stage}.pt")
    convert(tmp_path / "base.pt", tmp_path / "upsampler.pt", tmp_path / "glide")
    for stage, state in states.items():
        written = load_file(tmp_path / "glide" / stage / "model.safetensors")
        assert written.keys() == state.keys()
        assert all(torch.equal(written[name], state[name]) for name in state)
    spec = generator_spec(str(tmp_path / "glide"))
    assert (spec.pipeline, spec.height, spec.width) == ("GlidePipeline", 256, 256)
    assert generator_spec(str(folder)).height == 16


def test_a_pickle_that_runs_code_is_not_converted(folder: Path, tmp_path: Path):
    from engine.models.generators.glide_pipeline import convert

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    for path in (tmp_path / "evil.pt", tmp_path / "missing.pt"):
        with pytest.raises(ValueError, match="has no weights of GLIDE") as caught:
            convert(path, path, tmp_path / "glide")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_upsampler_draws_what_the_base_drew(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    pipeline = generator._pipeline
    real, drawn = pipeline._sample, {}

    def draw(stage: str, *rest: object) -> torch.Tensor:
        drawn[stage] = real(stage, *rest)
        return drawn[stage]

    monkeypatch.setattr(pipeline, "_sample", draw)
    generator.generate([recipe(0)])
    assert (drawn["base"].shape[-1], drawn["upsampler"].shape[-1]) == (8, 16)
    plain = drawn["upsampler"]
    monkeypatch.setattr(
        pipeline, "_sample", lambda stage, *rest: -drawn["base"] if stage == "base" else draw(stage, *rest)
    )
    generator.generate([recipe(0)])
    assert not torch.equal(drawn["upsampler"], plain)


def test_without_guidance_the_base_is_asked_once(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    base = generator._pipeline.base
    real, sizes = base.forward, []
    monkeypatch.setattr(base, "forward", lambda x, *rest, **named: sizes.append(len(x)) or real(x, *rest, **named))
    generator.generate([recipe(0, guidance_scale=1.0)])
    generator.generate([recipe(0, guidance_scale=3.0)])
    assert sizes == [2, 2, 4, 4]


def test_a_text_is_read_once_a_batch_and_stage(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    for stage in ("base", "upsampler"):
        words = getattr(generator._pipeline, stage).token_embedding
        real = words.forward
        monkeypatch.setattr(words, "forward", lambda x, stage=stage, real=real: read.append(stage) or real(x))
    one, other = (generator.generate([recipe(0, prompt=prompt)]) for prompt in ("a cat", "a dog"))
    assert read == ["base", "upsampler"] * 2
    assert not torch.equal(one, other)


def test_it_draws_at_one_size(generator: DiffusionGenerator):
    with pytest.raises(ValueError, match="glide generates 16 x 16 pixels only; set that size"):
        generator.generate([recipe(0, height=32)])


def test_a_missing_package_and_missing_weights_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"glide has no weights on the Hub; convert base\.pt and upsample\.pt"):
        load_generator("glide")
    monkeypatch.setattr("engine.models.generators.glide.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="needs OpenAI's package glide_text2im, which is not on PyPI; install it with: pip install git"
    ):
        load_generator(generator_spec("glide", source=str(folder)))


def test_a_folder_keeps_its_own_options(folder: Path, generator: DiffusionGenerator):
    options = json.loads((folder / "base" / "config.json").read_text())
    assert generator._pipeline.max_prompt_tokens == options["text_ctx"] == 32
    assert generator._pipeline.image_size == 16
