"""Retrieved pictures of the web as a plan and its maker: a recipe names an address, a worker fetches it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.images import content_hash, decode_image
from engine.recipe import Recipe
from engine.sources.fetching.fetcher import Fetcher, FetchLimits
from engine.sources.make import Generates, Made, Stored

RECIPES_PER_CALL = 512


@dataclass(frozen=True)
class Picture:
    """One candidate for a class."""

    url: str
    caption: str


class WebPlan:
    """Pictures of classes, a list of (class index, picture)."""

    def __init__(self, dataset: str, class_names: Sequence[str], corpus: str, pictures: Sequence[tuple[int, Picture]]):
        self._dataset, self._class_names, self._corpus = dataset, class_names, corpus
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Recipe:
        class_index, picture = self._pictures[index]
        return Recipe(
            source="retrieval",
            dataset=self._dataset,
            class_index=class_index,
            class_name=self._class_names[class_index],
            prompt=picture.caption,
            corpus=self._corpus,
            key=picture.url,
        )


@dataclass
class WebMaker(Generates):
    """Fetches pictures. The limits per host hold within one worker, so a run needs exactly one (`Run.max_workers`)."""

    limits: FetchLimits = field(default_factory=FetchLimits)
    search_seconds: dict[str, float] = field(default_factory=dict)
    """Data set → busy seconds per picture that the search took; part of the cost of each picture that comes."""
    rows_per_call: int = RECIPES_PER_CALL
    gpus_per_actor: float = 0.25
    _fetcher: Fetcher | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def load(self, device: str) -> None:
        """Begins what outlives a call: the turns of hosts, and their robots.txt."""
        self._loop, self._fetcher = asyncio.new_event_loop(), Fetcher(self.limits)

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """The picture of each recipe at its own size, or the reason why there is none."""
        assert self._loop is not None, "load() comes first"
        return self._loop.run_until_complete(self._make(recipes))

    async def _make(self, recipes: Sequence[Recipe]) -> list[Made]:
        assert self._fetcher is not None
        async with self._fetcher as fetcher:
            found = await fetcher.fetch_all([recipe.key for recipe in recipes])
        made = [_decoded(one.data) if not one.reason else Made(reason=one.reason) for one in found]
        for recipe, one in zip(recipes, made, strict=True):
            one.search_seconds = 0.0 if one.reason else self.search_seconds.get(recipe.dataset, 0.0)
        return made


def _decoded(data: bytes) -> Made:
    import numpy as np
    import torch

    try:
        pixels = decode_image(data)  # refuses by the header what would be too large unpacked
    except ValueError as error:
        return Made(reason=str(error))
    stored = Stored(data, content_hash(pixels), pixels.shape[0], pixels.shape[1])
    return Made(pixels=torch.from_numpy(np.moveaxis(pixels, 2, 0).copy()), stored=stored)


class Candidates:
    """The candidates of each class, best first, and what became of them: the next best takes the place of a dead one."""

    def __init__(self, dataset: str, class_names: Sequence[str], corpus: str, pictures: Sequence[Sequence[Picture]]):
        self._dataset, self._class_names, self._corpus, self._pictures = dataset, class_names, corpus, pictures
        self._ids = [[self._plan([(number, one)])[0].id for one in found] for number, found in enumerate(pictures)]

    def _plan(self, pictures: Sequence[tuple[int, Picture]]) -> WebPlan:
        return WebPlan(self._dataset, self._class_names, self._corpus, pictures)

    @property
    def ids(self) -> Iterator[str]:
        """Ids of all candidates."""
        return (one for found in self._ids for one in found)

    def kept(self, there: set[str], shots: int) -> list[list[str]]:
        """Per class, the ids of its first `shots` pictures of those that are `there`."""
        return [[one for one in found if one in there][:shots] for found in self._ids]

    def next_round(self, there: set[str], dead: set[str], shots: int) -> WebPlan:
        """The candidates to fetch now, so that each class has `shots` pictures if all come; empty at the end."""
        chosen = []
        for number, (ids, pictures) in enumerate(zip(self._ids, self._pictures, strict=True)):
            missing = shots - sum(one in there for one in ids)
            left = [picture for one, picture in zip(ids, pictures, strict=True) if one not in there and one not in dead]
            chosen += [(number, picture) for picture in left[: max(0, missing)]]
        return self._plan(chosen)
