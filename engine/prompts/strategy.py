"""Prompt strategies of GenBench section 2.3, each a pure function of (data set, class, index, seed).

A strategy is a base and any modifiers, joined by `+`: `defined_template+negative_prompts+restrictive_description` is
Table 2's `w/ NP, RD`. A modifier without a base modifies `defined_template`, as in the paper.

Brackets in a prompt are attention weights (`engine.models.prompt_weights`), so those of a class name are escaped.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from engine.catalog import Dataset
from engine.names import unknown_name
from engine.prompts.category_enhancement import CATEGORY_ENHANCEMENT
from engine.prompts.class_name import CLASS_NAME
from engine.prompts.defined_template import DEFINED_TEMPLATE
from engine.prompts.negative_prompts import NEGATIVE_PROMPTS
from engine.prompts.parts import NO_MATERIALS, Base, Materials, Modifier, Prompt, PromptRequest
from engine.prompts.restrictive_description import RESTRICTIVE_DESCRIPTION
from engine.prompts.retrieval_augmented import RETRIEVAL_AUGMENTED
from engine.prompts.simple_template import SIMPLE_TEMPLATE
from engine.prompts.written_prompt import WRITTEN_PROMPT

BASES: tuple[Base, ...] = (SIMPLE_TEMPLATE, CLASS_NAME, DEFINED_TEMPLATE, CATEGORY_ENHANCEMENT, WRITTEN_PROMPT)
"""All bases. A new one is a file of this folder and a line here."""
MODIFIERS: tuple[Modifier, ...] = (NEGATIVE_PROMPTS, RESTRICTIVE_DESCRIPTION, RETRIEVAL_AUGMENTED)
"""All modifiers, in the order in which they are applied and named. A new one is a file of this folder and a line here."""


@dataclass(frozen=True)
class Strategy:
    """A base and its modifiers."""

    base: Base
    modifiers: tuple[Modifier, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """The strategy of a name, in any order of its parts.

        Raises:
            ValueError: a part is unknown or stands twice, or there are two bases.
        """
        return _parse(text)

    @cached_property
    def name(self) -> str:
        """Base first, modifiers in their order: what the recipe stores."""
        return "+".join(part.name for part in self.parts)

    @property
    def parts(self) -> tuple[Base | Modifier, ...]:
        """Base, then modifiers."""
        return (self.base, *self.modifiers)

    @property
    def needs_sentences(self) -> bool:
        """Whether a part looks up sentences of the classes."""
        return any(part.needs_sentences for part in self.parts)

    @property
    def needs_references(self) -> bool:
        """Whether a part looks up reference images."""
        return any(part.needs_references for part in self.parts)

    def prompt(self, request: PromptRequest) -> Prompt:
        """The prompt of one image. Raises ValueError if the materials lack what a part needs."""
        prompt = self.base.write(request)
        for modifier in self.modifiers:
            prompt = modifier.modify(prompt, request)
        return prompt


@lru_cache
def _parse(text: str) -> Strategy:
    bases = {base.name: base for base in BASES}
    modifiers = {modifier.name: modifier for modifier in MODIFIERS}
    names = text.split("+")
    for name in names:
        if name not in bases and name not in modifiers:
            raise ValueError(unknown_name("prompt strategy", name, strategy_names()))
        if names.count(name) > 1:
            raise ValueError(f"prompt strategy {text!r} names {name} twice; name it once")
    chosen = [name for name in names if name in bases] or [DEFINED_TEMPLATE.name]
    if len(chosen) > 1:
        raise ValueError(f"prompt strategy {text!r} joins {' and '.join(chosen)}; give one of them with modifiers")
    return Strategy(bases[chosen[0]], tuple(modifiers[name] for name in modifiers if name in names))


def strategy_names() -> list[str]:
    """Names of the parts: bases, then modifiers."""
    return [*(base.name for base in BASES), *(modifier.name for modifier in MODIFIERS)]


def strategy_name(strategy: str) -> str:
    """A strategy's one name: base first, modifiers in their order (`negative_prompts` → `defined_template+negative_prompts`).

    Raises:
        ValueError: as `Strategy.parse`.
    """
    return Strategy.parse(strategy).name


def make_prompt(
    strategy: str,
    dataset: Dataset,
    class_index: int,
    index: int,
    seed: int = 0,
    materials: Materials = NO_MATERIALS,
    token: str = "",
) -> Prompt:
    """The prompt of image number `index` of a class under a strategy; a learned `token` takes the place of the class name.

    Raises:
        ValueError: as `Strategy.parse`, or the strategy lacks its materials.
    """
    return Strategy.parse(strategy).prompt(PromptRequest(dataset, class_index, index, seed, materials, token))
