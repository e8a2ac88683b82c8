"""The contract of a generator: promises that the engine relies on, checked on a tiny twin in every reference mode.

    check_generator("my-generator", folder)

writes the twin of a registry entry (engine.testing.generators), loads it by the production path and checks every promise. In a
test suite, parametrize over `reference_modes(name)` and `PROMISES` instead, so that a failure names the promise.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.models import DiffusionGenerator, GeneratorSpec, generator_spec, load_generator
from engine.models.generator import Stopped, to_uint8
from engine.models.generators import adapter_of
from engine.models.generators.prompt_cache import PromptCache
from engine.recipe import Recipe
from engine.testing import generators
from engine.testing.twins import image_size, small_references

PROMPTS = ("a cat", "the photo of a dog", "a dog", "a cat and a cat and a dog")


def _pattern(kind: int, height: int, width: int) -> np.ndarray:
    """An image with edges, uint8 `[H, W, 3]`: horizontal bars, vertical bars or a block, in two colours."""
    rows, columns = np.mgrid[0:height, 0:width]
    pattern = (rows // 4 % 2, columns // 3 % 2, (rows > height // 2) & (columns > width // 3))[kind % 3].astype(bool)
    colours = np.array([[250, 20, 90], [10, 240, 200]], np.uint8)
    return colours[pattern.astype(int)] if kind < 3 else 255 - colours[pattern.astype(int)]


REFERENCES = {"a": _pattern(0, 40, 30), "b": _pattern(1, 24, 48), "c": _pattern(2, 33, 33), "d": _pattern(4, 64, 20)}
"""Reference id → image."""
SHAPES = {"one": _pattern(0, 1, 1), "tall": _pattern(0, 300, 3), "wide": _pattern(1, 2, 500)}
"""Reference id → image of an extreme shape."""


@dataclass
class Case:
    """A loaded generator in one reference mode."""

    generator: DiffusionGenerator
    mode: str
    """Empty for images without a reference."""

    @cached_property
    def together(self) -> torch.Tensor:
        """Images `[4, 3, H, W]` uint8 of recipes 0 to 3, generated together."""
        return self.generate([self.recipe(number) for number in range(4)])

    def recipe(self, number: int, **changes: Any) -> Recipe:
        """Recipe 0, 1, …; prompts differ in length, and references differ."""
        spec = self.generator.spec
        values: dict[str, Any] = {
            "source": "generative",
            "dataset": "things",
            "class_index": 0,
            "class_name": "cat",
            "prompt": PROMPTS[number % 4],
            "seed": number,
            **spec.recipe_fields(*(("abcd"[number % 4], self.mode) if self.mode else ())),
            "num_inference_steps": 5 if self.mode == "img2img" else 2,
            "height": image_size(spec),
            "width": image_size(spec),
        }
        return Recipe(**{**values, **changes})

    def generate(self, recipes: Sequence[Recipe]) -> torch.Tensor:
        """Images `[B, 3, H, W]` uint8; recipes of different batch keys are generated apart, as the engine does."""
        images: dict[int, torch.Tensor] = {}
        groups: dict[object, list[int]] = {}
        for number, recipe in enumerate(recipes):
            groups.setdefault(self.generator.batch_key(recipe), []).append(number)
        for rows in groups.values():
            made = self.generator.generate([recipes[row] for row in rows], {**REFERENCES, **SHAPES})
            images.update(zip(rows, made, strict=True))
        return torch.stack([images[number] for number in range(len(recipes))])


@contextmanager
def rejected(message: str) -> Iterator[None]:
    """Fails unless the block raises a ValueError of one line that matches the regular expression `message`."""
    found: str | None = None
    try:
        yield
    except ValueError as error:
        found = str(error)
    assert found is not None, f"no ValueError was raised; expected one that matches {message!r}"
    assert re.search(message, found), f"the error {found!r} does not match {message!r}"
    assert "\n" not in found, f"the error {found!r} has more than one line"


def _levels(one: torch.Tensor, other: torch.Tensor) -> int:
    """Largest difference in levels of 255."""
    return int((one.int() - other.int()).abs().max())


def an_image_does_not_depend_on_its_batch(case: Case) -> None:
    """Alone and in a padded batch, pixels are bit-identical to those in company."""
    for number in (0, 1, 3):
        assert torch.equal(case.generate([case.recipe(number)])[0], case.together[number]), f"recipe {number} differs"


def an_image_does_not_depend_on_the_order(case: Case) -> None:
    """Pixels are bit-identical in another order."""
    order = [3, 1, 0, 2]
    assert torch.equal(case.generate([case.recipe(number) for number in order]), case.together[order])


def another_batch_size_changes_at_most_two_levels(case: Case) -> None:
    """Pixels at batch size 1 are within two levels of 255."""
    size = case.generator.batch_size
    case.generator.batch_size = 1
    try:
        alone = case.generate([case.recipe(1)])[0]
    finally:
        case.generator.batch_size = size
    assert _levels(alone, case.together[1]) <= 2


def images_have_the_right_size_and_differ(case: Case) -> None:
    """Four different images of the recipe's size, none of one colour."""
    side = image_size(case.generator.spec)
    assert case.together.shape == (4, 3, side, side)
    assert len({image.numpy().tobytes() for image in case.together}) == 4
    assert all(image.float().std() > 5 for image in case.together)


