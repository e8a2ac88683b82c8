"""Every generator of the registry keeps the contract of engine.testing.contract, in every reference mode, on its tiny twin."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.models import DiffusionGenerator, generator_names, generator_spec, load_generator
from engine.sources import GenerativePlan, GeneratorMaker
from engine.testing import generators as tiny_generators
from engine.testing.contract import (
    PROMISES,
    REFERENCES,
    Case,
    check_lossy_speed,
    check_safetensors_only,
    reference_modes,
    rejected,
)
from engine.testing.twins import image_size, small_references

NAMES = generator_names()
CASES = [(name, mode) for name in NAMES for mode in reference_modes(name)]


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], DiffusionGenerator]]:
    """Entry → its twin, each written and loaded once."""
    found: dict[str, DiffusionGenerator] = {}

    def get(name: str) -> DiffusionGenerator:
        if name not in found:
            saved = tiny_generators.save(name, tmp_path_factory.mktemp("generators") / name)
            found[name] = load_generator(generator_spec(name, **saved), batch_size=3)
        return found[name]

    with small_references():
        yield get


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1] or 'text'}")
def case(request: pytest.FixtureRequest, generators: Callable[[str], DiffusionGenerator]) -> Case:
    name, mode = request.param
    return Case(generators(name), mode)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_it_keeps(promise: Callable[[Case], None], case: Case):
    promise(case)


@pytest.mark.parametrize("name", [name for name, mode in CASES if not mode])
def test_the_engine_makes_a_plan_with_it(
    name: str, generators: Callable[[str], DiffusionGenerator], tiny_dataset: Path
):
    twin = generators(name).spec
    side = image_size(twin)
    spec = replace(twin, num_inference_steps=2, height=side, width=side)
    plan = GenerativePlan(load_dataset(str(tiny_dataset)), spec, "defined_template", shots=1)
    maker = GeneratorMaker(spec, batch_size=2)
    maker.load("cpu")
    made = maker.make([plan[index] for index in range(3)])
    assert [one.reason for one in made] == [""] * 3
    assert {tuple(one.pixels.shape) for one in made if one.pixels is not None} == {(3, side, side)}


@pytest.mark.parametrize("name", NAMES)
def test_a_client_sees_and_stops_each_step(name: str, generators: Callable[[str], DiffusionGenerator]):
    case = Case(generators(name), reference_modes(name)[0])
    steps: list[int] = []
    case.generator.sample([case.recipe(0)], REFERENCES, lambda step, latents: steps.append(step))
    assert steps[:2] == [1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_safetensors_and_nothing_else(
    name: str, generators: Callable[[str], DiffusionGenerator], tmp_path: Path
):
    check_safetensors_only(generators(name).spec, tmp_path)


@pytest.mark.parametrize("name", [name for name in NAMES if "lossy" in generator_spec(name).levers])
def test_lossy_speed_is_another_image_with_another_revision(name: str, generators: Callable[[str], DiffusionGenerator]):
    check_lossy_speed(generators(name))


def test_the_adapters_state_the_limits_of_their_models(generators: Callable[[str], DiffusionGenerator]):
    adapters = {name: generators(name).adapter for name in NAMES}
    assert {name for name, one in adapters.items() if not one.supports_guidance} == {"flux-schnell", "flux2-klein"}
    assert {name for name, one in adapters.items() if not one.limits_prompts} == {"omnigen", "qwen-image-edit"}
    assert {name for name, one in adapters.items() if not one.supports_negative_prompts} == {
        "flux",
        "flux-schnell",
        "flux-kontext",
        "flux2-klein",
        "omnigen",
    }
    assert {name for name, one in adapters.items() if one.supports_prompt_weights} == {
        *("mini", "sd21", "sd21-base", "sdxl", "sdxl-turbo", "sdxl-lightning"),
        *("flux", "flux-schnell", "flux-kontext"),
    }


def test_a_generator_that_breaks_a_promise_fails(
    generators: Callable[[str], DiffusionGenerator], monkeypatch: pytest.MonkeyPatch
):
    generator = generators("sd21")
    monkeypatch.setattr(type(generator.adapter), "negative_text", lambda *_: {})  # a pipeline that ignores the prompt
    monkeypatch.setattr(generator, "_prompts", type(generator._prompts)())
    promises = {promise.__name__: promise for promise in PROMISES}
    with pytest.raises(AssertionError, match="the negative prompt has no effect"):
        promises["guidance_and_negative_prompt_have_an_effect_or_are_rejected"](Case(generator, ""))
    with pytest.raises(AssertionError, match="no ValueError was raised"), rejected("is negative"):
        pass
    with pytest.raises(AssertionError, match="does not match"), rejected("is negative"):
        raise ValueError("it is positive")
