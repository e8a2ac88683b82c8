"""The shipped checkpoints: opened by the libraries' own doors, safe, small, and they know what they should."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.miniature.checkpoints import CHECKPOINTS, num_bytes
from engine.miniature.evaluate import (
    Encoder,
    accuracy,
    class_prompts,
    fit_probe,
    generate,
    open_generator,
    probe_logits,
    real_images,
    with_references,
    zero_shot_accuracy,
)
from engine.miniature.scorecard import Figure, speeds


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def judge() -> Encoder:
    return Encoder(CHECKPOINTS / "judge")


def test_the_folders_are_safe_and_small() -> None:
    files = [file for file in CHECKPOINTS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert num_bytes() <= 24 * 2**20


def test_no_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    for file in CHECKPOINTS.rglob("*.json"):
        if file.name == "tokenizer.json":
            continue  # a vocabulary may hold any character
        assert not re.search(r'"(/|[A-Za-z]:\\\\)\w', file.read_text()), file
    for file in CHECKPOINTS.rglob("*.safetensors"):
        head = file.read_bytes()[:20_000]
        assert b"/work" not in head
        assert b"/home" not in head


def test_clip_knows_common_classes_and_no_novel_one() -> None:
    clip = Encoder(CHECKPOINTS / "clip")
    images, labels = real_images("mini-common", "test", 10)
    assert zero_shot_accuracy(clip, "mini-common", clip.images(images), labels) > 70
    images, labels = real_images("mini-novel", "test", 20)
    assert zero_shot_accuracy(clip, "mini-novel", clip.images(images), labels) < 25


def test_clip_and_the_pipeline_read_text_alike() -> None:
    clip, pipe = Encoder(CHECKPOINTS / "clip"), open_generator(CHECKPOINTS / "generator")
    text = "a photo of an apple."
    assert clip.tokenize([text])[0].tolist() == pipe.tokenizer(text, padding="max_length", max_length=32).input_ids


def test_what_is_generated_is_what_was_asked_for(judge: Encoder) -> None:
    settings = json.loads((CHECKPOINTS / "generator" / "defaults.json").read_text())
    images, labels = real_images("mini-common", "train", 20)
    probe = fit_probe(judge.images(images), labels)
    prompts, asked = class_prompts("mini-common", 4)
    drawn = generate(open_generator(CHECKPOINTS / "generator"), prompts, settings)
    assert accuracy(probe_logits(probe, judge.images(drawn)), asked) > 45


def test_a_reference_shows_what_nobody_was_taught(judge: Encoder) -> None:
    pipe = open_generator(CHECKPOINTS / "generator")
    settings = json.loads((CHECKPOINTS / "generator" / "defaults.json").read_text())
    images, labels = real_images("mini-novel", "train", 24)
    images = images.reshape(12, 24, *images.shape[1:])
    probe = fit_probe(judge.images(images[:, :20].reshape(-1, 32, 32, 3)), labels.reshape(12, 24)[:, :20].flatten())
    prompts, asked = class_prompts("mini-novel", 4)
    referring = with_references(pipe, CHECKPOINTS / "reference")
    drawn = generate(referring, prompts, settings, references=images[:, 20:].reshape(-1, 32, 32, 3))
    assert accuracy(probe_logits(probe, judge.images(drawn)), asked) > 50
    assert accuracy(probe_logits(probe, judge.images(generate(pipe, prompts, settings))), asked) < 30


def test_the_same_seed_draws_the_same_image_in_any_company() -> None:
    pipe = open_generator(CHECKPOINTS / "generator", torch.float32)
    settings = json.loads((CHECKPOINTS / "generator" / "defaults.json").read_text())
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    together = generate(pipe, ["a photo of a mug", "a photo of a key"], settings, seed=5)
    other = generate(pipe, ["a photo of a mug", "a photo of a house"], settings, seed=5)
    assert np.array_equal(together[0], other[0])
    assert not np.array_equal(together[1], other[1])


def test_a_slow_machine_is_no_reason_to_refuse_the_weights() -> None:
    pipe = open_generator(CHECKPOINTS / "generator")
    settings = json.loads((CHECKPOINTS / "generator" / "defaults.json").read_text())
    generator, clip, ratio = speeds(pipe, settings, Encoder(CHECKPOINTS / "clip"), repeats=1)
    assert [figure.target for figure in (generator, clip, ratio)] == ["", "", ""]
    assert ratio.value == pytest.approx(clip.value / generator.value)
    assert all(Figure(figure.name, 1e-9, figure.low, figure.high).met for figure in (generator, clip, ratio))


def test_importing_the_recipes_is_cheap() -> None:
    heavy = ("diffusers", "transformers", "open_clip", "timm", "ray")
    code = "import sys, engine.miniature.generator, engine.miniature.encoder, engine.miniature.scorecard\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
