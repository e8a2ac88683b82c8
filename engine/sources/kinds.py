"""The sources of images as rows: how each is named, plotted, priced and planned. Studies, tables, figures and the page read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from engine.catalog import Dataset
from engine.costs import PriceBook
from engine.models.spec import GeneratorSpec
from engine.names import unknown_name
from engine.prompts import Materials
from engine.sources.fetched import FetchedPlan
from engine.sources.generative import GenerativePlan
from engine.sources.injected import InjectedPlan, TokenRef
from engine.sources.original import OriginalPlan
from engine.sources.plan import ClassPlan, Plan
from engine.sources.retrieval import CaptionedPool, RetrievalPlan


class ShotPlan(Plan, ClassPlan, Protocol):
    """A plan that goes round the classes and has an end."""


class PlanParts(Protocol):
    """Models and collections that plans are made from; a study has them, each loaded at its first use."""

    @property
    def generator(self) -> GeneratorSpec:
        """The generator's entry."""
        ...

    @property
    def materials(self) -> Materials:
        """Sentences and reference images of the prompt strategies."""
        ...

    @property
    def pool(self) -> CaptionedPool:
        """The captioned web pool."""
        ...

    def original_plan(self, dataset: Dataset, seed: int, shots: int) -> OriginalPlan:
        """Training images of a data set. Raises ValueError for too few, unless fewer are allowed."""
        ...

    def retrieval_plan(self, dataset: Dataset) -> RetrievalPlan | FetchedPlan:
        """The images of the pool, or the fetched pictures, that are nearest to the classes of a data set."""
        ...

    def learned_tokens(self, dataset: Dataset, seed: int, references: str) -> Sequence[TokenRef | None]:
        """The token of each class of a data set, learned from references of a source; None for a class without."""
        ...


@dataclass(frozen=True)
class PlanRequest:
    """The images that a plan is wanted for."""

    dataset: Dataset
    shots: int
    """Images per class, at most."""
    seed: int
    strategy: str
    """Prompt strategy; empty for sources that take none."""
    parts: PlanParts
    guidance_scale: float | None = None
    """Guidance of generated images; the generator's own choice if None."""
    references: str = ""
    """Source of the images that learned tokens are fitted on; empty for the configured one."""


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One source of labelled images (GenBench section 2.2)."""

    name: str
    """Typed by users and stored in the recipe."""
    label: str
    """Name in figures and headlines."""
    colour: str
    """Colour on a light page, `#rrggbb`; different for every source."""
    dark_colour: str
    """Colour on a dark page."""
    marker: str
    """matplotlib marker of its points."""
    label_price: float | None
    """US dollars that people are paid per label where the price book has no price; None if the book must have one."""
    make_plan: Callable[[PlanRequest], ShotPlan]
    """Plans its images."""
    is_generated: bool = False
    """Whether a generator makes its images, by a prompt strategy; otherwise they are read from the corpora of its plans."""
    searches_pool: bool = False
    """Whether its images are found by their captions in the pool."""
    learns_tokens: bool = False
    """Whether tokens must be learned before its images are planned."""
    plans_early: bool = False
    """Whether its plans are made while the configuration is checked: they cost little and find what is wrong with a data set."""

    def usd_per_label(self, prices: PriceBook) -> float:
        """US dollars per label. Raises ValueError if the price book must have a price and has none."""
        return prices.usd_per_label(self.name, self.label_price)


def _plan_generative(request: PlanRequest) -> ShotPlan:
    return _generated(request, GenerativePlan)


def _plan_injected(request: PlanRequest) -> ShotPlan:
    tokens = request.parts.learned_tokens(request.dataset, request.seed, request.references)
    return _generated(request, partial(InjectedPlan, tokens=tokens))


def _generated(request: PlanRequest, plan: Callable[..., ShotPlan]) -> ShotPlan:
    parts = request.parts
    return plan(
        request.dataset,
        parts.generator,
        request.strategy,
        request.shots,
        request.seed,
        parts.materials,
        guidance_scale=request.guidance_scale,
    )


def _plan_retrieval(request: PlanRequest) -> ShotPlan:
    # the nearest captions are the same for every seed
    return request.parts.retrieval_plan(request.dataset)


def _plan_original(request: PlanRequest) -> ShotPlan:
    return request.parts.original_plan(request.dataset, request.seed, request.shots)


# colours: Okabe and Ito's palette, told apart with any colour vision, the second and third darkened for text on white
SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind(
        name="generative",
        label="generative",
        colour="#0072b2",
        dark_colour="#56b4e9",
        marker="o",
        label_price=0.0,  # the prompt is the label
        make_plan=_plan_generative,
        is_generated=True,
    ),
    SourceKind(
        name="injected",
        label="injected",
        colour="#9c4a7b",
        dark_colour="#d98bb8",
        marker="D",
        label_price=0.0,  # people label the references alone
        make_plan=_plan_injected,
        is_generated=True,
        learns_tokens=True,
    ),
    SourceKind(
        name="retrieval",
        label="retrieval",
        colour="#c35200",
        dark_colour="#f0883e",
        marker="s",
        label_price=0.0,  # the query is the label
        make_plan=_plan_retrieval,
        searches_pool=True,
    ),
    SourceKind(
        name="original",
        label="original",
        colour="#00805e",
        dark_colour="#2ec99e",
        marker="^",
        label_price=None,
        make_plan=_plan_original,
        plans_early=True,
    ),
)
"""All sources, in the order of tables and figures. A new source is a file of this folder and a row here."""

SOURCES: tuple[str, ...] = tuple(kind.name for kind in SOURCE_KINDS)
"""Their names."""
PAPER_SOURCES: tuple[str, ...] = ("generative", "retrieval", "original")
"""Those that GenBench compares (section 2.2)."""


def source_kind(name: str) -> SourceKind:
    """The source of that name. Raises ValueError, with the nearest names, if there is none."""
    for kind in SOURCE_KINDS:
        if kind.name == name:
            return kind
    raise ValueError(unknown_name("source", name, [kind.name for kind in SOURCE_KINDS]))


def find_source(name: Any) -> SourceKind | None:
    """The source of that name; None if there is none."""
    return next((kind for kind in SOURCE_KINDS if kind.name == name), None)


def source_order(name: Any) -> int:
    """Place of a source in tables and figures; values that are no source come last."""
    names = [kind.name for kind in SOURCE_KINDS]
    return names.index(name) if name in names else len(names)