def seed_prompt_and_steps_change_the_image(case: Case) -> None:
    """None of these fields is ignored."""
    changes: list[dict[str, Any]] = [{"seed": 99}, {"prompt": "a dog"}, {"num_inference_steps": 7}]
    images = case.generate([replace(case.recipe(0), **change) for change in changes])
    for change, image in zip(changes, images, strict=True):
        assert not torch.equal(image, case.together[0]), f"{change} has no effect"


def guidance_and_negative_prompt_have_an_effect_or_are_rejected(case: Case) -> None:
    """None of these fields is ignored."""
    adapter, guided = case.generator.adapter, case.recipe(0, guidance_scale=3.0)
    if adapter.supports_guidance:
        assert not torch.equal(*case.generate([guided, replace(guided, guidance_scale=6.0)])), "guidance has no effect"
    else:
        with rejected("does not support guidance; set guidance_scale to"):
            case.generate([guided])
        guided = case.recipe(0)
    steered = replace(guided, negative_prompt="a dog")
    if adapter.supports_negative_prompts:
        assert not torch.equal(*case.generate([guided, steered])), "the negative prompt has no effect"
        with rejected("negative prompt has no effect"):
            case.generate([replace(steered, guidance_scale=1.0)])
    else:
        with rejected("does not support negative prompts"):
            case.generate([steered])


def the_reference_has_an_effect_and_at_scale_0_none(case: Case) -> None:
    """Another reference changes the image; without a reference, and at scale 0, the image is the plain one."""
    if not case.mode:
        with rejected("require a reference image"):
            case.generate([case.recipe(0, reference_scale=1.0)])
        return
    recipe = case.recipe(0)
    assert not torch.equal(case.generate([replace(recipe, reference_id="b")])[0], case.together[0])
    without = replace(recipe, reference_id="", reference_mode="", reference_scale=0.0, revision="")
    if case.generator.adapter.needs_reference:
        with rejected("requires a reference image"):
            case.generate([without])
        return
    plain = case.generate([without])[0]
    assert not torch.equal(plain, case.together[0])
    assert torch.equal(case.generate([replace(recipe, reference_scale=0.0)])[0], plain)
    if case.mode in ("controlnet", "ip_adapter"):  # at a tiny scale the image is nearly plain: all else is equal
        assert _levels(case.generate([replace(recipe, reference_scale=1e-6)])[0], plain) <= 2


