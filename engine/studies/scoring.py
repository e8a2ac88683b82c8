"""Scores, costs, errors and example images of plans, as rows of tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cache import cached_value
from engine.catalog import Dataset
from engine.costs import PriceBook, attribute_billed, summarise, summarise_stages, totals
from engine.costs.ledger import COST_COLUMNS
from engine.evaluation.metrics import Metric, MetricInputs, measure, tradeoff_metrics
from engine.evaluation.protocols import ProbeProtocol
from engine.images import viewable
from engine.models import ImageEncoder
from engine.progress import Progress
from engine.reports import ContactSheet
from engine.reports.figures import bar_figure
from engine.reports.tables import average_over_seeds
from engine.sources import Plan, plan_ids, shot_ids
from engine.sources.kinds import ShotPlan, find_source
from engine.store import IdSet, Workspace
from engine.studies.image_set import Images, load_images, pixels_of, stored_images
from engine.studies.losses import group_errors, lost_rows

if TYPE_CHECKING:
    import polars as pl


FIGURE_2 = "GenBench Figure 2: gain of the generated images over zero-shot, at the most shots; bars are one standard deviation over seeds."
SHEET_IMAGES = 24
"""Number of images of a contact sheet."""
EVALUATION_PACKAGES = ("engine.evaluation", "engine.evaluation.metrics")
"""Packages that compute metrics; a change of their code makes cached values invalid."""


@dataclass(frozen=True)
class EvaluationSet:
    """Everything that the scores of one data set share."""

    workspace: Workspace
    dataset: Dataset
    encoder: ImageEncoder
    texts: np.ndarray
    """`[C, T, D]` float32, unit norm: class names in their templates."""
    test: Images
    """Test images."""
    probe: ProbeProtocol
    """Protocol of the linear probe."""
    normalise_ensemble: bool = False
    """Whether CLER's ensemble is brought to unit norm."""

    def load(self, plan: Plan, num: int) -> Images:
        """Committed images of a plan's first `num` recipes."""
        return load_images(self.workspace, self.encoder.name, plan, num)

    def inputs(self, train: Images, seed: int, **more: Any) -> MetricInputs:
        """Inputs of the metrics for some training images; `more` are additional fields."""
        return MetricInputs(
            train_features=train.features,
            train_labels=train.labels,
            train_classes=train.classes,
            test_features=self.test.features,
            test_labels=self.test.labels,
            num_classes=len(self.dataset.class_names),
            text_features=self.texts,
            metric=self.dataset.metric,
            seed=seed,
            protocol=self.probe,
            normalise_ensemble=self.normalise_ensemble,
            **more,
        )


def measure_once(metrics: Sequence[Metric], inputs: MetricInputs) -> dict[str, Any]:
    """Metric → value, and `seconds_…` of each, in that order.

    Both come from the cache if nothing has changed; the seconds are then those of the first computation. Metrics defined
    outside `engine.evaluation` are computed every time, since the cache does not know their code.
    """
    own = [
        metric for metric in metrics if metric.compute and metric.compute.__module__.startswith("engine.evaluation.")
    ]

    def compute(chosen: Sequence[Metric]) -> dict[str, Any]:
        found = measure(chosen, inputs)
        return {"values": found.values, "seconds": found.seconds}

    given = {"metrics": [metric.name for metric in own]}
    given |= {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    found: dict[str, Any] = cached_value(
        "metrics", given, lambda: compute(own), packages=EVALUATION_PACKAGES, edition=2
    )
    others = compute([metric for metric in metrics if metric not in own])
    values, seconds = found["values"] | others["values"], found["seconds"] | others["seconds"]
    return {f"seconds_{name}": taken for name, taken in seconds.items()} | {
        metric.name: values[metric.name] for metric in metrics
    }


class Bills:
    """Cost of every image of a workspace, its part of the bill of its run included."""

    def __init__(self, workspace: Workspace):
        columns = ["id", "split", *COST_COLUMNS]
        table = pa.Table.from_batches(
            workspace.scan(columns), schema=workspace.image_schema().empty_table().select(columns).schema
        )
        self._ids = table.column("id").combine_chunks()
        test = pc.equal(table.column("split"), "test")
        # test images are read and embedded, but are free, so they have a row of their own
        sources = pc.if_else(test, "test", table.column("source"))
        self.table = table.set_column(table.schema.get_field_index("source"), "source", sources)
        self._frame = attribute_billed(self.table, workspace.runs())

    def of(self, ids: Sequence[str]) -> "pl.DataFrame":
        """Cost columns and `usd_billed` of the images with these ids, in order; ids without an image are left out."""
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self._ids).drop_null()
        return self._frame[rows.to_numpy()]


