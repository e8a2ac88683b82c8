"""What every generator promises, in every way that a reference image can enter it, on tiny random twins of the real classes.

Each twin is written by the test, and loaded by the production path: the registry's entry with another source.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.catalog import load_dataset
from engine.models import DiffusionGenerator, generator_names, generator_spec, load_generator
from engine.models.families import family_of
from engine.models.family import PromptCache
from engine.recipe import Recipe
from engine.sources import GenerativePlan, GeneratorMaker
from engine.testing import generators as tiny_generators
from engine.testing.twins import SIDE, small_references

NAMES = generator_names()
CASES = [
    (name, mode)
    for name in NAMES
    for mode in ("", *generator_spec(name).reference_modes)
    if mode or not family_of(generator_spec(name).pipeline).needs_reference
]


def _image(kind: int, height: int, width: int) -> np.ndarray:
    """A picture with edges: bars, across or along, or a block."""
    rows, columns = np.mgrid[0:height, 0:width]
    pattern = (rows // 4 % 2, columns // 3 % 2, (rows > height // 2) & (columns > width // 3))[kind % 3].astype(bool)
    colours = np.array([[250, 20, 90], [10, 240, 200]], np.uint8)
    return colours[pattern.astype(int)] if kind < 3 else 255 - colours[pattern.astype(int)]


REFERENCES = {"a": _image(0, 40, 30), "b": _image(1, 24, 48), "c": _image(2, 33, 33), "d": _image(4, 64, 20)}
SHAPES = {"one": _image(0, 1, 1), "tall": _image(0, 300, 3), "wide": _image(1, 2, 500)}


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


@dataclass
class Case:
    """A generator, a way for references to enter, and four images made together."""

    generator: DiffusionGenerator
    mode: str
    together: torch.Tensor

    def recipe(self, number: int, **changes: Any) -> Recipe:
        """Recipes whose prompts are of several lengths and whose references differ."""
        spec = self.generator.spec
        side = SIDE.get(spec.name, 16)
        values = {
            "source": "generative",
            "dataset": "things",
            "class_index": 0,
            "class_name": "cat",
            "prompt": ("a cat", "the photo of a dog", "a dog", "a cat and a cat and a dog")[number % 4],
            "seed": number,
            **spec.recipe_fields(*(("abcd"[number % 4], self.mode) if self.mode else ())),
            "num_inference_steps": 5 if self.mode == "img2img" else 2,
            "height": side,
            "width": side,
        }
        return Recipe(**{**values, **changes})

    def draw(self, recipes: Sequence[Recipe]) -> torch.Tensor:
        """uint8 images; recipes that cannot share a batch are drawn apart, as the engine does."""
        drawn: dict[int, torch.Tensor] = {}
        groups: dict[object, list[int]] = {}
        for number, recipe in enumerate(recipes):
            groups.setdefault(self.generator.batch_key(recipe), []).append(number)
        for rows in groups.values():
            images = self.generator.generate([recipes[row] for row in rows], {**REFERENCES, **SHAPES})
            drawn.update(zip(rows, images, strict=True))
        return torch.stack([drawn[number] for number in range(len(recipes))])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1] or 'text'}")
def case(request: pytest.FixtureRequest, generators: Callable[[str], DiffusionGenerator]) -> Case:
    name, mode = request.param
    case = Case(generators(name), mode, torch.empty(0))
    case.together = case.draw([case.recipe(number) for number in range(4)])
    return case


def _levels(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def test_alone_is_as_in_company_and_in_a_padded_tail(case: Case):
    for number in (0, 1, 3):
        assert torch.equal(case.draw([case.recipe(number)])[0], case.together[number])


def test_another_batch_size_is_within_two_levels(case: Case):
    size = case.generator.batch_size
    case.generator.batch_size = 1
    try:
        alone = case.draw([case.recipe(1)])[0]
    finally:
        case.generator.batch_size = size
    assert _levels(alone, case.together[1]) <= 2


def test_order_does_not_matter(case: Case):
    assert torch.equal(case.draw([case.recipe(number) for number in (3, 1, 0, 2)]), case.together[[3, 1, 0, 2]])


def test_the_pictures_are_pictures(case: Case):
    side = SIDE.get(case.generator.spec.name, 16)
    assert case.together.shape == (4, 3, side, side)
    assert len({image.numpy().tobytes() for image in case.together}) == 4
    assert all(image.float().std() > 5 for image in case.together)


def test_seed_prompt_and_steps_change_the_picture(case: Case):
    recipe = case.recipe(0)
    changes: list[dict[str, Any]] = [{"seed": 99}, {"prompt": "a dog"}, {"num_inference_steps": 7}]
    for change, image in zip(changes, case.draw([replace(recipe, **change) for change in changes]), strict=True):
        assert not torch.equal(image, case.together[0]), change


def test_guidance_and_a_negative_prompt_change_the_picture_or_are_refused(case: Case):
    generator, guided = case.generator, case.recipe(0, guidance_scale=3.0)
    if generator.spec.name in ("flux-schnell", "flux2-klein"):
        with pytest.raises(ValueError, match="has no guidance; set guidance_scale to"):
            case.draw([guided])
        guided = case.recipe(0)
    else:
        assert not torch.equal(*case.draw([guided, replace(guided, guidance_scale=6.0)]))
    steered = replace(guided, negative_prompt="a dog")
    if generator.family.takes_negative_prompts:
        assert not torch.equal(*case.draw([guided, steered]))
        with pytest.raises(ValueError, match="negative prompt has no effect"):
            case.draw([replace(steered, guidance_scale=1.0)])
    else:
        with pytest.raises(ValueError, match="takes no negative prompt"):
            case.draw([steered])


def test_another_reference_changes_the_picture_and_none_or_scale_0_is_plain(case: Case):
    if not case.mode:
        with pytest.raises(ValueError, match="without a reference image means nothing"):
            case.draw([case.recipe(0, reference_scale=1.0)])
        return
    recipe, generator = case.recipe(0), case.generator
    assert not torch.equal(case.draw([replace(recipe, reference_id="b")])[0], case.together[0])
    without = replace(recipe, reference_id="", reference_mode="", reference_scale=0.0, revision="")
    if generator.family.needs_reference:
        with pytest.raises(ValueError, match="draws nothing without a reference"):
            case.draw([without])
        return
    plain = case.draw([without])[0]
    assert not torch.equal(plain, case.together[0])
    assert torch.equal(case.draw([replace(recipe, reference_scale=0.0)])[0], plain)
    if case.mode in ("controlnet", "ip_adapter"):  # a whisper of the reference is nearly plain: the rest is the same
        assert _levels(case.draw([replace(recipe, reference_scale=1e-6)])[0], plain) <= 2


def test_the_scale_of_the_reference_counts_or_is_refused(case: Case):
    if not case.mode:
        return
    scale = 0.6 if case.mode == "img2img" else 2.5
    recipe = case.recipe(0, reference_scale=scale)
    if case.mode == "native" and not case.generator.family.native_scale:
        with pytest.raises(ValueError, match="has no scale for its references; set reference_scale to 1"):
            case.draw([recipe])
    else:
        assert not torch.equal(case.draw([recipe])[0], case.together[0])


def test_references_of_every_shape_are_taken(case: Case):
    if not case.mode:
        return
    shapes = [case.recipe(0, prompt="a cat", reference_id=shape) for shape in SHAPES]
    drawn = case.draw(shapes)
    assert drawn.shape == case.together[:3].shape
    assert not torch.equal(drawn[1], drawn[2])


def test_escaped_brackets_reach_the_model_as_brackets(case: Case):
    family, mode = case.generator.family, case.mode
    text = family.text([case.recipe(0, prompt=r"a \(cat\)")], PromptCache(), mode)
    if "prompt" in text:
        assert text["prompt"][0].endswith("a (cat)")
    else:
        embeddings = PromptCache().stack(family.encode, [family.written(r"a \(cat\)")])
        assert all(torch.equal(text[name], value) for name, value in embeddings.items())
        assert family.written(r"a \(cat\)") in (r"a \(cat\)", "a (cat)")  # the first where weights are read


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"prompt": ""}, "the prompt is empty"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    "odd size": ({"height": 67}, "67 is no multiple"),
    "another revision": ({"revision": "main"}, "planned for revision main"),
}
REFUSED_REFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown mode": ({"reference_mode": "depth"}, "takes no reference by depth; give one of"),
    "no mode": ({"reference_mode": ""}, "takes no reference by an empty reference_mode"),
    "negative scale": ({"reference_scale": -1.0}, "is negative"),
    "missing image": ({"reference_id": "zebra"}, "reference image zebra was not given"),
}


def test_what_it_cannot_honour_is_refused(case: Case):
    for changes, message in [*REFUSED.values(), *(REFUSED_REFERENCES.values() if case.mode else ())]:
        recipe = case.recipe(0)
        with pytest.raises(ValueError, match=message) as caught:
            case.generator.generate([replace(recipe, **({"revision": ""} | changes))], REFERENCES)
        assert "\n" not in str(caught.value)
    if case.mode:
        with pytest.raises(ValueError, match=r"give uint8 of shape \[H, W, 3\]"):
            case.generator.generate([case.recipe(0)], {"a": np.zeros((4, 4), np.uint8)})


def test_a_prompt_whose_end_would_not_be_read_is_refused(case: Case):
    name = case.generator.spec.name
    if name in ("omnigen", "qwen-image-edit"):  # they read texts of any length that can be meant
        return
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens and generator .* reads \d+; shorten it"):
        case.draw([case.recipe(0, prompt="a cat and " * 60)])


@pytest.mark.parametrize("name", [name for name, mode in CASES if not mode])
def test_the_engine_draws_a_plan_with_it(
    name: str, generators: Callable[[str], DiffusionGenerator], tiny_dataset: Path
):
    twin = generators(name).spec
    side = SIDE.get(name, 16)
    spec = replace(twin, num_inference_steps=2, height=side, width=side)
    plan = GenerativePlan(load_dataset(str(tiny_dataset)), spec, "defined_template", shots=1)
    maker = GeneratorMaker(spec, batch_size=2)
    maker.load("cpu")
    made = maker.make([plan[index] for index in range(3)])
    assert [one.reason for one in made] == [""] * 3
    assert {tuple(one.pixels.shape) for one in made if one.pixels is not None} == {(3, side, side)}


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_safetensors_and_nothing_else(
    name: str, generators: Callable[[str], DiffusionGenerator], tmp_path: Path
):
    spec = generators(name).spec
    places = {"": spec.source, **{purpose: auxiliary.source for purpose, auxiliary in spec.auxiliaries.items()}}
    for purpose, place in places.items():
        folder = Path(shutil.copytree(place, tmp_path / "copy"))
        for weights in folder.rglob("*.safetensors"):
            weights.rename(weights.with_suffix(".bin"))
        others = {"auxiliaries": {purpose: str(folder)}} if purpose else {}
        with pytest.raises(ValueError, match="pickled weights"):
            generator_spec(name, source=spec.source if purpose else str(folder), **others)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", [name for name in NAMES if "lossy" in generator_spec(name).levers])
def test_lossy_speed_is_another_image_with_another_revision(name: str, generators: Callable[[str], DiffusionGenerator]):
    exact = generators(name)
    auxiliaries = {key: value.source for key, value in exact.spec.auxiliaries.items()}
    spec = generator_spec(name, source=exact.spec.source, speed="lossy", auxiliaries=auxiliaries)
    lossy = load_generator(spec, batch_size=3)
    for mode in exact.spec.reference_modes if exact.family.needs_reference else ("", *exact.spec.reference_modes):
        one, other = Case(exact, mode, torch.empty(0)), Case(lossy, mode, torch.empty(0))
        assert one.recipe(0).id != other.recipe(0).id
        with pytest.raises(ValueError, match="planned for revision"):
            other.draw([one.recipe(0)])
        steps = {"num_inference_steps": 8}  # caching begins after a few
        drawn = other.draw([other.recipe(number, **steps) for number in range(3)])
        assert not torch.equal(one.draw([one.recipe(0, **steps)])[0], drawn[0])
        assert torch.equal(other.draw([other.recipe(2, **steps)])[0], drawn[2])
