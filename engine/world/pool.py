"""The web pool: captioned images as in a web crawl, with wrong captions, near-duplicates and other domains."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.world.captions import web_caption
from engine.world.classes import ImageClass, nameless_objects, nameless_species, taught_classes
from engine.world.render import render

SHARD_SIZE = 2000
_NAMED, _WRONG, _DUPLICATE, _FOREIGN = 0.92, 0.22, 0.10, 0.15
_NAMELESS = 300
_VAGUE = ("untitled", "dsc {n}", "image {n}.jpg", "click to enlarge", "new collection, item {n}", "a thing")


@dataclass(frozen=True)
class PoolImage:
    """One image of the pool, with the ground truth about it."""

    shown: ImageClass
    """Class that the image shows."""
    index: int
    """Index in the split `web`: near-duplicates share it."""
    caption: str
    """Caption on the page."""
    named: str
    """Class that the caption names; empty if it names none."""
    domain: str
    """`photo`, or the name of a domain in `DOMAINS`."""
    duplicate: bool
    """True for a near-duplicate of an earlier image."""


def _invert(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - x


def _grey(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(x.mean(2, keepdims=True), 3, axis=2)


def _sketch(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark edges on paper."""
    grey = x.mean(2)
    edges = np.abs(np.diff(grey, axis=0, append=grey[-1:])) + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    return np.repeat(np.clip(245 - 4 * edges, 0, 255)[..., None], 3, axis=2)


def _watermark(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pale lattice over the whole image."""
    rows, columns = np.indices(x.shape[:2])
    marks = np.asarray(((rows + columns + int(rng.integers(8))) % 8 < 2) | ((rows - columns) % 16 < 2))
    return np.where(marks[..., None], 0.45 * x + 0.55 * 235, x)


def _strip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A strip with writing along one edge."""
    x = x.copy()
    height = max(3, x.shape[0] // 4)
    writing = np.where(rng.random((height, x.shape[1], 1)) < 0.4, 30.0, 245.0)
    writing[[0, -1]] = 245
    if rng.random() < 0.5:
        x[:height] = writing
    else:
        x[-height:] = writing
    return x


DOMAINS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "inverted": _invert,
    "grey": _grey,
    "sketch": _sketch,
    "watermark": _watermark,
    "text strip": _strip,
}


@cache
def _nameless(seed: int) -> tuple[list[ImageClass], list[tuple[ImageClass, list[str]]]]:
    return [item for item, _ in nameless_objects(seed + 1, _NAMELESS)], list(nameless_species(seed + 1, _NAMELESS))


def plan_shard(seed: int, shard: range) -> list[PoolImage]:
    """Plans the images with the numbers `shard`; a function of the seed and of these numbers alone."""
    rng = np.random.default_rng([seed, 97, shard.start])
    named, (objects, species) = taught_classes(), _nameless(seed)
    plan: list[PoolImage] = []
    for number in rng.permutation(np.array(shard)):
        domain = "photo" if rng.random() >= _FOREIGN else str(rng.choice(list(DOMAINS)))
        if plan and rng.random() < _DUPLICATE:
            twin = plan[int(rng.integers(len(plan)))]
            caption = web_caption(twin.named, rng) if twin.named else twin.caption
            plan.append(PoolImage(twin.shown, twin.index, caption, twin.named, twin.domain, True))
        elif rng.random() < _NAMED:
            says = shown = named[number % len(named)]
            while shown is says and rng.random() < _WRONG:
                shown = (
                    named[int(rng.integers(len(named)))]
                    if rng.random() < 0.7
                    else objects[int(rng.integers(_NAMELESS))]
                )
            plan.append(PoolImage(shown, int(number), web_caption(says.name, rng), says.name, domain, False))
        elif rng.random() < 0.5:
            shown, captions = species[int(rng.integers(_NAMELESS))]
            plan.append(PoolImage(shown, int(number), str(rng.choice(captions)), "", domain, False))
        else:
            vague = str(rng.choice(_VAGUE)).format(n=int(rng.integers(10, 9999)))
            plan.append(PoolImage(objects[int(rng.integers(_NAMELESS))], int(number), vague, "", domain, False))
    return plan


def _recrop(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a pixel or two off two edges, scale back (nearest), change the brightness a little."""
    size = x.shape[0]
    top, left = (int(cut) for cut in rng.integers(0, 3, 2))
    rows = top + (np.arange(size) * (size - top - 1)) // (size - 1)
    columns = left + (np.arange(size) * (size - left - 1)) // (size - 1)
    return x[rows[:, None], columns[None, :]] * rng.uniform(0.88, 1.12)


def draw_shard(seed: int, plan: list[PoolImage], shard: range, size: int) -> np.ndarray:
    """Render a planned shard: [N, size, size, 3] uint8."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(plan):
        places[image.shown.name].append(place)
    out: np.ndarray = np.empty((len(plan), size, size, 3), np.uint8)
    for members in places.values():
        indices = np.array([plan[place].index for place in members])
        out[members] = render(plan[members[0]].shown, "web", indices, seed, size)
    rng = np.random.default_rng([seed, 98, shard.start])
    for place, image in enumerate(plan):
        x: np.ndarray = out[place].astype(np.float32)
        if image.domain != "photo":
            x = DOMAINS[image.domain](x, rng)
        if image.duplicate:
            x = _recrop(x, rng)
        out[place] = np.clip(x, 0, 255).astype(np.uint8)
    return out
