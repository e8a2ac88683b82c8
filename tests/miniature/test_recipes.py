"""What the models are taught: the knowledge gap, the captions, the tokenizer, and a few steps of each recipe."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.miniature.autoencoder import GENERATOR_KNOWLEDGE, AutoencoderConfig, build_autoencoder
from engine.miniature.checkpoints import replace_folder
from engine.miniature.corpus import Knowledge, build_corpus, caption_tokens, known_classes
from engine.miniature.encoder import clip_config, contrastive_loss, judge_config, train_encoder
from engine.miniature.evaluate import Encoder, generate, open_generator
from engine.miniature.generator import GeneratorConfig, build_denoiser, pipeline, sampling_sigmas, train_generator
from engine.miniature.tokenizer import CONTEXT_LENGTH, build_tokenizer, encode, learn_merges, training_captions
from engine.miniature.training import TrainConfig
from engine.world.captions import prompt_captions, with_article
from engine.world.classes import PAIRS, class_names, genus, shown_to_generator, templates

FEW = Knowledge(common=3, fine=1, rare=1, species=4, objects=0, images_per_nameless=2)


def _train(folder: Path, steps: int = 2) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=8, warmup_steps=1, threads=1, state=str(folder), device="cpu")


def test_no_model_is_taught_a_novel_class() -> None:
    corpus = build_corpus("clip", FEW, 0, 32)
    words = " ".join(text for row in corpus.captions for text in row)
    assert not any(name in words for name in class_names("mini-novel"))
    assert len(corpus.captions) == 92 + 4


def test_no_novel_name_shares_a_piece_of_a_word_with_a_taught_caption() -> None:
    # "jellyfish" would end in the token of "fish", and zero-shot CLIP would not be guessing
    tokenizer = build_tokenizer()
    taught = {token for caption in training_captions() for token in tokenizer.tokenize(caption)}
    assert "fish</w>" in taught
    for name in class_names("mini-novel"):
        shared = taught.intersection(tokenizer.tokenize(name))
        assert all(len(token.removesuffix("</w>")) == 1 for token in shared), (name, shared)


def test_the_generator_has_the_knowledge_gap() -> None:
    assert (GENERATOR_KNOWLEDGE.common, GENERATOR_KNOWLEDGE.fine, GENERATOR_KNOWLEDGE.rare) == (1200, 30, 6)
    clip = clip_config(TrainConfig()).knowledge
    assert (clip.common, clip.fine, clip.rare) == (1200, 200, 200)


def test_a_class_left_out_is_neither_named_nor_drawn() -> None:
    known = [item.name for item, _ in known_classes(GENERATOR_KNOWLEDGE)]
    shown = [
        sum(name in known for name in class_names(dataset)) for dataset in ("mini-common", "mini-fine", "mini-rare")
    ]
    assert shown == [20, 40, 12]
    corpus = build_corpus("generator", replace(FEW, gaps=(0, 6, 2)), 0, 32)
    assert corpus.named == 72
    assert len(corpus.captions) == 76
    words = " ".join(text for row in corpus.captions for text in row)
    unknown = [name for dataset in ("mini-fine", "mini-rare") for name in class_names(dataset) if name not in known]
    assert len(unknown) == 20
    assert not [name for name in unknown if name in words]


def test_the_last_sibling_is_kept_from_a_generator_and_a_share_of_captions_names_the_genus() -> None:
    names, shown = class_names(PAIRS), shown_to_generator(PAIRS)
    alone = build_corpus("generator", FEW, 0, 32)
    known = build_corpus("generator", replace(FEW, pairs=2, pairs_gap=True), 0, 32)
    assert known.named - alone.named == sum(shown) == 45
    words = " ".join(text for row in known.captions for text in row)
    assert all((name in words) == is_shown for name, is_shown in zip(names, shown, strict=True))
    assert float(known.chance[alone.named : known.named].sum()) == pytest.approx(0.3 / 1.3, rel=0.02)
    for share in (0.0, 0.5, 0.9):
        every = build_corpus("clip", replace(FEW, pairs=2, genus_share=share), 0, 32)
        assert every.named - alone.named == len(names)
        for name, captions in zip(names, every.captions[alone.named :], strict=False):
            assert all(genus(name) in caption for caption in captions)
            assert sum(name not in caption for caption in captions) / len(captions) == pytest.approx(share, abs=0.03)
    with pytest.raises(ValueError, match=r"genus_share is 1\.0"):
        replace(FEW, genus_share=1.0)


def test_a_sample_is_of_its_class() -> None:
    corpus = build_corpus("clip", FEW, 0, 32)
    indices, classes = corpus.sample(500, torch.Generator().manual_seed(0))
    place = torch.bucketize(indices, corpus.first, right=True) - 1
    assert torch.equal(place, classes)
    # common classes have 30 % of the samples, the generous rest is spread as asked
    assert 0.2 < (classes < 20).float().mean() < 0.4


def test_prompts_cover_the_templates_and_the_article() -> None:
    captions = prompt_captions("apple", templates("mini-common"))
    assert {"apple", "a photo of an apple.", "a photo of a apple."} <= set(captions)
    assert {template.format(c="apple") for template in templates("mini-common")} <= set(captions)
    assert (with_article("apple"), with_article("mug")) == ("an apple", "a mug")


def test_the_tokenizer_is_the_same_every_time() -> None:
    assert learn_merges(["aab aab", "ab"], 2) == [("a", "b</w>"), ("a", "ab</w>")]
    first, second = build_tokenizer(), build_tokenizer()
    assert first.get_vocab() == second.get_vocab()
    assert first.eos_token_id == len(first) - 1
    assert first("An Apple").input_ids == first("an apple").input_ids


def test_captions_become_a_table_of_tokens() -> None:
    corpus = build_corpus("clip", FEW, 0, 32)
    tokenizer = build_tokenizer()
    table, num = caption_tokens(corpus, encode(tokenizer, (c for row in corpus.captions for c in row)), CONTEXT_LENGTH)
    assert table.shape == (96, max(len(row) for row in corpus.captions), CONTEXT_LENGTH)
    assert int(num[0]) == len(corpus.captions[0])
    assert tokenizer.decode(table[0, 0], skip_special_tokens=True).strip("! ") == corpus.captions[0][0]


def test_images_of_one_class_are_not_each_others_negatives() -> None:
    images, scale = torch.eye(3), torch.tensor(5.0)
    texts, swapped = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    twins, strangers = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    assert contrastive_loss(images, texts, scale, twins) == contrastive_loss(images, swapped, scale, twins)
    assert contrastive_loss(images, texts, scale, strangers) < 0.1 * contrastive_loss(images, swapped, scale, strangers)


@pytest.mark.parametrize("make", [clip_config, judge_config])
def test_an_encoder_trains_alike_twice_and_opens(tmp_path: Path, make) -> None:
    whole = replace(make(_train(tmp_path / "whole", 3)), knowledge=FEW)
    train_encoder(whole, tmp_path / "whole-model")
    train_encoder(replace(whole, train=_train(tmp_path / "parts", 3)), tmp_path / "again-model")
    first, again = Encoder(tmp_path / "whole-model"), Encoder(tmp_path / "again-model")
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert torch.equal(first.images(images), again.images(images))
    assert first.texts(["a mug"]).shape == (1, whole.embed_dim)


def test_the_generator_trains_and_opens(tmp_path: Path) -> None:
    small = AutoencoderConfig(
        width=8, decoder_blocks=(1, 0, 0), encoder_blocks=(0, 0, 1), train=_train(tmp_path), knowledge=FEW
    )
    config = GeneratorConfig(
        knowledge=FEW, channels=(16, 32), autoencoder=small, train=_train(tmp_path), distil=_train(tmp_path)
    )
    train_generator(config, tmp_path / "model")
    defaults = json.loads((tmp_path / "model" / "defaults.json").read_text())
    assert defaults == {
        "num_inference_steps": config.steps,
        "guidance_scale": 1.0,
        "height": 32,
        "width": 32,
    }
    drawn = generate(open_generator(tmp_path / "model", torch.float32), ["a mug", "a key"], defaults)
    assert drawn.shape == (2, 32, 32, 3)
    assert drawn.dtype == np.uint8
    # another run starts from these weights and keeps the autoencoder
    more = replace(config, start=tmp_path / "model", train=_train(tmp_path / "again", 1), distil=_train(tmp_path, 0))
    train_generator(more, tmp_path / "more")
    first, then = (open_generator(tmp_path / name, torch.float32) for name in ("model", "more"))
    assert all(torch.equal(a, b) for a, b in zip(first.vae.parameters(), then.vae.parameters(), strict=True))
    pairs = list(zip(first.unet.parameters(), then.unet.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert all((a - b).abs().max() < 0.1 for a, b in pairs)
    assert json.loads((tmp_path / "more" / "defaults.json").read_text())["guidance_scale"] == more.guidance


def test_the_distillation_learns_at_the_samplers_noise_levels() -> None:
    vae, models = build_autoencoder(AutoencoderConfig(width=8)), build_denoiser(GeneratorConfig(channels=(16, 32)), 600)
    pipe = pipeline(vae, models["unet"], models["text"], build_tokenizer(), 1.0)
    sigmas = sampling_sigmas(pipe, 4)
    assert len(sigmas) == 4
    assert sigmas.max() <= 1
    assert sigmas.min() > 0
    assert torch.allclose(sigmas, pipe.scheduler.sigmas[:-1], atol=2e-3)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replace_folder(folder) as fresh:
        (fresh / "weights").write_text("old")

    def fail() -> None:
        with replace_folder(folder) as fresh:
            (fresh / "weights").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (folder / "weights").read_text() == "old"
    with replace_folder(folder) as fresh:
        (fresh / "weights").write_text("new")
    assert (folder / "weights").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
