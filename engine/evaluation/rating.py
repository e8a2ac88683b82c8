"""Human ratings of generated images: blinded items for raters, and statistics of their answers (RealRAG sections 4.3 and A.3).

There are two tasks. `matching` shows sets of images of one prompt, one per method, and asks how well each image matches the text, from 1
to 7. `real_fake` shows single images and asks whether each is a photograph (1) or generated (0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

Task: TypeAlias = Literal["matching", "real_fake"]

SCALES: dict[str, tuple[int, ...]] = {"matching": (1, 2, 3, 4, 5, 6, 7), "real_fake": (0, 1)}
"""Answers that a task allows."""

ANSWER_SCHEMA = pa.schema(
    [
        pa.field("rater", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("answer", pa.int64(), nullable=False),
    ]
)
"""One row per rater and item."""


@dataclass(frozen=True)
class RatingStudy:
    """The items of one task."""

    task: Task
    items: pa.Table
    """Columns for raters: `item` (a random name), `set` (items of one set are shown together), `prompt`, `image_id`."""
    key: pa.Table
    """Columns that raters must not see: `item`, `method`, `class_name`."""

    def order(self, rater: str) -> pa.Table:
        """`items` in the order of one rater: the rater's name shuffles the sets, and the images within each set."""
        random = np.random.default_rng(_number(f"order/{rater}"))
        sets = np.asarray(self.items["set"])
        shuffled = random.permutation(np.unique(sets))
        order = [row for one in shuffled for row in random.permutation(np.flatnonzero(sets == one))]
        return self.items.take(pa.array(order))


def sample_rating_study(task: Task, methods: Mapping[str, pa.Table], num_sets: int, seed: int = 0) -> RatingStudy:
    """Samples `num_sets` sets with one image per method: of the same prompt (matching) or of the same class (real or fake).

    So every method has equally many images of every class. Classes take turns: none appears a second time before all
    have appeared once. In the real-or-fake task each image is a set of its own.

    Args:
        task: `matching` or `real_fake`.
        methods: method → `id`, `class_name`, `prompt` of its images, as `Workspace.fetch` gives them.
        num_sets: sets of the matching task; images of each method in the other.
        seed: decides the sets, the images and the names of the items.

    Raises:
        ValueError: an unknown task, fewer than two methods, or too few prompts or classes that all methods have.
    """
    if task not in SCALES:
        raise ValueError(f"unknown task {task!r}; give one of {', '.join(SCALES)}")
    if len(methods) < 2 or num_sets < 1:
        raise ValueError(
            f"{len(methods)} methods and {num_sets} sets are too few; give at least two methods and one set"
        )
    random = np.random.default_rng(_number(f"study/{task}/{seed}"))
    images = {name: _by_kind(table, task) for name, table in methods.items()}
    common = set.intersection(*(set(kinds) for kinds in images.values()))
    places = [
        (kind, number) for kind in sorted(common) for number in range(min(len(of[kind]) for of in images.values()))
    ]
    if len(places) < num_sets:
        what = "images of the same prompt" if task == "matching" else "images of the same class"
        raise ValueError(
            f"all methods together have {len(places)} sets of {what}, fewer than {num_sets}; make more images"
        )
    classes = sorted({kind[0] for kind, _ in places})
    turns: dict[str, list[tuple[tuple[str, str], int]]] = {name: [] for name in classes}
    for position in random.permutation(len(places)):
        turns[places[position][0][0]].append(places[position])
    rounds = [random.permutation(classes) for _ in range(max(len(turn) for turn in turns.values()))]
    chosen = [
        turns[str(name)][number]
        for number, names in enumerate(rounds)
        for name in names
        if number < len(turns[str(name)])
    ]
    shuffled = {
        name: {kind: random.permutation(ids) for kind, ids in sorted(of.items())} for name, of in images.items()
    }
    rows = []
    for number, (kind, place) in enumerate(chosen[:num_sets]):
        for method in sorted(methods):
            item = f"{_number(f'item/{task}/{seed}/{number}/{method}'):016x}"
            image = str(shuffled[method][kind][place])
            rows.append(
                {
                    "item": item,
                    "set": number,
                    "prompt": kind[1],
                    "image_id": image,
                    "method": method,
                    "class_name": kind[0],
                }
            )
    if task == "real_fake":
        for number, place in enumerate(random.permutation(len(rows))):
            rows[place]["set"] = number
    rows.sort(key=lambda row: str(row["item"]))  # not by method
    table = pa.Table.from_pylist(rows)
    return RatingStudy(
        task, table.select(["item", "set", "prompt", "image_id"]), table.select(["item", "method", "class_name"])
    )


