"""`imagefoundry fetch`: the pictures of a corpus that are nearest to the classes of data sets, as rows of the table (GenBench section 2.2)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from engine.sources.fetching.fetcher import FetchLimits
from engine.studies.config import check_not_empty, check_place, expanded

if TYPE_CHECKING:
    from engine.catalog import Dataset
    from engine.dataflow.resources import Ask
    from engine.dataflow.run import Run
    from engine.models import ImageEncoder
    from engine.sources.fetching.pictures import Candidates, WebMaker
    from engine.store import Workspace


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """The pictures to fetch."""

    corpus: str
    """Corpus of the workspace (`imagefoundry build-corpus`)."""
    datasets: tuple[str, ...] = ("mini-common", "mini-fine", "mini-rare", "mini-novel")
    """Catalog names, folders of images, or NAME=PATH for a catalog data set in another folder."""
    shots: int = 20
    """Pictures per class."""
    reserve: float = 3.0
    """Candidates per picture: how many dead links may stand before each living one. Half of LAION-400M's links are dead today."""
    encoder: str = "mini-clip"
    """Encoder of the corpus, which embeds the class names."""
    workspace: str = "workspace"
    """Folder or s3:// prefix of the workspace."""
    retry_failed: bool = False
    """Try pictures again that failed in an earlier run; otherwise the next best stand in for them."""
    limits: tyro.conf.OmitArgPrefixes[FetchLimits] = field(default_factory=FetchLimits)
    """Limits of politeness, time and size."""
    filter: bool = False
    """Pass over pictures whose own caption (by a captioner) is unlike the class name, as GenBench does before Textual Inversion.
    They stay in the table with their score, so that another threshold needs no new download."""
    filter_threshold: float = 0.8
    """Least similarity of that caption and the class name; the paper's is 0.8."""
    captioner: str = "blip2"
    """Captioner of the filter: a name, a Hub id or a folder."""
    similarity: str = "bert"
    """Language model of the filter that compares texts: a name, a Hub id or a folder."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""

    def __post_init__(self) -> None:
        """Expands `~`."""
        object.__setattr__(self, "workspace", expanded(self.workspace))
        object.__setattr__(self, "encoder", expanded(self.encoder, True))
        object.__setattr__(self, "datasets", expanded(self.datasets))

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_not_empty(datasets=self.datasets)
        check_place("workspace", self.workspace)
        if not -1 <= self.filter_threshold <= 1:
            raise ValueError(f"filter threshold {self.filter_threshold} is no cosine; give a number from -1 to 1")
        if self.shots < 1 or self.reserve < 1:
            raise ValueError("shots and reserve must be 1 or more; give larger numbers")
        self.limits.check()


@dataclass(frozen=True)
class FetchedSet:
    """The outcome for one data set."""

    dataset: str
    shots: int
    fetched: int
    """Pictures that came now."""
    kept: list[list[str]]
    """Ids of each class's pictures, best first."""
    reasons: dict[str, int]
    """Reason → candidates that failed, over all runs."""

    @property
    def short(self) -> int:
        """Classes that have fewer pictures than shots."""
        return sum(len(found) < self.shots for found in self.kept)


def fetch_pictures(config: FetchConfig) -> list[FetchedSet]:
    """Fetches until each class has its shots or no candidate is left; every failure is a row of `errors`.

    Raises:
        ValueError: there is no such corpus, data set or encoder; a limit is invalid.
    """
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.models.lazy import LazyEncoder
    from engine.models.reach import check_encoder
    from engine.retriever.class_captions import corpus_encoder
    from engine.sources.fetching.pictures import WebMaker
    from engine.store import Workspace
    from engine.studies.config import load_datasets

    config.check()
    check_encoder(config.encoder)
    datasets, prices = load_datasets(config.datasets), PriceBook.load(config.price_book)
    workspace, encoder = Workspace.open(config.workspace, create=False), LazyEncoder(config.encoder)
    corpus_encoder(workspace, config.corpus, encoder.name)
    # one worker, since the limits per host hold within it; fetching waits for servers and needs no other
    with Run(
        workspace,
        prices,
        config.instance,
        asdict(config),
        device="auto" if config.filter else "cpu",
        max_errors=1.0,
        max_workers=1,
        keep_workers=True,
    ) as run:
        searched, found = _search(config, run, datasets, encoder), []
        shares = {one.name: each.seconds / (config.shots * len(one.class_names)) for one, each in searched}
        maker = WebMaker(config.limits, shares)
        for dataset, each in searched:
            found.append(_fetch(config, run, dataset, each.candidates, maker))
            if not found[-1].fetched:  # no picture carries the price of the search
                run.add_work("search captions", len(dataset.class_names), each.seconds, each.ask)
    return found


