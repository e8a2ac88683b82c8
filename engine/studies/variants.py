"""The ways of a study to get images, and checks of their names and numbers."""

from typing import NamedTuple

from engine.prompts import Strategy
from engine.sources.kinds import source_kind
from engine.studies.config import check_not_empty


def check_sources(sources: tuple[str, ...]) -> None:
    """Raises ValueError if a source is unknown, or if there is none."""
    check_not_empty(sources=sources)
    for name in sources:
        source_kind(name)


def check_shots(*shots: int) -> None:
    """Raises ValueError if a number of shots is below 1."""
    for num in shots:
        if num < 1:
            raise ValueError(f"shots {num} is not a number of images; give 1 or more")


class Variant(NamedTuple):
    """One way to get images of every class."""

    source: str
    """Name of the source (`engine.sources.kinds`)."""
    strategy: str
    """Prompt strategy of generated images; empty for the others."""
    shots: int
    """Maximum images per class."""
    guidance_scale: float | None = None
    """Guidance of generated images; the generator's own choice if None."""
    references: str = ""
    """Source of the images that tokens are learned from; the configured one if empty."""

    @property
    def needs_references(self) -> bool:
        """Whether its images are generated from reference images."""
        return bool(self.strategy) and Strategy.parse(self.strategy).needs_references

    @property
    def needs_sentences(self) -> bool:
        """Whether its prompts are sentences written by a language model."""
        return bool(self.strategy) and Strategy.parse(self.strategy).needs_sentences

    @property
    def is_generated(self) -> bool:
        """Whether a generator makes its images."""
        return source_kind(self.source).is_generated
