"""The retrieval source of a study: images of a captioned pool, or pictures that `imagefoundry fetch` has brought."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.catalog import Dataset
from engine.models import ImageEncoder
from engine.sources import RetrievalPlan
from engine.sources.fetched import FetchedPictures, FetchedPlan, caption_similarities, check_enough, fetched_pictures
from engine.sources.retrieval import CaptionedPool, caption_embeddings, check_pool, class_queries
from engine.store import Workspace
from engine.store.rows import quote

if TYPE_CHECKING:
    from engine.studies.study import StudyConfig

IMAGES_AT_ONCE = 512
"""Images whose bytes are counted together."""


def check_retrieved(config: "StudyConfig", datasets: Sequence[Dataset], shots: int, allow_fewer: bool) -> None:
    """Raises ValueError if the pool, or the fetched pictures of a data set, are missing or too few."""
    if not config.fetched:
        check_pool(config.pool, shots)
        return
    workspace = Workspace.open(config.workspace, create=False)
    for dataset in datasets:
        check_enough(dataset, _pictures(config, workspace, dataset), shots, allow_fewer)


def plan_retrieved(
    config: "StudyConfig",
    dataset: Dataset,
    encoder: ImageEncoder,
    pool: Callable[[], CaptionedPool],
    shots: int,
    allow_fewer: bool,
) -> RetrievalPlan | FetchedPlan:
    """The retrieved images of a data set, at most `shots` per class. Raises ValueError if there are too few."""
    if not config.fetched:
        return RetrievalPlan(dataset, pool(), class_queries(encoder, dataset), shots)
    pictures = _pictures(config, Workspace.open(config.workspace, create=False), dataset)
    texts, place = np.unique([recipe.prompt for recipe in pictures.recipes], return_inverse=True)
    captions, _ = caption_embeddings(encoder, texts.tolist())
    similarities = caption_similarities(pictures.recipes, captions[place], class_queries(encoder, dataset))
    return FetchedPlan(dataset, pictures, similarities, shots, allow_fewer)


def _pictures(config: "StudyConfig", workspace: Workspace, dataset: Dataset) -> FetchedPictures:
    return fetched_pictures(workspace, config.fetched, dataset, config.fetched_threshold)


def fetched_rows(config: "StudyConfig", workspace: Workspace, plans: Sequence[FetchedPlan]) -> list[dict[str, Any]]:
    """One row per data set: pictures of the study, bytes, seconds and dollars per picture, and candidates that failed.

    Seconds and dollars are of the worker that fetched them, with their share of the search; the bill of the run, which the
    trade-off shows as billed, has its failures and its waits too. Traffic into a cloud has no price in the book.
    """
    rows = []
    for plan in plans:
        ids = [plan[index].id for index in range(len(plan))]
        size = 0
        for start in range(0, len(ids), IMAGES_AT_ONCE):
            images = workspace.fetch(ids[start : start + IMAGES_AT_ONCE], ["image"])["image"]
            size += sum(len(data.as_py()) for data in images)
        costs = workspace.fetch(ids, ["device_seconds", "usd_compute"])
        seconds, usd = (float(np.sum(costs[name].to_numpy())) for name in ("device_seconds", "usd_compute"))
        own = f"corpus = {quote(plan.corpus)} AND dataset = {quote(plan.dataset.name)}"
        failed = workspace.dataset("errors").count_rows(f"source = 'retrieval' AND {own}")
        pictures = _pictures(config, workspace, plan.dataset)
        row = {"dataset": plan.dataset.name, "corpus": plan.corpus, "pictures": len(ids), "failed_candidates": failed}
        num = max(1, len(ids))
        row |= {"below_threshold": pictures.rejected, "bytes_per_picture": size / num}
        rows.append(row | {"seconds_per_picture": seconds / num, "usd_per_picture": usd / num})
    return rows
