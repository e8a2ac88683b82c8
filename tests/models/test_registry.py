"""The registry's entries are whole and say what is true of the classes they name."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.models import generator_names, generator_spec, load_generator
from engine.models.generators import ADAPTERS, adapter_of, pipeline_class
from engine.models.spec import SPEEDS
from engine.models.speed import LEVERS, apply_levers
from engine.models.weights import count_parameters
from engine.recipe import Recipe
from tests.models.test_generator import recipe

NAMES = generator_names()


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_whole(name: str):
    import diffusers

    spec, adapter = generator_spec(name), adapter_of(generator_spec(name).pipeline)
    assert issubclass(pipeline_class(spec.pipeline), diffusers.DiffusionPipeline)
    assert spec.facts
    assert spec.licence
    assert spec.parameters > 0
    assert spec.reference_mode == next(iter(spec.reference_modes), "")
    for mode in spec.reference_modes:
        assert mode in adapter.mode_pipelines
        assert mode in adapter.own_modes or mode in spec.auxiliaries
        assert not adapter.mode_pipelines[mode] or hasattr(diffusers, adapter.mode_pipelines[mode])
    assert ("ip_adapter" in spec.auxiliaries) == ("image_encoder" in spec.auxiliaries)
    assert set(spec.levers) <= set(SPEEDS)
    for lever in (lever for levers in spec.levers.values() for lever in levers):
        assert lever in LEVERS
        assert lever != "tiny_vae" or "tiny_vae" in spec.auxiliaries
    if spec.scheduler:
        known = inspect.signature(getattr(diffusers, spec.scheduler).__init__).parameters
        assert set(spec.scheduler_options) <= set(known)


def test_every_adapter_is_in_the_registry_and_stands_once_in_the_tuple():
    names = [adapter.pipeline_name for adapter in ADAPTERS]
    assert {generator_spec(name).pipeline for name in NAMES} == set(names)
    assert len(names) == len(set(names))


def test_a_recipe_gets_its_fields_from_the_entry():
    spec = generator_spec("sdxl")
    plain, referred = spec.recipe_fields(), spec.recipe_fields("a" * 32)
    assert plain["revision"] == spec.revision
    assert "reference_id" not in plain
    assert (referred["reference_mode"], referred["reference_scale"]) == ("controlnet", 0.5)
    pins = {name: auxiliary.revision for name, auxiliary in spec.auxiliaries.items()}
    assert referred["revision"] == f"{spec.revision}+controlnet@{pins['controlnet']}"
    other = spec.recipe_fields("a" * 32, "ip_adapter", 0.9)
    adapter = f"ip_adapter@{pins['ip_adapter']}+image_encoder@{pins['image_encoder']}"
    assert (other["reference_scale"], other["revision"]) == (0.9, f"{spec.revision}+{adapter}")
    assert generator_spec("sdxl", speed="lossy").recipe_fields()["revision"] == f"{spec.revision}+lossy"
    assert generator_spec("sdxl", speed="fast").recipe_fields() == plain
    base = {"source": "generative", "dataset": "things", "class_index": 0, "class_name": "cat"}
    assert len({Recipe(**base, **fields).id for fields in (plain, referred, other)}) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mini", ("a", "redux"), "does not support reference_mode 'redux'; choose from: controlnet, img2img"),
        ("sdxl", ("", "controlnet"), "require a reference image; give reference_id too"),
    ],
)
def test_recipe_fields_that_mean_nothing_are_refused(name: str, arguments: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        generator_spec(name).recipe_fields(*arguments)


@pytest.mark.parametrize(
    ("name", "named", "message"),
    [
        ("sd21", {"speed": "warp"}, "unknown speed 'warp'"),
        ("glide", {"speed": "fast"}, "generator glide does not support --speed fast; choose from: exact"),
        ("sd21", {"source": "nowhere"}, "neither a folder nor a Hub id"),
        (
            "omnigen",
            {"auxiliaries": {"controlnet": "me/mine"}},
            "OmniGenPipeline does not support controlnet; leave it out",
        ),
    ],
)
def test_wrong_choices_are_one_sentence(name: str, named: dict, message: str):
    with pytest.raises(ValueError, match=message):
        generator_spec(name, **named)


def test_another_source_keeps_the_entry_and_changes_the_revision(tiny_pipeline: str):
    spec = generator_spec("sd21", source=tiny_pipeline)
    assert (spec.name, spec.num_inference_steps, spec.reference_mode) == ("sd21", 50, "controlnet")
    assert spec.revision == generator_spec(tiny_pipeline).revision != "main"
    assert spec.parameters == count_parameters(Path(tiny_pipeline))
    other = generator_spec("sdxl", source="someone/else")
    assert (other.source, other.revision, other.variant) == ("someone/else", "main", "")


def test_a_hub_id_can_be_pinned():
    spec = generator_spec(
        "sdxl", source="stabilityai/stable-diffusion-xl-base-1.0@abc", auxiliaries={"controlnet": "a/b@c"}
    )
    assert (spec.source, spec.revision) == ("stabilityai/stable-diffusion-xl-base-1.0", "abc")
    assert spec.variant == "fp16"  # of the same repository
    assert (spec.auxiliaries["controlnet"].source, spec.auxiliaries["controlnet"].revision) == ("a/b", "c")
    assert spec.recipe_fields("a" * 32)["revision"] == "abc+controlnet@c"


@pytest.mark.parametrize("name", NAMES)
def test_revisions_are_commits_or_main(name: str):
    spec = generator_spec(name)
    for revision in () if spec.is_local else (spec.revision, *(a.revision for a in spec.auxiliaries.values())):
        assert re.fullmatch(r"main|refs/pr/\d+|[0-9a-f]{40}", revision)


def test_parameters_are_those_of_the_modules(tiny_pipeline: str):
    pipeline = load_generator(tiny_pipeline)._pipeline
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert count_parameters(Path(tiny_pipeline)) == sum(p.numel() for module in modules for p in module.parameters())


def test_a_folder_of_an_unknown_class_is_refused(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="pipeline class 'DiTPipeline' is not supported; use a checkpoint of"):
        generator_spec(str(tmp_path))


def test_a_model_too_big_says_what_it_needs_and_what_there_is(tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.models.weights.device_memory", lambda device: 16_000_000_000)
    monkeypatch.setattr("engine.models.load.native_dtype", lambda dtype, device: "float32")
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=r"flux needs 67\.5 GB for its weights in float32, and cpu has 16\.0 GB; use"):
        load_generator("flux")
    monkeypatch.undo()
    assert load_generator(tiny_pipeline)


def test_what_lies_in_8_bits_takes_half_the_memory(monkeypatch: pytest.MonkeyPatch):
    whole, half = generator_spec("qwen-image-edit"), generator_spec("qwen-image-edit", speed="lossy")
    assert whole.weights_bytes("bfloat16") - half.weights_bytes("bfloat16") == pytest.approx(20.43e9)
    monkeypatch.setattr("engine.models.weights.device_memory", lambda device: 40_000_000_000)
    monkeypatch.setattr("engine.models.load.native_dtype", lambda dtype, device: dtype)
    with pytest.raises(ValueError, match=r"qwen-image-edit needs 57\.7 GB for its weights in bfloat16"):
        load_generator(whole)
    with pytest.raises(ValueError, match="could not be loaded"):  # there is room, but nothing to load on this machine
        load_generator(half)


def test_weights_in_8_bits_draw_nearly_the_same(tmp_path: Path):
    from engine.testing import generators as tiny_generators

    saved = tiny_generators.save("flux-schnell", tmp_path)
    spec = replace(generator_spec("flux-schnell", **saved), dtype="float32")
    exact, small = (
        load_generator(spec, batch_size=2),
        load_generator(replace(spec, speed="lossy", levers={"lossy": ("fp8",)}), batch_size=2),
    )
    kept = {parameter.dtype for parameter in small.adapter.denoiser.parameters()}
    assert kept == {torch.float8_e4m3fn, torch.float32}  # norms and embeddings stay as they are
    changes = {"guidance_scale": 0.0}
    one, other = (each.generate([recipe(0, **changes), recipe(1, **changes)]) for each in (exact, small))
    assert not torch.equal(one, other)
    assert (one.float() - other.float()).abs().mean() < 10
    assert (one[0].float() - one[1].float()).abs().mean() > 20
    assert torch.equal(small.generate([recipe(1, **changes)])[0], other[1])


def test_casts_are_not_compiled(monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    for lever in LEVERS:
        monkeypatch.setitem(LEVERS, lever, lambda *_, lever=lever: called.append(lever))
    apply_levers(None, None, generator_spec("qwen-image-edit", speed="lossy"), "cuda")
    assert called == ["fused_qkv", "taylorseer", "fp8"]
    called.clear()
    apply_levers(None, None, generator_spec("flux", speed="lossy"), "cuda")
    assert called == ["fused_qkv", "taylorseer", "tiny_vae", "compile_blocks"]


def test_exact_levers_change_no_picture_and_fast_ones_are_for_gpus(tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch):
    plain, levered = load_generator(tiny_pipeline, batch_size=2), load_generator(tiny_pipeline, batch_size=2)
    spec = generator_spec("sd21", source=tiny_pipeline, speed="fast")
    called: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **named: called.append(type(module).__name__))
    apply_levers(levered._pipeline, levered.adapter.denoiser, spec, "cpu")
    assert not called
    apply_levers(levered._pipeline, levered.adapter.denoiser, spec, "cuda")
    assert called == ["UNet2DConditionModel", "Decoder"]
    assert all(
        module.fused_projections for name, module in levered.adapter.denoiser.named_modules() if name.endswith("attn1")
    )
    assert levered.adapter.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    recipes = [recipe(0), recipe(1)]
    assert (plain.generate(recipes).int() - levered.generate(recipes).int()).abs().max() <= 2


def test_the_list_shows_every_entry():
    done = subprocess.run([sys.executable, "-m", "engine", "models"], capture_output=True, text=True, check=True)
    for name in NAMES:
        (line,) = [line for line in done.stdout.splitlines() if f" {name} " in line]
        spec = generator_spec(name)
        for fact in (spec.pipeline, *spec.reference_modes, spec.licence, f"{spec.width}x{spec.height}"):
            assert fact in line
        assert ("yes" in line) == spec.gated
        assert f"{spec.weights_gb:.1f}" in line or name == "mini"


def test_an_entry_can_be_changed_in_place():
    assert replace(generator_spec("sd21"), num_inference_steps=20).recipe_fields()["num_inference_steps"] == 20


def test_genbenchs_generator_is_there_at_the_size_of_the_paper_and_of_its_code():
    paper, code = generator_spec("sd21"), generator_spec("sd21-base")
    assert (paper.height, paper.width, code.height, code.width) == (768, 768, 512, 512)
    assert (code.num_inference_steps, code.guidance_scale, code.dtype) == (50, 7.5, "float16")
    assert code.pipeline == paper.pipeline
    assert code.recipe_fields()["revision"] != paper.recipe_fields()["revision"]
