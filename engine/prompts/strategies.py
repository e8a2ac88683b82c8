"""Prompt strategies of GenBench section 2.3, each a pure function of (data set, class, index, seed).

A strategy is a base and any modifiers, joined by `+`: `defined_template+negative_prompts+restrictive_description` is
Table 2's `w/ NP, RD`. A modifier without a base modifies `defined_template`, as in the paper.

Brackets in a prompt are attention weights (`engine.models.prompt_weights`), so those of a class name are escaped.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, NamedTuple

from engine.catalog import Dataset
from engine.models.prompt_weights import escape
from engine.names import unknown_name


class Prompt(NamedTuple):
    """What a generator is told."""

    text: str
    """What to draw."""
    negative: str = ""
    """What to keep out."""
    reference_id: str = ""
    """Id of the image that is given as the image prompt."""


@dataclass(frozen=True)
class Materials:
    """What some strategies draw on, made before the plan, so that a prompt is a look-up."""

    sentences: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """Data set → class → sentences (`load_sentences`); for `category_enhancement`."""
    references: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """Data set → class → ids of retrieved images, nearest first; for `retrieval_augmented`."""


NO_MATERIALS = Materials()

_Base = Callable[[Dataset, int, int, int, Materials], Prompt]
_Modifier = Callable[[Prompt, Dataset, int, int, int, Materials], Prompt]


@cache
def _words() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("engine.prompts").joinpath("words.toml").read_text("utf-8"))


def _class_name(dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials) -> Prompt:
    return Prompt(escape(dataset.class_names[class_index]))


def _simple_template(dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials) -> Prompt:
    template = _words()["simple_template"]["template"]
    return Prompt(template.replace("{c}", escape(dataset.class_names[class_index])))


def _defined_template(dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials) -> Prompt:
    template = _each_once_then_drawn("template", dataset.templates, dataset, class_index, index, seed)
    return Prompt(template.replace("{c}", escape(dataset.class_names[class_index])))


def _category_enhancement(dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials) -> Prompt:
    if dataset.name not in materials.sentences:
        raise ValueError(
            f"category_enhancement has no sentences of {dataset.name}; make them with load_sentences first"
        )
    sentences = materials.sentences[dataset.name][class_index]
    return Prompt(escape(_each_once_then_drawn("sentence", sentences, dataset, class_index, index, seed)))


def _restrictive_description(
    prompt: Prompt, dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials
) -> Prompt:
    return prompt._replace(text=", ".join([prompt.text, *_words()["restrictive_description"]["phrases"]]))


def _negative_prompts(
    prompt: Prompt, dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials
) -> Prompt:
    num_others = len(dataset.class_names) - 1
    if num_others < 1:
        raise ValueError(f"negative_prompts needs another class than the only one of {dataset.name}; drop the strategy")
    num_drawn: int = _words()["negative_prompts"]["num_categories"]
    others: Sequence[int] = range(num_others)
    if num_others > num_drawn:
        others = _draw_distinct(num_others, num_drawn, _hash("negatives", dataset, class_index, index, seed))
    # number n of the others is class n, or n + 1 from this class on
    names = [dataset.class_names[other + (other >= class_index)] for other in others]
    return prompt._replace(negative=escape(", ".join(names)))


def _retrieval_augmented(
    prompt: Prompt, dataset: Dataset, class_index: int, index: int, seed: int, materials: Materials
) -> Prompt:
    if dataset.name not in materials.references:
        raise ValueError(f"retrieval_augmented has no reference images for {dataset.name}; retrieve some first")
    ids = materials.references[dataset.name][class_index]
    return prompt._replace(reference_id=_each_once_then_drawn("reference", ids, dataset, class_index, index, seed))


_BASES: dict[str, _Base] = {
    "simple_template": _simple_template,
    "class_name": _class_name,
    "defined_template": _defined_template,
    "category_enhancement": _category_enhancement,
}
_MODIFIERS: dict[str, _Modifier] = {
    "negative_prompts": _negative_prompts,
    "restrictive_description": _restrictive_description,
    "retrieval_augmented": _retrieval_augmented,
}


def _hash(purpose: str, dataset: Dataset, class_index: int, index: int, seed: int) -> int:
    # a hash is a draw that needs no generator to be set up: a million prompts are planned in a minute
    text = f"{seed}/{dataset.name}/{class_index}/{index}"
    return int.from_bytes(blake2b(text.encode(), digest_size=32, person=purpose.encode()).digest(), "big")


def _each_once_then_drawn(
    purpose: str, choices: Sequence[str], dataset: Dataset, class_index: int, index: int, seed: int
) -> str:
    """Choice `index`; past the end of the list, one drawn at random (GenBench section 2.2)."""
    if not choices:
        raise ValueError(
            f"{dataset.name} has no {purpose} of class {dataset.class_names[class_index]!r}; give at least one"
        )
    if index < len(choices):
        return choices[index]
    return choices[_hash(purpose, dataset, class_index, index, seed) % len(choices)]


def _draw_distinct(num: int, count: int, entropy: int) -> list[int]:
    """`count` different numbers of `range(num)`, every set as likely as another (Floyd's sampling)."""
    drawn: list[int] = []
    for last in range(num - count, num):
        entropy, number = divmod(entropy, last + 1)
        drawn.append(last if number in drawn else number)
    return drawn


def strategy_names() -> list[str]:
    """Names of the strategies: bases and modifiers."""
    return [*_BASES, *_MODIFIERS]


@lru_cache
def _parse(strategy: str) -> tuple[str, _Base, tuple[_Modifier, ...]]:
    names = strategy.split("+")
    for name in names:
        if name not in _BASES and name not in _MODIFIERS:
            raise ValueError(unknown_name("prompt strategy", name, strategy_names()))
        if names.count(name) > 1:
            raise ValueError(f"prompt strategy {strategy!r} names {name} twice; name it once")
    bases = [name for name in names if name in _BASES] or ["defined_template"]
    if len(bases) > 1:
        raise ValueError(f"prompt strategy {strategy!r} joins {' and '.join(bases)}; give one of them with modifiers")
    modifiers = [name for name in _MODIFIERS if name in names]
    return "+".join([bases[0], *modifiers]), _BASES[bases[0]], tuple(_MODIFIERS[name] for name in modifiers)


def strategy_name(strategy: str) -> str:
    """A strategy's one name: base first, modifiers in their order (`negative_prompts` → `defined_template+negative_prompts`).

    Raises:
        ValueError: a part is unknown or stands twice, or there are two bases.
    """
    return _parse(strategy)[0]


def make_prompt(
    strategy: str, dataset: Dataset, class_index: int, index: int, seed: int = 0, materials: Materials = NO_MATERIALS
) -> Prompt:
    """The prompt of a class' image number `index` under a strategy.

    Raises:
        ValueError: as `strategy_name` does, or the strategy lacks its materials.
    """
    _, base, modifiers = _parse(strategy)
    prompt = base(dataset, class_index, index, seed, materials)
    for modify in modifiers:
        prompt = modify(prompt, dataset, class_index, index, seed, materials)
    return prompt
