"""The fit of tokens: what it changes, what it leaves alone, what it depends on, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.models import generator_spec, load_generator
from engine.models.generator import DiffusionGenerator
from engine.models.inversion import InversionConfig, preset
from engine.models.inversion.fit import Category, check_references, check_supported, fit_tokens
from engine.models.inversion.noise import Noise
from engine.testing.generators import save

FEW = InversionConfig(
    steps=3,
    learning_rate=1e-2,
    learning_rate_retrieval=1e-3,
    samples_per_step=2,
    categories_per_batch=2,
)


@pytest.fixture(scope="module")
def generator(tiny_pipeline: str) -> DiffusionGenerator:
    return load_generator(tiny_pipeline)


def category(number: int, **changes: object) -> Category:
    rng = np.random.default_rng(number)
    images = [rng.integers(0, 256, (40, 32 + number, 3), np.uint8) for _ in range(2)]
    values = {"token": f"<|d {number}|>", "images": images, "templates": ("a photo of a {c}.", "{c}"), "seed": number}
    return Category(**{**values, **changes})


def rows(
    generator: DiffusionGenerator, categories: list[Category], config: InversionConfig = FEW
) -> list[torch.Tensor]:
    return [one.token.vectors["emb_params"] for one in fit_tokens(generator, categories, config)]


def test_a_token_does_not_depend_on_its_companions_or_its_place(generator: DiffusionGenerator):
    first, second, third = rows(generator, [category(number) for number in range(3)])
    again = rows(generator, [category(2), category(0)])
    assert torch.equal(again[1], first)
    assert torch.equal(again[0], third)
    assert not torch.equal(first, second)


def test_the_frozen_model_stays_as_it_is(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline)
    pipeline = generator.adapter.pipeline
    parts = {"unet": pipeline.unet, "text": pipeline.text_encoder, "vae": pipeline.vae}
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    fit_tokens(generator, [category(0)], FEW)
    for name, part in parts.items():
        after = part.state_dict()
        assert after.keys() == before[name].keys()
        assert all(torch.equal(after[key], value) for key, value in before[name].items())
    assert len(pipeline.tokenizer) == pipeline.text_encoder.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("bank", [0, 6])
def test_the_loss_falls(bank: int):
    generator = load_generator("mini", dtype="float32")
    config = preset("mini", steps=20, samples_per_step=4, categories_per_batch=1, bank=bank)
    rng = np.random.default_rng(0)
    red = rng.normal((200, 30, 30), 8, (32, 32, 3)).clip(0, 255).astype(np.uint8)
    (fitted,) = fit_tokens(generator, [category(0, images=[red])], config)
    assert np.mean(fitted.losses[-3:]) < 0.9 * np.mean(fitted.losses[:3])
    assert len(fitted.losses) == 10


def test_the_learned_guidance_is_taken_out_of_the_targets():
    generator = load_generator("mini", dtype="float32")
    assert generator.spec.distilled_guidance == 4
    plain = replace(generator.spec, distilled_guidance=1.0)
    config = preset("mini", steps=2, categories_per_batch=1)
    guided = fit_tokens(generator, [category(0)], config)[0]
    generator.spec = plain
    unguided = fit_tokens(generator, [category(0)], config)[0]
    assert guided.losses[0] > 2 * unguided.losses[0]  # an answer with guidance is far from the plain target


@pytest.mark.parametrize(
    "changes", [{"seed": 5}, {"images": [np.full((32, 32, 3), 9, np.uint8)]}, {"source": "retrieval"}]
)
def test_seed_images_and_source_change_the_token(generator: DiffusionGenerator, changes: dict[str, object]):
    assert not torch.equal(rows(generator, [category(0)])[0], rows(generator, [category(0, **changes)])[0])


def test_xl_learns_a_row_for_each_of_its_two_text_encoders(tmp_path_factory: pytest.TempPathFactory):
    saved = save("sdxl", tmp_path_factory.mktemp("xl"))
    generator = load_generator(
        replace(generator_spec("sdxl", source=saved["source"]), height=16, width=16), dtype="float32"
    )
    starts = fit_tokens(generator, [category(0)], replace(FEW, steps=1, learning_rate=1e-12))
    (fitted,) = fit_tokens(generator, [category(0)], FEW)
    assert list(fitted.token.vectors) == ["clip_l", "clip_g"]
    for name, vectors in fitted.token.vectors.items():
        assert not torch.allclose(vectors, starts[0].token.vectors[name], atol=1e-4)
    generator.add_tokens({"0" * 32: fitted.token})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_and_target_are_those_of_the_scheduler(tiny_pipeline: str, kind: str):
    generator = load_generator(tiny_pipeline)
    pipeline = generator.adapter.pipeline
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type=kind)
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    levels = torch.tensor([10, 900])
    noisy, times, target = Noise(generator).add(clean, noise, levels)
    share = pipeline.scheduler.alphas_cumprod[levels][:, None, None, None]
    assert torch.equal(times, levels)
    assert torch.allclose(noisy, share.sqrt() * clean + (1 - share).sqrt() * noise, atol=1e-5)
    velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
    assert torch.allclose(target, noise if kind == "epsilon" else velocity, atol=1e-5)


def test_a_flow_runs_from_the_image_to_the_noise():
    noise = Noise(load_generator("mini"))
    clean, other = torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    noisy, times, target = noise.add(clean, other, torch.tensor([0.25, 1.0]))
    assert noisy[:, 0, 0, 0].tolist() == [0.25, 1.0]
    assert times.tolist() == [250, 1000]
    assert torch.equal(target, other)
    assert len(noise.own_levels) == 4
    levels = noise.levels(400, 0.7, torch.Generator().manual_seed(0))
    assert 0.6 < np.isin(levels.numpy(), noise.own_levels.numpy()).mean() < 0.8


def test_a_batch_that_does_not_fit_is_halved(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    unet, sizes = generator.adapter.pipeline.unet, []
    real = unet.forward

    def small(sample: torch.Tensor, *rest: object, **named: object) -> object:
        sizes.append(len(sample))
        if len(sample) > 2:
            raise torch.OutOfMemoryError
        return real(sample, *rest, **named)

    monkeypatch.setattr(unet, "forward", small)
    assert len(fit_tokens(generator, [category(0), category(1)], FEW)) == 2
    assert sizes == [4, *[2] * 6]
    with pytest.raises(ValueError, match="3 noisy images of one category do not fit into the memory of cpu"):
        fit_tokens(generator, [category(0)], replace(FEW, samples_per_step=3))


def test_a_fit_that_explodes_has_no_token_and_spares_its_companions(generator: DiffusionGenerator):
    good, bad = fit_tokens(
        generator, [category(0), category(1, source="retrieval")], replace(FEW, learning_rate_retrieval=1e38)
    )
    assert bad.token is None
    assert torch.isfinite(good.token.vectors["emb_params"]).all()


def test_small_references_are_refused_unless_allowed():
    with pytest.raises(
        ValueError, match=r"2 of 3 reference images of <\|d cat\|> are smaller than 32x32 pixels"
    ) as caught:
        check_references("<|d cat|>", [(32, 32), (28, 28), (64, 31)], allow_small=False)
    assert "do not converge (GenBench section 11); give larger ones, or allow them" in str(caught.value)
    check_references("<|d cat|>", [(28, 28)], allow_small=True)
    check_references("<|d cat|>", [(32, 32)], allow_small=False)


def test_bad_categories_are_refused_in_a_sentence(generator: DiffusionGenerator):
    with pytest.raises(ValueError, match="has no reference image; give at least one"):
        fit_tokens(generator, [category(0, images=[])], FEW)
    with pytest.raises(ValueError, match="is too long for 32 tokens; shorten it"):
        fit_tokens(generator, [category(0, templates=("x" * 40 + " {c}",))], FEW)


def test_a_generator_without_learned_tokens_is_refused(tiny_pipeline: str):
    generator = load_generator(tiny_pipeline)
    generator.adapter.vocabularies = ()
    with pytest.raises(ValueError, match="takes no learned tokens; choose a Stable Diffusion 1, 2 or XL generator"):
        check_supported(generator)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps of the inversion is 0; give 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate of the inversion is -1.0; give a positive number"),
        ({"learning_rate_retrieval": float("nan")}, "learning_rate_retrieval of the inversion is nan"),
        ({"bank": -1}, "give 0 or more"),
        ({"sampler_share": 1.5}, "sampler_share of the inversion is 1.5"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
    ],
)
def test_bad_settings_are_one_sentence(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        preset("mini", **changes)


def test_presets_are_what_their_sources_say():
    assert preset("paper").steps == 1000
    official = preset("official")
    assert (official.steps, official.samples_per_step) == (5000, 8)
    assert (official.rate("original"), official.rate("retrieval")) == (5e-4, 1e-4)
    assert [official.share_of_rate(step) for step in (0, 625, 1250)] == pytest.approx([1, 0.5, 1])
    assert preset("mini", steps=None).steps == preset("mini").steps
    with pytest.raises(ValueError, match="unknown preset 'offical'; did you mean official"):
        preset("offical")