def the_reference_scale_has_an_effect_or_is_rejected(case: Case) -> None:
    """The field is not ignored."""
    if not case.mode:
        return
    recipe = case.recipe(0, reference_scale=0.6 if case.mode == "img2img" else 2.5)
    if case.mode == "native" and not case.generator.adapter.supports_native_scale:
        with rejected("has no reference scale; set reference_scale to 1"):
            case.generate([recipe])
    else:
        assert not torch.equal(case.generate([recipe])[0], case.together[0])


def references_can_have_any_shape(case: Case) -> None:
    """One pixel, very tall and very wide references share a batch and differ."""
    if not case.mode:
        return
    images = case.generate([case.recipe(0, prompt="a cat", reference_id=shape) for shape in SHAPES])
    assert images.shape == case.together[:3].shape
    assert not torch.equal(images[1], images[2])


def escaped_brackets_are_literal(case: Case) -> None:
    """The text encoder reads `a (cat)` for the prompt `a \\(cat\\)`."""
    adapter, prompt = case.generator.adapter, r"a \(cat\)"
    text = adapter.text([case.recipe(0, prompt=prompt)], PromptCache(), case.mode)
    if "prompt" in text:
        assert text["prompt"][0].endswith("a (cat)")
    else:
        embeddings = PromptCache().stack(adapter.encode, [adapter.unescape(prompt)])
        assert all(torch.equal(text[name], value) for name, value in embeddings.items())
        assert adapter.unescape(prompt) == (prompt if adapter.supports_prompt_weights else "a (cat)")


def unsupported_recipes_are_rejected(case: Case) -> None:
    """Each with an error of one line that names the field."""
    changes: list[tuple[dict[str, Any], str]] = [
        ({"prompt": ""}, "the prompt is empty"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"height": 67}, "requires a height and a width that are multiples of"),
        ({"revision": "main"}, "planned for revision main"),
    ]
    if case.mode:
        changes += [
            ({"reference_mode": "depth"}, "does not support reference_mode 'depth'; choose from"),
            ({"reference_mode": ""}, "does not support reference_mode ''; choose from"),
            ({"reference_scale": -1.0}, "is negative"),
            ({"reference_id": "zebra"}, "reference image zebra was not given"),
        ]
    for change, message in changes:
        with rejected(message):
            case.generator.generate([replace(case.recipe(0), **({"revision": ""} | change))], REFERENCES)
    if case.mode:
        with rejected(r"give uint8 of shape \[H, W, 3\]"):
            case.generator.generate([case.recipe(0)], {"a": np.zeros((4, 4), np.uint8)})


def a_prompt_that_is_too_long_is_rejected(case: Case) -> None:
    """The end of a prompt is not ignored, and a prompt that can be read is not refused when its batch failed."""
    case.generator.check_text(case.recipe(0))
    if case.generator.adapter.limits_prompts:
        with rejected(r"the prompt has \d+ tokens and generator .* reads \d+; shorten it"):
            case.generate([case.recipe(0, prompt="a cat and " * 60)])


def sampling_can_be_watched_and_stopped(case: Case) -> None:
    """Watching the steps and their previews changes no pixel; a stop between two steps ends the batch and spoils no other.

    A pipeline without a callback never calls, and a family without previews returns None.
    """
    recipe, expected, seen = case.recipe(1), case.together[1], []

    def watch(step: int, latents: torch.Tensor) -> None:
        preview = case.generator.preview(latents, recipe)
        seen.append(step)
        if preview is not None:
            assert preview.dtype == torch.uint8, "a preview is uint8"
            assert preview.shape[1:] == expected.shape, "a preview has the size of the image"

    watched = to_uint8(case.generator.sample([recipe], {**REFERENCES, **SHAPES}, watch))
    assert torch.equal(watched[0], expected), "watching changed the image"
    if not seen:
        return
    assert seen == sorted(set(seen)), "each step is reported once, in order"

    def stop(step: int, latents: torch.Tensor) -> None:
        raise Stopped

    try:
        case.generator.sample([recipe], {**REFERENCES, **SHAPES}, stop)
        raise AssertionError("the sampling was not stopped")
    except Stopped:
        pass
    assert torch.equal(case.generate([recipe])[0], expected), "an image after a stopped batch differs"


