"""Learned tokens: names, files that diffusers itself reads, and images of recipes that name them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from engine.models import generator_spec, load_generator
from engine.models.generator import DiffusionGenerator
from engine.models.inversion.tokens import LearnedToken, token_name, token_names
from engine.recipe import Recipe
from engine.testing.generators import save

KEY = "0" * 32
OTHER = "1" * 32


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save("sdxl", tmp_path_factory.mktemp("xl"))["source"]


def learned(name: str, width: int = 32, vectors: int = 1, seed: int = 0) -> LearnedToken:
    rng = torch.Generator().manual_seed(seed)
    return LearnedToken(name, {"emb_params": torch.randn(vectors, width, generator=rng)})


def recipe(generator: DiffusionGenerator, prompt: str, key: str = "", seed: int = 0) -> Recipe:
    spec = generator.spec
    return Recipe(
        source="injected" if key else "generative",
        dataset="things",
        class_index=0,
        class_name="cat",
        prompt=prompt,
        seed=seed,
        **spec.recipe_fields()
        | {"num_inference_steps": 2, "revision": spec.recipe_revision() + (f"+token@{key}" if key else "")},
    )


@pytest.mark.parametrize(
    ("dataset", "class_name", "token"),
    [
        ("voc-2007", "aeroplane", "<|voc-2007 aeroplane|>"),
        ("FGVC", "DR_400 (old)", "<|fgvc dr 400 old|>"),
        ("a|b", "<x> \\ y", "<|a b x y|>"),
    ],
)
def test_a_token_has_the_papers_form_and_no_sign_that_means_something_else(dataset: str, class_name: str, token: str):
    assert token_name(dataset, class_name) == token


def test_classes_that_differ_in_case_or_signs_alone_have_different_tokens():
    names = token_names("d", ["Golden_Retriever", "golden retriever", "golden-retriever", "cat"])
    assert names == [
        "<|d golden retriever|>",
        "<|d golden retriever 2|>",
        "<|d golden retriever 3|>",
        "<|d cat|>",
    ]


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_reads_the_file_as_it_is(tmp_path: Path, tiny_pipeline: str, vectors: int):
    token = learned("<|mini-novel potted plant|>", vectors=vectors)
    path = tmp_path / "potted plant.safetensors"
    path.write_bytes(token.to_bytes())
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.load_textual_inversion(str(path), use_safetensors=True)
    text = pipeline.maybe_convert_prompt(f"a photo of a {token.name}.", pipeline.tokenizer)
    ids = pipeline.tokenizer(text).input_ids
    rows = pipeline.text_encoder.get_input_embeddings().weight
    learned_ids = [one for one in ids if one >= len(rows) - vectors]
    assert len(learned_ids) == vectors
    assert torch.equal(rows[learned_ids], token.vectors["emb_params"])


def test_diffusers_reads_both_halves_of_a_file_for_xl(tmp_path: Path, xl_folder: str):
    rng = torch.Generator().manual_seed(0)
    token = LearnedToken(
        "<|d cat|>", {"clip_l": torch.randn(1, 16, generator=rng), "clip_g": torch.randn(1, 16, generator=rng)}
    )
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    widths = [one.get_input_embeddings().weight.shape[1] for one in (pipeline.text_encoder, pipeline.text_encoder_2)]
    token = LearnedToken(
        token.name, {k: torch.randn(1, w, generator=rng) for k, w in zip(token.vectors, widths, strict=True)}
    )
    (tmp_path / "cat.safetensors").write_bytes(token.to_bytes())
    found = load_file(tmp_path / "cat.safetensors")
    for part, number in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = getattr(pipeline, f"text_encoder{number}"), getattr(pipeline, f"tokenizer{number}")
        pipeline.load_textual_inversion(found[part], token=token.name, text_encoder=encoder, tokenizer=tokenizer)
        row = tokenizer.convert_tokens_to_ids(token.name)
        assert torch.equal(encoder.get_input_embeddings().weight[row], token.vectors[part][0])
    assert LearnedToken.from_bytes(token.name, token.to_bytes()).vectors.keys() == {"clip_l", "clip_g"}


def test_two_tokens_of_one_name_make_different_images_in_one_batch(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline, batch_size=4)
    name = "<|things cat|>"
    prompt = f"a photo of a {name}."
    before = generator.generate([recipe(generator, "a photo of a cat.")])
    generator.add_tokens({KEY: learned(name), OTHER: learned(name, seed=1)})
    together = generator.generate([recipe(generator, prompt, KEY), recipe(generator, prompt, OTHER)])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[1], generator.generate([recipe(generator, prompt, OTHER)])[0])
    assert torch.equal(before, generator.generate([recipe(generator, "a photo of a cat.")]))
    # what was there stays, whatever came later
    generator.add_tokens({KEY: learned(name, seed=5), "2" * 32: learned("<|things dog|>", vectors=2)})
    assert torch.equal(together[0], generator.generate([recipe(generator, prompt, KEY)])[0])


def test_every_vector_of_a_token_counts(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline, batch_size=1)
    both = learned("<|things cat|>", vectors=2)
    changed = LearnedToken(both.name, {"emb_params": both.vectors["emb_params"] * torch.tensor([[1.0], [-1.0]])})
    generator.add_tokens({KEY: both, OTHER: changed})
    images = [generator.generate([recipe(generator, "a <|things cat|>", key)]) for key in (KEY, OTHER)]
    assert not torch.equal(*images)


def test_a_token_may_stand_in_weighted_brackets_if_it_is_one_vector(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline, batch_size=1)
    generator.add_tokens({KEY: learned("<|things cat|>"), OTHER: learned("<|things cat|>", vectors=2)})
    plain, weighted = (
        generator.generate([recipe(generator, text, KEY)]) for text in ("a <|things cat|>", "a ((<|things cat|>))")
    )
    assert not torch.equal(plain, weighted)
    with pytest.raises(ValueError, match="several vectors cannot stand beside prompt weights"):
        generator.generate([recipe(generator, "a ((<|things cat|>))", OTHER)])


def test_what_names_no_token_or_another_is_refused(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline, batch_size=1)
    generator.add_tokens({KEY: learned("<|things cat|>")})
    with pytest.raises(ValueError, match="the form of a learned token, and the recipe names none"):
        generator.generate([recipe(generator, "a photo of a <|things cat|>")])
    with pytest.raises(ValueError, match=f"needs the learned token {OTHER}, which is not loaded"):
        generator.generate([recipe(generator, "a photo of a <|things cat|>", OTHER)])
    for prompt in ("a photo of a cat", "a <|things cat|> beside a <|things dog|>"):
        with pytest.raises(ValueError, match="its prompt does not hold that alone"):
            generator.generate([recipe(generator, prompt, KEY)])
    wrong = replace(recipe(generator, "a <|things cat|>", KEY), revision=f"0123+token@{KEY}")
    with pytest.raises(ValueError, match="planned for revision 0123"):
        generator.generate([wrong])


def test_a_token_of_another_generator_is_refused(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline)
    with pytest.raises(ValueError, match="has no vectors of 32 numbers for text_encoder; fit it for this generator"):
        generator.add_tokens({KEY: learned("<|things cat|>", width=8)})
    assert not generator.tokens


def test_bytes_that_are_no_token_are_refused():
    with pytest.raises(ValueError, match="is not a safetensors file"):
        LearnedToken.from_bytes("<|d cat|>", b"no token")


def test_a_token_that_is_too_long_for_the_prompt_is_refused(tiny_pipeline: str):
    generator = load_generator(generator_spec(tiny_pipeline), batch_size=1)
    generator.add_tokens({KEY: learned("<|things cat|>", vectors=40)})
    with pytest.raises(ValueError, match=r"tokens and generator .* reads 32; shorten it"):
        generator.generate([recipe(generator, "a <|things cat|>", KEY)])