def tradeoff_rows(
    evaluation: EvaluationSet, bills: Bills, plans: Mapping[tuple[str, int], ShotPlan], shots: Sequence[int]
) -> list[dict[str, Any]]:
    """Scores and dollars of the n-shot sets of every (source, seed) on one data set (GenBench Fig. 3).

    Args:
        plans: (source, seed) → plan of at least `max(shots)` shots.
    """
    rows = []
    for (source, seed), plan in plans.items():
        loaded = evaluation.load(plan, plan.num_recipes(max(shots)))
        for num in sorted(shots):
            part = loaded.first(plan.num_recipes(num))
            row = {
                "dataset": evaluation.dataset.name,
                "group": evaluation.dataset.group,
                "source": source,
                "strategy": plan[0].strategy,
                "shots": num,
                "seed": seed,
            }
            cost = totals(bills.of(part.ids))
            money = {name: cost[name] for name in ("images", "usd_busy", "usd_billed", "usd_per_image")}
            rows.append(row | scores_of(evaluation, part, seed) | money)
    return rows


def scores_of(evaluation: EvaluationSet, train: Images, seed: int) -> dict[str, Any]:
    """Every metric of the trade-off that is computed from embeddings; None for each if there are no images."""
    metrics = [metric for metric in tradeoff_metrics() if metric.compute]
    if not len(train.labels) or not len(evaluation.test.labels):
        return dict.fromkeys(metric.name for metric in metrics)
    found = measure_once(metrics, evaluation.inputs(train, seed))
    return {metric.name: found[metric.name] for metric in metrics}