PROMISES: tuple[Callable[[Case], None], ...] = (
    an_image_does_not_depend_on_its_batch,
    an_image_does_not_depend_on_the_order,
    another_batch_size_changes_at_most_two_levels,
    images_have_the_right_size_and_differ,
    seed_prompt_and_steps_change_the_image,
    guidance_and_negative_prompt_have_an_effect_or_are_rejected,
    the_reference_has_an_effect_and_at_scale_0_none,
    the_reference_scale_has_an_effect_or_is_rejected,
    references_can_have_any_shape,
    escaped_brackets_are_literal,
    unsupported_recipes_are_rejected,
    a_prompt_that_is_too_long_is_rejected,
    sampling_can_be_watched_and_stopped,
)
"""The promises of a generator in each of its reference modes. A failed promise raises AssertionError."""


def reference_modes(name: str) -> list[str]:
    """The reference modes of a registry entry, beginning with no reference (an empty string) if that is possible."""
    spec = generator_spec(name)
    plain = [] if adapter_of(spec.pipeline).needs_reference else [""]
    return [*plain, *spec.reference_modes]


def check_safetensors_only(spec: GeneratorSpec, folder: Path) -> None:
    """Raises AssertionError unless pickled weights are rejected, in the pipeline and in each auxiliary.

    `folder` is for copies of the weights, which are deleted again.
    """
    places = {"": spec.source, **{purpose: auxiliary.source for purpose, auxiliary in spec.auxiliaries.items()}}
    for purpose, place in places.items():
        copy = Path(shutil.copytree(place, folder / "pickled"))
        for weights in copy.rglob("*.safetensors"):
            weights.rename(weights.with_suffix(".bin"))
        with rejected("pickled weights"):
            generator_spec(
                spec.name,
                source=spec.source if purpose else str(copy),
                auxiliaries={purpose: str(copy)} if purpose else {},
            )
        shutil.rmtree(copy)


def check_lossy_speed(exact: DiffusionGenerator) -> None:
    """Raises AssertionError unless speed `lossy` gives other images under another revision, independent of their batch."""
    auxiliaries = {key: value.source for key, value in exact.spec.auxiliaries.items()}
    spec = generator_spec(exact.spec.name, source=exact.spec.source, speed="lossy", auxiliaries=auxiliaries)
    lossy = load_generator(spec, batch_size=exact.batch_size)
    for mode in reference_modes(spec.name):
        one, other = Case(exact, mode), Case(lossy, mode)
        assert one.recipe(0).id != other.recipe(0).id
        with rejected("planned for revision"):
            other.generate([one.recipe(0)])
        steps = {"num_inference_steps": 8}  # caching begins after a few steps
        images = other.generate([other.recipe(number, **steps) for number in range(3)])
        assert not torch.equal(one.generate([one.recipe(0, **steps)])[0], images[0])
        assert torch.equal(other.generate([other.recipe(2, **steps)])[0], images[2])


def check_generator(name: str, folder: Path) -> None:
    """Checks the whole contract of a registry entry on its tiny twin, which is written to `folder`.

    Raises:
        AssertionError: a promise is broken; its name is in the traceback.
        ValueError: the entry is invalid.
    """
    with small_references():
        spec = generator_spec(name, **generators.save(name, folder / "twin"))
        generator = load_generator(spec, batch_size=3)
        for mode in reference_modes(name):
            case = Case(generator, mode)
            for promise in PROMISES:
                promise(case)
        check_safetensors_only(spec, folder)
        if spec.levers.get("lossy"):
            check_lossy_speed(generator)
