from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.models.generators import PipelineAdapter, adapter_of
from engine.models.prompt_weights import escape, read_weights
from engine.testing.models import flux_pipeline, save_pipeline, sdxl_pipeline
from tests.models.test_generator import recipe


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
def test_an_unmatched_bracket_is_rejected(prompt: str):
    with pytest.raises(ValueError, match="unmatched bracket"):
        read_weights(prompt)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PipelineAdapter]:
    from diffusers import StableDiffusionPipeline

    folder = save_pipeline(tmp_path_factory.mktemp("sd"))
    pipelines = {
        "sd": StableDiffusionPipeline.from_pretrained(folder, local_files_only=True),
        "sdxl": sdxl_pipeline(),
        "flux": flux_pipeline(),
    }
    # the FLUX.1 of these tests has no transformer to ask for its guidance
    pipelines["flux"].transformer = SimpleNamespace(config=SimpleNamespace(guidance_embeds=False))
    return {name: adapter_of(type(one).__name__)(name, one, "cpu") for name, one in pipelines.items()}


def embeds(adapter: PipelineAdapter, prompt: str) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return adapter.encode(prompt)


def own_embeds(name: str, pipeline, prompt: str) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        if name == "sd":
            return {"prompt_embeds": pipeline.encode_prompt(prompt, "cpu", 1, False)[0][0]}
        if name == "sdxl":
            found, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        else:
            found, pooled, _ = pipeline.encode_prompt(prompt, None, device="cpu", max_sequence_length=256)
        return {"prompt_embeds": found[0], "pooled_prompt_embeds": pooled[0]}


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_a_prompt_without_weights_is_the_pipelines_own(name: str, adapters: dict[str, PipelineAdapter]):
    prompt = "a cat (the pet), a dog"
    ours, own = embeds(adapters[name], escape(prompt)), own_embeds(name, adapters[name].pipeline, prompt)
    assert ours.keys() == own.keys()
    assert all(torch.equal(ours[key], own[key]) for key in own)


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_a_weight_moves_its_own_tokens_and_a_weight_of_one_none(
    name: str, adapters: dict[str, PipelineAdapter], monkeypatch: pytest.MonkeyPatch
):
    adapter, key = adapters[name], "prompt_embeds"
    plain, once, twice, empty = (
        embeds(adapter, prompt)[key] for prompt in ("a cat, a pet", "a (cat), a pet", "a ((cat)), a pet", "")
    )
    moved = (twice != plain).any(dim=1).nonzero().flatten().tolist()
    assert moved
    assert len(moved) < 6  # the cat's tokens alone
    expected = empty[moved] + 1.21 * (plain - empty)[moved]
    torch.testing.assert_close(twice[moved], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(once, twice)
    if name != "flux":  # FLUX.1 has no negative prompts
        with torch.inference_mode():
            negative, weighted = adapter.encode_negative("a dog"), adapter.encode_negative("a (dog)")
        assert not torch.equal(negative[f"negative_{key}"], weighted[f"negative_{key}"])
    monkeypatch.setattr("engine.models.prompt_weights.WEIGHT_PER_BRACKET", 1.0)
    assert torch.equal(embeds(adapter, "a ((cat)), a pet")[key], plain)


def test_weighted_embeddings_generate_another_image(adapters: dict[str, PipelineAdapter]):
    adapter = adapters["sd"]
    adapter.pipeline.set_progress_bar_config(disable=True)

    def generate(prompt: str) -> torch.Tensor:
        found = {**embeds(adapter, prompt), "negative_prompt_embeds": embeds(adapter, "")["prompt_embeds"]}
        return adapter.pipeline(
            **{name: value[None] for name, value in found.items()},
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images

    assert not torch.equal(generate("a ((cat))"), generate("a cat"))


def test_weights_beside_a_learned_token_of_several_vectors_are_rejected(
    adapters: dict[str, PipelineAdapter], monkeypatch: pytest.MonkeyPatch
):
    adapter = adapters["sd"]
    monkeypatch.setattr(adapter.pipeline, "maybe_convert_prompt", lambda prompt, tokenizer: prompt + " <kea_1>")
    assert embeds(adapter, "a kea")
    with pytest.raises(ValueError, match="a learned token of several vectors cannot stand beside prompt weights"):
        embeds(adapter, "a (kea)")


def test_a_generator_without_prompt_weights_says_so():
    from engine.models.generators.omnigen import OmniGen

    with pytest.raises(ValueError, match="generator omnigen does not support prompt weights; remove the brackets"):
        OmniGen("omnigen", None, "cpu").check(recipe(0, prompt="a ((cat))"))