@dataclass(frozen=True)
class _Searched:
    candidates: "Candidates"
    seconds: float
    """Busy seconds of the search …"""
    ask: "Ask"
    """… and what a worker of it held."""


def _search(
    config: FetchConfig, run: "Run", datasets: "Sequence[Dataset]", encoder: "ImageEncoder"
) -> "list[tuple[Dataset, _Searched]]":
    """Each data set and its candidates; the workers of the search have ended then."""
    from engine.retriever.class_captions import class_pictures
    from engine.retriever.ray_captions import cluster_search
    from engine.sources.fetching.pictures import Candidates, Picture
    from engine.sources.retrieval import class_text_features

    search, found = cluster_search(run, config.corpus, encoder.name, in_ledger=False), []
    for dataset in datasets:
        before, per_class = search.seconds, int(config.shots * config.reserve)
        pictures = class_pictures(search, run.workspace, class_text_features(encoder, dataset), per_class)
        of_class = [[Picture(*pair) for pair in zip(one.urls, one.captions, strict=True)] for one in pictures]
        candidates = Candidates(dataset.name, dataset.class_names, config.corpus, of_class)
        found.append((dataset, _Searched(candidates, search.seconds - before, search.ask)))
    return found


def _fetch(
    config: FetchConfig, run: "Run", dataset: "Dataset", candidates: "Candidates", maker: "WebMaker"
) -> FetchedSet:
    from engine.dataflow.caption_filter import CaptionFilter

    stages = [CaptionFilter(config.captioner, config.similarity)] if config.filter else []
    workspace, ids = run.workspace, list(candidates.ids)
    fetched, tried = 0, False
    while True:
        done = workspace.done_ids()
        there = [one for one, is_there in zip(ids, done.contains(ids), strict=True) if is_there]
        for stage in stages if there and not tried else ():
            run.apply(stage, there)  # pictures of earlier runs without the filter
        unlike = _unlike(workspace, there, config.filter_threshold) if config.filter else {}
        failed = _failed(workspace, config.corpus, set(ids))
        kept = set(there) - set(unlike)
        dead = set(unlike) if config.retry_failed and not tried else {*unlike, *failed}
        plan = candidates.next_round(kept, dead, config.shots)
        if not len(plan):
            break
        tried = True
        fetched += run.fill(f"fetch {dataset.name}", plan, maker, stages).made
    reasons = Counter([*failed.values(), *unlike.values()])
    return FetchedSet(
        dataset.name, config.shots, fetched, candidates.kept(kept, config.shots), dict(reasons.most_common())
    )


def _unlike(workspace: "Workspace", ids: "Sequence[str]", threshold: float) -> dict[str, str]:
    """Id → reason of the pictures among these whose own caption is too unlike their class name, or that have none."""
    from engine.sources.fetched import SCORE

    if not ids:
        return {}
    rows = workspace.fetch(ids, ["id", SCORE])
    found = zip(rows["id"].to_pylist(), rows[SCORE].to_pylist(), strict=True)
    reason = f"its caption is less similar to the class name than {threshold:g}"
    return {one: reason for one, score in found if score is None or score < threshold}


def _failed(workspace: "Workspace", corpus: str, ids: set[str]) -> dict[str, str]:
    """Id → reason of the candidates that failed."""
    from engine.store.rows import quote

    columns, where = ["id", "reason"], f"source = 'retrieval' AND corpus = {quote(corpus)}"
    errors = workspace.dataset("errors").to_table(columns=columns, filter=where)
    pairs = zip(errors["id"].to_pylist(), errors["reason"].to_pylist(), strict=True)
    return {one: reason for one, reason in pairs if one in ids}
