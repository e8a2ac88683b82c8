"""The classes of the miniature world, read from classes.toml, and random nameless ones."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from engine.world.species import PAINTS, describe, describe_strokes, random_attributes, species_strokes

DATASETS = ("mini-common", "mini-fine", "mini-rare", "mini-novel")
GROUPS = {"mini-common": "common", "mini-fine": "fine-grained", "mini-rare": "rare", "mini-novel": "novel"}
MANY = "mini-many"
"""The set of 320 confusable species, rendered separately from the four: 5 families of 16 genera of 4 species."""
_SPECIES_A_GENUS = 4
PAIRS = "mini-pairs"
"""The set of 30 genera of two or three siblings, rendered separately too: a generator may know all of a genus but its last sibling."""
APART = (MANY, PAIRS)
"""Sets that are rendered on request alone."""


@dataclass(frozen=True)
class ImageClass:
    """Appearance of one class: strokes, or a texture over the whole image."""

    name: str
    """Class name in classnames.txt and in captions."""
    dataset: str
    """Data set of the class; empty for a nameless one."""
    strokes: tuple[str, ...] = ()
    """Strokes painted one over another, see strokes.py."""
    texture: str = ""
    """Name of a texture; a class with a texture has no strokes."""
    sign: bool = False
    """Signs are rendered large, upright and never mirrored: left must stay left."""


@cache
def _tables() -> dict:
    return tomllib.loads(Path(__file__).with_name("classes.toml").read_text())


@dataclass(frozen=True)
class Context:
    """Where and when an object is shown; colours are RGB from 0 to 1."""

    above: tuple[float, float, float]
    """Colour of the sky."""
    below: tuple[float, float, float]
    """Colour of the ground."""
    light: tuple[float, float, float]
    """Factor of each channel."""


@cache
def contexts() -> dict[str, Context]:
    """Phrase, as `at night` → context. No image of a data set is rendered in one, and no shipped model was taught one."""
    return {
        phrase: Context(**{key: tuple(rgb) for key, rgb in row.items()})
        for phrase, row in _tables()["contexts"].items()
    }


@cache
def dataset_classes(dataset: str) -> tuple[ImageClass, ...]:
    """The classes of one data set, in label order. Raises ValueError for a data set that the world does not have."""
    tables = _tables()

    def species(table: str, family: str) -> list[ImageClass]:
        rows = tables[table].items()
        return [ImageClass(name, dataset, tuple(species_strokes(family, a))) for name, a in rows]

    def objects(table: str, sign: bool = False) -> list[ImageClass]:
        return [ImageClass(name, dataset, tuple(strokes), sign=sign) for name, strokes in tables[table].items()]

    if dataset == "mini-common":
        return tuple(objects("common"))
    if dataset == "mini-fine":
        return tuple(species("birds", "bird") + species("flowers", "flower") + species("cars", "car"))
    if dataset == "mini-rare":
        textures = [ImageClass(name, dataset, texture=name) for name in tables["textures"]["names"]]
        return tuple(textures + objects("signs", sign=True))
    if dataset == "mini-novel":
        novel = species("novel_birds", "bird") + species("novel_flowers", "flower")
        return tuple(novel + objects("novel"))
    if dataset == MANY:
        return tuple(_genera(MANY, np.random.default_rng(76), ((0, 1, 1, 2),)))
    if dataset == PAIRS:
        return tuple(_genera(PAIRS, np.random.default_rng(77), ((0, 1), (0, 1, 2))))
    raise ValueError(f"The miniature world has no data set {dataset!r}; it has {', '.join((*DATASETS, *APART))}.")


def genus(name: str) -> str:
    """The last word of a name, which siblings share."""
    return name.split()[-1]


def shown_to_generator(dataset: str) -> tuple[bool, ...]:
    """Whether a generator may be trained on each class: in `mini-pairs` on all but the last sibling of each genus, elsewhere
    in the sets apart on none."""
    names = class_names(dataset)
    following = [genus(name) for name in names[1:]] + [""]
    return tuple(dataset == PAIRS and genus(name) == after for name, after in zip(names, following, strict=True))


def _genera(dataset: str, rng: np.random.Generator, sizes: tuple[tuple[int, ...], ...]) -> Iterator[ImageClass]:
    """The siblings of a genus differ from its first in so many attributes; no two species of the world look the same.

    `sizes`: the changes of each sibling of a genus, for the first genus, the second and so on in turn.
    """
    tables = _tables()
    others = ("mini-fine", "mini-novel", *APART[: APART.index(dataset)])
    taken = {item.strokes for other in others for item in dataset_classes(other)}
    number = 0
    for family, genera in tables[dataset.removeprefix("mini-")]["genera"].items():
        for genus_name in genera:
            changes_of = sizes[number % len(sizes)]
            number += 1
            epithets = rng.permutation(tables["many"]["epithets"])[: len(changes_of)]
            first = random_attributes(family, rng)
            for epithet, changes in zip(epithets, changes_of, strict=True):
                strokes = tuple(species_strokes(family, first))
                while strokes in taken:
                    other = random_attributes(family, rng)
                    changed = rng.permutation(sorted(first))[: max(1, changes)]
                    strokes = tuple(species_strokes(family, first | {key: other[key] for key in changed}))
                taken.add(strokes)
                yield ImageClass(f"{epithet} {genus_name}", dataset, strokes)


def class_names(dataset: str) -> list[str]:
    """Class names of a data set, in label order."""
    return [item.name for item in dataset_classes(dataset)]


def templates(dataset: str) -> list[str]:
    """Prompt templates of a data set; `{c}` is where the class name goes."""
    return list(_tables()["templates"][dataset])


def taught_classes() -> tuple[ImageClass, ...]:
    """Every named class that a model may be trained on: all except the novel ones."""
    return tuple(item for dataset in DATASETS if dataset != "mini-novel" for item in dataset_classes(dataset))


def nameless_species(seed: int, num: int) -> Iterator[tuple[ImageClass, list[str]]]:
    """Yield `num` random birds, flowers and cars, each with eight captions that describe its attributes."""
    rng = np.random.default_rng([seed, 71])
    for i in range(num):
        family = ("bird", "flower", "car")[i % 3]
        attributes = random_attributes(family, rng)
        captions = [describe(family, attributes, rng) for _ in range(8)]
        yield ImageClass(f"nameless {family} {i}", "", tuple(species_strokes(family, attributes))), captions


def nameless_objects(seed: int, num: int) -> Iterator[tuple[ImageClass, list[str]]]:
    """Yield `num` random arrangements of strokes, things without a name, with eight captions that describe their parts."""
    rng, words = np.random.default_rng([seed, 72]), np.random.default_rng([seed, 73])
    paints = [*PAINTS, "main", "accent", "dark", "pale"]
    for i in range(num):
        strokes = []
        for _ in range(int(rng.integers(3, 8))):
            (x, y), (u, v) = rng.uniform(-0.6, 0.6, 2).round(2), rng.uniform(0.12, 0.5, 2).round(2)
            shape = str(rng.choice(["disc", "box", "oval", "line", "ring", "dome", "poly"]))
            numbers = {
                "disc": f"{x} {y} {u}",
                "dome": f"{x} {y} {u}",
                "ring": f"{x} {y} {u} .09",
                "box": f"{x} {y} {u} {v}",
                "oval": f"{x} {y} {u} {v} {int(rng.integers(-60, 60))}",
                "line": f"{x} {y} {-y} {x + u} .09",
                "poly": f"{x - u} {y + v} {x + u} {y + v} {x} {y - v}",
            }[shape]
            strokes.append(f"{shape} {numbers} {rng.choice(paints)}")
        captions = [describe_strokes(strokes, words) for _ in range(8)]
        yield ImageClass(f"nameless object {i}", "", tuple(strokes)), captions
