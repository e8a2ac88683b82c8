"""WordNet ids as names of classes, as in ImageNet's own folders (`n01440764`) and Stanford Dogs' (`n02085620-Chihuahua`)."""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files

LISTS = ("imagenet1k", "dogs")
"""Data sets whose classes have ids: `class_names/NAME.wordnet`, in the order of `class_names/NAME.txt`."""
_ID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")


@cache
def _names(name: str) -> tuple[str, ...]:
    return tuple(files("engine.catalog").joinpath("class_names", f"{name}.txt").read_text("utf-8").splitlines())


@cache
def _places(name: str) -> dict[str, int]:
    """Id → index of the class."""
    text = files("engine.catalog").joinpath("class_names", f"{name}.wordnet").read_text("utf-8")
    return {each: number for number, each in enumerate(text.split())}


@lru_cache(maxsize=8)
def _list_of(class_names: tuple[str, ...]) -> str:
    return next((name for name in LISTS if _names(name) == class_names), "")


def class_of_id(name: str, class_names: Sequence[str]) -> int | None:
    """Index of the class whose WordNet id stands in a folder's name; None without an id that these classes have.

    The classes are ImageNet's or Stanford Dogs' own list, or any that have the name of the id in ImageNet's list.
    """
    found = _ID.search(name)
    if found is None:
        return None
    of = _list_of(tuple(class_names))
    if of and found[0] in _places(of):
        return _places(of)[found[0]]
    known = name_of_id(name)
    return class_names.index(known) if class_names.count(known) == 1 else None


def name_of_id(name: str) -> str:
    """ImageNet's name of the class whose id stands in a folder's name; empty without one."""
    found = _ID.search(name)
    place = _places("imagenet1k").get(found[0]) if found else None
    return "" if place is None else _names("imagenet1k")[place]


def ids_of(class_name: str, class_names: Sequence[str]) -> list[str]:
    """Ids of the classes that share a name in one of the lists."""
    of = _list_of(tuple(class_names))
    return [each for each, place in _places(of).items() if class_names[place] == class_name] if of else []
