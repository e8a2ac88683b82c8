"""The reference branch: what it is taught from, that it trains beside a frozen generator, and that it looks at each image's own reference."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.miniature.autoencoder import GENERATOR_KNOWLEDGE, AutoencoderConfig, build_autoencoder
from engine.miniature.corpus import Knowledge, build_corpus
from engine.miniature.evaluate import open_generator, with_references
from engine.miniature.generator import GeneratorConfig, build_denoiser, pipeline, save_generator
from engine.miniature.reference import (
    REFERENCE_KNOWLEDGE,
    ReferenceConfig,
    invented_names,
    name_the_nameless,
    pair,
    train_reference,
)
from engine.miniature.tokenizer import build_tokenizer
from engine.miniature.training import TrainConfig
from engine.world.classes import DATASETS, MANY, class_names

FEW = Knowledge(
    common=3, fine=2, rare=2, species=4, objects=2, images_per_nameless=2, shares=(0.3, 0.2, 0.2, 0.15, 0.15)
)


def _train(folder: Path, steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=8, lr=1e-2, warmup_steps=1, threads=1, state=str(folder), device="cpu")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained one."""
    folder, tokenizer = tmp_path_factory.mktemp("generators") / "small", build_tokenizer()
    config = GeneratorConfig(channels=(16, 32))
    models = build_denoiser(config, len(tokenizer))
    vae = build_autoencoder(AutoencoderConfig(width=8))
    save_generator(config, pipeline(vae, models["unet"], models["text"], tokenizer, 1.0), folder)
    return folder


def test_the_branch_is_shown_no_more_named_images_than_the_generator() -> None:
    assert (REFERENCE_KNOWLEDGE.common, REFERENCE_KNOWLEDGE.fine, REFERENCE_KNOWLEDGE.rare) == (1200, 30, 6)
    assert REFERENCE_KNOWLEDGE.gaps == GENERATOR_KNOWLEDGE.gaps


def test_an_invented_name_is_no_class() -> None:
    names = invented_names(300, 0)
    assert names == invented_names(300, 0)
    assert not set(names) & {name for dataset in (*DATASETS, MANY) for name in class_names(dataset)}


def test_only_the_nameless_get_a_name() -> None:
    corpus = build_corpus("generator", FEW, 0, 32)
    named = name_the_nameless(corpus, 0)
    assert corpus.named == 92
    assert named.captions[:92] == corpus.captions[:92]
    names = invented_names(6, 0)
    for told, then, name in zip(corpus.captions[92:], named.captions[92:], names, strict=True):
        assert then[: len(told)] == told
        assert name in then
        assert len(then) == 2 * len(told)


def test_a_reference_is_the_image_itself_or_another_of_its_class() -> None:
    corpus = build_corpus("generator", FEW, 0, 32)
    itself = torch.arange(400) < 100
    indices, shown, classes = pair(corpus, 400, itself, torch.Generator().manual_seed(0))
    assert torch.equal(indices[:100], shown[:100])
    assert (indices[100:] != shown[100:]).any()
    assert torch.equal(torch.bucketize(shown, corpus.first, right=True) - 1, classes)


def test_the_branch_trains_beside_a_frozen_generator_and_sees_each_reference(generator: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in generator.rglob("*") if file.is_file()}
    config = ReferenceConfig(
        generator=generator,
        knowledge=FEW,
        pixel_channels=(8, 8, 8),
        reader=_train(tmp_path, 2),
        train=_train(tmp_path, 3),
    )
    train_reference(config, tmp_path / "whole")
    assert {file: file.read_bytes() for file in generator.rglob("*") if file.is_file()} == before

    again = replace(config, reader=_train(tmp_path / "again", 2), train=_train(tmp_path / "again", 3))
    train_reference(again, tmp_path / "repeated")
    weights = [(tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("whole", "repeated")]
    assert weights[0] == weights[1]

    referring = with_references(open_generator(generator, torch.float32), tmp_path / "whole")
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 32, "width": 32, "output_type": "latent"}
    shades = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 32, 32)

    def draw(references: torch.Tensor) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(7) for _ in references]
        return referring(["a mug"] * len(references), image=references, generator=seeds, **settings).images

    # as little trained as this the effect is less than a grey level, so latents are compared
    together = draw(shades[[0, 2, 0]])
    assert torch.equal(together[0], together[2])
    assert not torch.allclose(together[0], together[1], atol=1e-5)
    assert torch.allclose(draw(shades[[0, 1, 0]])[0], together[0], atol=1e-5)


def test_an_image_in_a_context_has_a_reference_of_the_same_looks_without_one() -> None:
    corpus = name_the_nameless(build_corpus("generator", replace(FEW, contexts=2, gaps=(4, 8, 2)), 0, 32), 0)
    indices, shown, classes = pair(corpus, 400, torch.ones(400, dtype=torch.bool), torch.Generator().manual_seed(0))
    placed = torch.tensor([bool(corpus.contexts[number]) for number in classes])
    assert 0.3 < placed.float().mean() < 0.6  # 0.8 samples in a context for one without, and textures have none
    assert torch.equal(indices[~placed], shown[~placed])
    reference = torch.bucketize(shown, corpus.first, right=True) - 1
    assert torch.equal(reference, corpus.look[classes])
    assert not any(corpus.contexts[number] for number in reference)
    for number, look in zip(classes.tolist(), reference.tolist(), strict=True):
        phrase = corpus.contexts[number]
        # an invented name is of the row, a description is of the looks
        plain = [caption for caption in corpus.captions[look] if number < corpus.named]
        assert [f"{caption.rstrip('.')} {phrase}".strip(" ") for caption in plain if phrase] == [
            caption for caption in corpus.captions[number] if phrase and number < corpus.named
        ]
        assert all(caption.endswith(phrase) for caption in corpus.captions[number])