def _by_kind(table: pa.Table, task: Task) -> dict[tuple[str, str], list[str]]:
    """(Class, prompt) → ids; the prompt is empty for tasks that do not show it."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in table.select(["id", "class_name", "prompt"]).to_pylist():
        found.setdefault((row["class_name"], row["prompt"] if task == "matching" else ""), []).append(row["id"])
    return {kind: sorted(ids) for kind, ids in found.items()}


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8, person=b"human study").digest(), "big")


def rating_matrix(study: RatingStudy, answers: pa.Table) -> tuple[list[str], np.ndarray]:
    """Raters, and `[R, N]` float64 answers in the order of `study.items`, NaN where a rater gave none.

    Raises:
        ValueError: an item of another study, an answer off the scale, or two answers of a rater to one item.
    """
    items = {name: number for number, name in enumerate(study.items["item"].to_pylist())}
    raters = sorted(set(answers["rater"].to_pylist()))
    ratings = np.full((len(raters), len(items)), np.nan)
    for row in answers.to_pylist():
        if row["item"] not in items:
            raise ValueError(f"item {row['item']!r} is not part of this study; give the study that raters saw")
        if row["answer"] not in SCALES[study.task]:
            scale = SCALES[study.task]
            raise ValueError(
                f"answer {row['answer']} of rater {row['rater']!r} is off the scale {scale[0]} to {scale[-1]}; correct it"
            )
        place = raters.index(row["rater"]), items[row["item"]]
        if np.isfinite(ratings[place]):
            raise ValueError(f"rater {row['rater']!r} answered item {row['item']!r} twice; keep one answer")
        ratings[place] = row["answer"]
    return raters, ratings


def analyse(study: RatingStudy, answers: pa.Table, confidence: float = 0.95, seed: int = 0) -> pa.Table:
    """One row per method: `method`, `raters`, `answers`, `mean`, `variance`, `t_low`, `t_high`, `bootstrap_low`, `bootstrap_high`.

    In the real-or-fake task the mean is the share judged real. `variance` is that of the single answers (ddof 1). Both
    intervals are for the mean over raters of each rater's mean: the answers of one rater depend on each other, so raters
    are resampled, not answers (10,000 percentile bootstrap resamples). With a single rater they are NaN.
    """
    from scipy import stats

    _, ratings = rating_matrix(study, answers)
    methods = np.asarray(study.key["method"].to_pylist())
    random = np.random.default_rng(seed)
    rows = []
    for method in sorted(set(methods.tolist())):
        own = ratings[:, methods == method]
        given = own[np.isfinite(own)]
        per_rater = np.array([row[np.isfinite(row)].mean() for row in own if np.isfinite(row).any()])
        interval = np.full(4, np.nan)
        if len(per_rater) > 1:
            error = per_rater.std(ddof=1) / np.sqrt(len(per_rater))
            reach = error * stats.t.ppf((1 + confidence) / 2, len(per_rater) - 1)
            means = per_rater[random.integers(len(per_rater), size=(10_000, len(per_rater)))].mean(axis=1)
            tails = [(1 - confidence) / 2, (1 + confidence) / 2]
            interval = np.concatenate([per_rater.mean() + np.array([-reach, reach]), np.quantile(means, tails)])
        rows.append(
            {
                "method": method,
                "raters": len(per_rater),
                "answers": len(given),
                "mean": float(given.mean()) if len(given) else np.nan,
                "variance": float(given.var(ddof=1)) if len(given) > 1 else np.nan,
                **dict(zip(("t_low", "t_high", "bootstrap_low", "bootstrap_high"), interval.tolist(), strict=True)),
            }
        )
    return pa.Table.from_pylist(rows)


def agreement(study: RatingStudy, answers: pa.Table) -> float:
    """Agreement of the raters: Krippendorff's ordinal alpha (matching) or Fleiss' kappa (real or fake, items that all raters answered).

    NaN with fewer than two raters.
    """
    _, ratings = rating_matrix(study, answers)
    if study.task == "matching":
        return krippendorff_alpha(ratings, "ordinal")
    if len(ratings) < 2:
        return float("nan")
    whole = ratings[:, np.isfinite(ratings).all(axis=0)]
    return fleiss_kappa(np.stack([(whole == answer).sum(axis=0) for answer in SCALES["real_fake"]], axis=1))


def krippendorff_alpha(ratings: np.ndarray, level: Literal["nominal", "ordinal", "interval"] = "ordinal") -> float:
    """Krippendorff's alpha of `[raters, items]` float64 ratings, NaN where there is none: 1 is agreement, 0 is chance.

    Items with fewer than two ratings are left out. NaN where nothing is left, or all ratings are the same value.
    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = np.stack([(ratings == value).sum(axis=0) for value in values], axis=1).astype(float)  # [items, values]
    counts = counts[counts.sum(axis=1) > 1]
    per_item = counts.sum(axis=1)
    coincidences = (counts.T / (per_item - 1)) @ counts - np.diag((counts / (per_item - 1)[:, None]).sum(axis=0))
    totals = coincidences.sum(axis=1)
    if level == "nominal":
        distance = 1.0 - np.eye(len(values))
    elif level == "ordinal":  # values between two, and half of the two themselves
        middles = np.cumsum(totals) - totals / 2
        distance = (middles[:, None] - middles) ** 2
    else:
        distance = (values[:, None] - values) ** 2
    expected = (np.outer(totals, totals) * distance).sum()
    if not expected:
        return float("nan")
    return float(1 - (totals.sum() - 1) * (coincidences * distance).sum() / expected)


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa of `[items, categories]` counts of answers, as many for every item: 1 is agreement, 0 is chance.

    NaN where there is no item, or all answers are of one category. Raises ValueError for unequal numbers of answers, or one per item.
    Source: J. L. Fleiss, Measuring nominal scale agreement among many raters, 1971.
    """
    per_item = np.unique(counts.sum(axis=1))
    if not len(per_item):
        return float("nan")
    if len(per_item) > 1 or per_item[0] < 2:
        raise ValueError(
            "Fleiss' kappa needs the same number of answers, two at least, for every item; use krippendorff_alpha"
        )
    raters = per_item[0]
    observed = ((counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    expected = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def answer_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Answers as a table (`ANSWER_SCHEMA`). Raises ValueError for a row that lacks a rater, an item or a whole number."""
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=ANSWER_SCHEMA).cast(ANSWER_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise ValueError(
            f"an answer needs a rater, an item and a whole number: {str(error).splitlines()[0]}"
        ) from error