def add_finetuned(
    evaluation: EvaluationSet,
    plans: Mapping[tuple[str, int], ShotPlan],
    shots: Sequence[int],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Adds `finetune` to the rows of `tradeoff_rows` at these shots, trained and scored on the stored pixels."""
    asked = [row for row in rows if row["shots"] in shots]
    progress = Progress(f"fine-tune on {evaluation.dataset.name}", len(asked), unit="models")
    for row in asked:
        progress.show()
        plan = plans[row["source"], row["seed"]]
        train = evaluation.load(plan, plan.num_recipes(row["shots"]))
        row["finetune"] = _finetuned(evaluation, train, row["seed"])
        progress.add(1, 0, 0.0)
    progress.close()


def _finetuned(evaluation: EvaluationSet, train: Images, seed: int) -> float:
    """Score of the fine-tuned encoder, 0 to 1."""
    encoder, test = evaluation.encoder, evaluation.test
    encoded = stored_images(evaluation.workspace, [*train.ids, *test.ids])
    settings: dict[str, Any] = {"metric": evaluation.dataset.metric, "seed": seed}
    # keyed by pixels, not ids: two workspaces may hold images of one recipe that differ by a grey level
    inputs = settings | {
        "encoder": encoder.name,
        "device": encoder.device,
        "train": [encoded[name] for name in train.ids],
        "train_labels": train.labels,
        "test": [encoded[name] for name in test.ids],
        "test_labels": test.labels,
        "texts": evaluation.texts,
    }

    def compute() -> float:
        from engine.evaluation import finetune_score

        tuning, testing = (
            (pixels_of([encoded[name] for name in images.ids]), images.labels) for images in (train, test)
        )
        return finetune_score(encoder, tuning, testing, evaluation.texts, **settings).score

    return float(cached_value("finetuned", inputs, compute, packages=("engine.evaluation", "engine.models"), edition=1))


def improvements(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gain over zero-shot of generated images at the maximum shots, the largest first (GenBench Fig. 2, left)."""
    most = max((row["shots"] for row in rows), default=0)
    found = []
    for row in average_over_seeds([row for row in rows if row["shots"] == most and is_generated(row)]):
        if row["linear_probe"] is not None:
            kept = {name: row[name] for name in ("group", "dataset", "strategy", "shots", "seeds", "zero_shot")}
            probe = {name: row[name] for name in ("linear_probe", "linear_probe_sd")}
            found.append(kept | probe | {"improvement": row["linear_probe"] - row["zero_shot"]})
    return sorted(found, key=lambda row: -row["improvement"])


def is_generated(row: Mapping[str, Any]) -> bool:
    """Whether a row is about generated images."""
    kind = find_source(row["source"])
    return kind is not None and kind.is_generated


def improvement_figure(rows: Sequence[dict[str, Any]]) -> str:
    """Figure 2 of `improvements`: one bar per data set, in percentage points, coloured by group."""
    return bar_figure(
        {row["dataset"]: 100 * row["improvement"] for row in rows},
        spread={row["dataset"]: 100 * (row["linear_probe_sd"] or 0.0) for row in rows},
        colours={row["dataset"]: str(row["group"]) for row in rows},
        title="Linear probe on generated images less zero-shot",
        label="points",
    )


def cost_tables(workspace: Workspace, bills: Bills) -> dict[str, list[dict[str, Any]]]:
    """Costs of the whole workspace.

    `costs`: images and dollars by source, data set and generator. `ledger`: work of all runs by stage. `runs`: all runs.
    """
    shown = (
        "run_id",
        "status",
        "started_at",
        "wall_seconds",
        "instance",
        "nodes",
        "images",
        "errors",
        "busy_seconds",
        "usd_busy",
        "usd_billed",
    )
    runs = [{name: run[name] for name in shown} for run in workspace.runs().sort_by("started_at").to_pylist()]
    for run in runs:
        run["started_at"] = run["started_at"].isoformat(timespec="seconds")
    return {
        "costs": summarise(bills.table, workspace.runs()),
        "ledger": summarise_stages(workspace.ledger()),
        "runs": runs,
    }


def error_rows(workspace: Workspace, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Recipes of these plans that have no image, by the reason of their last failure, and images that no recipe can name."""
    plans = list(plans)
    lost = lost_rows(plans)
    errors = workspace.errors()
    if not errors.num_rows:
        return lost
    planned = IdSet(plan_ids(plan) for plan in plans)
    done = workspace.done_ids()
    names = errors.column("id")
    keep = planned.contains(names.combine_chunks()) & ~done.contains(names.combine_chunks())
    last = {row["id"]: row for row in errors.filter(pa.array(keep)).to_pylist()}
    return group_errors(last.values()) + lost


def contact_sheet(workspace: Workspace, dataset: Dataset, source: str, plan: ShotPlan) -> ContactSheet:
    """The first images of classes spread evenly over the data set."""
    step = max(1, plan.num_classes // SHEET_IMAGES)
    classes = list(range(0, plan.num_classes, step))[:SHEET_IMAGES]
    rounds = min(plan.shots, -(-SHEET_IMAGES // len(classes)))
    chosen: dict[int, list[str]] = {number: [] for number in classes}
    for name, number in shot_ids(plan, 0, rounds):
        if number in chosen:
            chosen[number].append(name)
    ids = [name for names in chosen.values() for name in names][:SHEET_IMAGES]
    table = workspace.fetch(ids, ["image", "class_name"])
    return ContactSheet(
        title=f"{dataset.name}: {source}",
        group=dataset.group,
        source=source,
        images=[viewable(image) for image in table.column("image").to_pylist()],
        captions=table.column("class_name").to_pylist(),
        ids=table.column("id").to_pylist(),
    )


def paper_tables(prices: PriceBook) -> dict[str, list[dict[str, Any]]]:
    """GenBench's Tables 1 and 5 and the dollars of Figure 3, computed from the price book beside the printed values."""
    from engine.costs import genbench_figure_3, genbench_table_1, genbench_table_5

    return {
        "genbench_table_1": genbench_table_1(prices),
        "genbench_table_5": genbench_table_5(prices),
        "genbench_figure_3": genbench_figure_3(prices),
    }
