from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.models.prompt_weights import escape, prompt_embeds, read_weights
from engine.testing.models import flux_pipeline, save_pipeline, sdxl_pipeline


@given(st.text())
def test_what_is_escaped_is_read_literally(text: str):
    read = read_weights(escape(text))
    assert read.text == text
    assert read.is_plain


def test_each_pair_of_brackets_weighs_a_tenth_more():
    read = read_weights("a ((cat)) and (a (dog)) \\(1\\)")
    assert read.text == "a cat and a dog (1)"
    words = {word: set(read.weights[read.text.index(word) :][: len(word)]) for word in ("cat", "and", "dog", "(1)")}
    assert words == {"cat": {1.21}, "and": {1.0}, "dog": {1.21}, "(1)": {1.0}}
    assert read.weights[read.text.index("a dog")] == 1.1


@pytest.mark.parametrize("prompt", ["a (cat", "a cat)", ":)", ")a("])
def test_a_bracket_without_a_partner_is_refused(prompt: str):
    with pytest.raises(ValueError, match="bracket without a partner"):
        read_weights(prompt)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {"sd": tiny_sd(tmp_path_factory.mktemp("sd")), "sdxl": sdxl_pipeline(), "flux": flux_pipeline()}


def tiny_sd(folder: Path) -> object:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(save_pipeline(folder), local_files_only=True)


def own_embeds(name: str, pipeline, prompt: str) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        if name == "sd":
            return {"prompt_embeds": pipeline.encode_prompt(prompt, "cpu", 1, False)[0]}
        if name == "sdxl":
            embeds, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        else:
            embeds, pooled, _ = pipeline.encode_prompt(prompt, None, device="cpu", max_sequence_length=64)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_a_prompt_without_weights_is_the_pipelines_own(name: str, pipelines: dict[str, object]):
    prompt = "a photo of a cat (the animal), a pet"
    ours = prompt_embeds(pipelines[name], escape(prompt), max_sequence_length=64)
    own = own_embeds(name, pipelines[name], prompt)
    assert ours.keys() == own.keys()
    assert all(torch.equal(ours[key], own[key]) for key in own)


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_a_weight_moves_its_own_tokens_and_a_weight_of_one_none(
    name: str, pipelines: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    pipeline = pipelines[name]
    plain = prompt_embeds(pipeline, "a cat, a pet", "a dog", max_sequence_length=64)
    once = prompt_embeds(pipeline, "a (cat), a pet", "a dog", max_sequence_length=64)
    twice = prompt_embeds(pipeline, "a ((cat)), a pet", "a (dog)", max_sequence_length=64)
    empty = prompt_embeds(pipeline, "", max_sequence_length=64)["prompt_embeds"]
    key = "prompt_embeds"
    moved = (twice[key] != plain[key]).any(dim=2)[0].nonzero().flatten().tolist()
    assert moved
    assert len(moved) < 6  # the cat's tokens alone
    expected = empty[:, moved] + 1.21 * (plain[key] - empty)[:, moved]
    torch.testing.assert_close(twice[key][:, moved], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(once[key], twice[key])
    assert torch.equal(once[f"negative_{key}"], plain[f"negative_{key}"])
    assert not torch.equal(twice[f"negative_{key}"], plain[f"negative_{key}"])
    monkeypatch.setattr("engine.models.prompt_weights.WEIGHT_PER_BRACKET", 1.0)
    assert torch.equal(prompt_embeds(pipeline, "a ((cat)), a pet", max_sequence_length=64)[key], plain[key])


def test_weighted_embeddings_draw_another_picture(pipelines: dict[str, object]):
    pipeline = pipelines["sd"]
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> torch.Tensor:
        return pipeline(
            **prompt_embeds(pipeline, prompt, ""),
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images

    assert not torch.equal(draw("a ((cat))"), draw("a cat"))


def test_a_pipeline_without_weights_says_so():
    class OmniGenPipeline:
        pass

    with pytest.raises(ValueError, match="OmniGenPipeline takes no weighted prompts"):
        prompt_embeds(OmniGenPipeline(), "a ((cat))")
