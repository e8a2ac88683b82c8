"""Prompt strategies of GenBench section 2.3, each a pure function of (data set, class, index, seed)."""

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from engine.catalog import Dataset
from engine.names import unknown_name


class Prompt(NamedTuple):
    """What a generator is told."""

    text: str
    """What to draw."""
    negative: str = ""
    """What to keep out."""


def _simple_template(dataset: Dataset, class_index: int, index: int, seed: int) -> Prompt:
    return Prompt(f"a photo of {dataset.class_names[class_index]}")


def _defined_template(dataset: Dataset, class_index: int, index: int, seed: int) -> Prompt:
    template = _each_once_then_drawn(dataset.templates, index, f"{seed}/{dataset.name}/{class_index}/{index}")
    return Prompt(template.replace("{c}", dataset.class_names[class_index]))


def _each_once_then_drawn(choices: tuple[str, ...], index: int, seed: str) -> str:
    """Choice `index`; past the end of the list, one drawn at random (GenBench section 2.2)."""
    if index < len(choices):
        return choices[index]
    # a hash is a draw that needs no generator to be set up: a million prompts are planned in a minute
    drawn = int.from_bytes(blake2b(seed.encode(), digest_size=8, person=b"template").digest(), "big")
    return choices[drawn % len(choices)]


_STRATEGIES: dict[str, Callable[[Dataset, int, int, int], Prompt]] = {
    "simple_template": _simple_template,
    "defined_template": _defined_template,
}


def strategy_names() -> list[str]:
    """Names of the prompt strategies."""
    return list(_STRATEGIES)


def make_prompt(strategy: str, dataset: Dataset, class_index: int, index: int, seed: int = 0) -> Prompt:
    """The prompt of a class' image number `index` under a strategy.

    Raises:
        ValueError: unknown strategy.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(unknown_name("prompt strategy", strategy, strategy_names()))
    return _STRATEGIES[strategy](dataset, class_index, index, seed)
