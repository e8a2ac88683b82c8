"""The two kinds of parts of a prompt strategy, a base and its modifiers, and what they work on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.catalog import Dataset


class Prompt(NamedTuple):
    """The input of a generator."""

    text: str
    """Text to generate an image from."""
    negative: str = ""
    """Text to steer away from."""
    reference_id: str = ""
    """Id of the image that serves as the image prompt."""


@dataclass(frozen=True)
class Materials:
    """Sentences and reference images, prepared before the plan, so that making a prompt is a look-up."""

    sentences: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """Data set → class → sentences (`load_sentences`), for parts that need sentences."""
    references: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """Data set → class → ids of retrieved images, nearest first, for parts that need references."""


NO_MATERIALS = Materials()


class PromptRequest(NamedTuple):
    """The image that a prompt is for."""

    dataset: Dataset
    class_index: int
    shot: int
    """Number of the image within its class, from 0."""
    seed: int = 0
    materials: Materials = NO_MATERIALS
    token: str = ""
    """Learned token that takes the place of the class name; empty for none."""

    @property
    def class_name(self) -> str:
        """Name of the class, or its learned token."""
        return self.token or self.dataset.class_names[self.class_index]


@dataclass(frozen=True)
class Base:
    """The part of a strategy that writes the prompt."""

    name: str
    """Typed by users and stored in the recipe."""
    write: Callable[[PromptRequest], Prompt]
    """A pure function: the same request always gives the same prompt."""
    needs_sentences: bool = False
    """Whether it looks up `Materials.sentences`."""
    needs_references: bool = False
    """Whether it looks up `Materials.references`."""


@dataclass(frozen=True)
class Modifier:
    """A part of a strategy that changes the prompt of its base."""

    name: str
    """Typed by users and stored in the recipe."""
    modify: Callable[[Prompt, PromptRequest], Prompt]
    """A pure function: the same prompt and request always give the same prompt."""
    needs_sentences: bool = False
    """Whether it looks up `Materials.sentences`."""
    needs_references: bool = False
    """Whether it looks up `Materials.references`."""
