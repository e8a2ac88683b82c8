"""What a workspace says about plans: scores, costs, errors and pictures, as rows of tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cache import cached_value
from engine.catalog import Dataset
from engine.costs import PriceBook, attribute_billed, summarise, totals
from engine.costs.ledger import COST_COLUMNS
from engine.dataflow.progress import Progress
from engine.evaluation.protocols import Protocol as ProbeProtocol
from engine.images import viewable
from engine.models import ImageEncoder
from engine.reports import ContactSheet
from engine.reports.figures import bar_figure
from engine.reports.tables import average_over_seeds
from engine.sources import OriginalPlan, Plan, shot_ids
from engine.sources.plan import ClassPlan
from engine.store import IdSet, Workspace
from engine.studies.image_set import Images, load_images, pixels_of, stored_images
from engine.studies.losses import group_errors, lost_rows

if TYPE_CHECKING:
    import polars as pl


FIGURE_2 = "GenBench Figure 2: what generated images of the most shots improve on zero-shot; bars one standard deviation over seeds."
SHEET_IMAGES = 24
"""Pictures of a contact sheet."""


class ShotPlan(Plan, ClassPlan, Protocol):
    """A plan that goes round the classes and has an end."""


class Bills:
    """What every image of a workspace cost, its part of its run's bill included."""

    def __init__(self, workspace: Workspace):
        columns = ["id", "split", *COST_COLUMNS]
        table = pa.Table.from_batches(
            workspace.scan(columns), schema=workspace.image_schema().empty_table().select(columns).schema
        )
        self._ids = table.column("id").combine_chunks()
        test = pc.equal(table.column("split"), "test")
        # test images are read and embedded, but nobody buys them: they are a row of their own
        sources = pc.if_else(test, "test", table.column("source"))
        self.table = table.set_column(table.schema.get_field_index("source"), "source", sources)
        self._frame = attribute_billed(self.table, workspace.runs())

    def of(self, ids: Sequence[str]) -> "pl.DataFrame":
        """Cost columns and `usd_billed` of the images with these ids, in their order; an id without an image is left out."""
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self._ids).drop_null()
        return self._frame[rows.to_numpy()]


def tradeoff_rows(
    workspace: Workspace,
    bills: Bills,
    dataset: Dataset,
    encoder: str,
    texts: np.ndarray,
    test_plan: OriginalPlan,
    plans: Mapping[tuple[str, int], ShotPlan],
    shots: Sequence[int],
    probe: ProbeProtocol = "validation",
) -> list[dict[str, Any]]:
    """Scores and dollars of the n-shot sets of every (source, seed) on one data set (GenBench Fig. 3).

    Args:
        texts: `[C, T, D]` float32, unit norm: class names in their templates.
        plans: (source, seed) → plan of at least `max(shots)` shots.
        probe: protocol of the linear probe.
    """
    test = load_images(workspace, encoder, test_plan, len(test_plan))
    rows = []
    for (source, seed), plan in plans.items():
        loaded = load_images(workspace, encoder, plan, plan.num_recipes(max(shots)))
        for num in sorted(shots):
            part = loaded.first(plan.num_recipes(num))
            row = {
                "dataset": dataset.name,
                "group": dataset.group,
                "source": source,
                "strategy": plan[0].strategy,
                "shots": num,
                "seed": seed,
            }
            cost = totals(bills.of(part.ids))
            money = {name: cost[name] for name in ("images", "usd_busy", "usd_billed", "usd_per_image")}
            rows.append(row | scores_of(dataset, texts, test, part, seed, probe) | money)
    return rows


def scores_of(
    dataset: Dataset, texts: np.ndarray, test: Images, train: Images, seed: int, probe: ProbeProtocol
) -> dict[str, Any]:
    """Zero-shot, CLER, its ensemble and the linear probe of some images; None each where there are none."""
    names = ("zero_shot", "cler", "cler_ensemble", "linear_probe")
    if not len(train.labels) or not len(test.labels):
        return dict.fromkeys(names)
    sets: dict[str, Any] = {
        "train_features": train.features,
        "train_labels": train.labels,
        "test_features": test.features,
        "test_labels": test.labels,
        "text_features": texts,
        "num_classes": len(dataset.class_names),
        "metric": dataset.metric,
        "seed": seed,
        "protocol": probe,
    }

    def compute() -> dict[str, float]:
        from engine.evaluation import score

        scores = score(**sets)
        return {name: getattr(scores, name) for name in names}

    found: dict[str, Any] = cached_value("scores", sets, compute, packages=("engine.evaluation",), edition=1)
    return found


def add_finetuned(
    workspace: Workspace,
    encoder: ImageEncoder,
    dataset: Dataset,
    texts: np.ndarray,
    test_plan: OriginalPlan,
    plans: Mapping[tuple[str, int], ShotPlan],
    shots: Sequence[int],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Adds `finetune` to the rows of `tradeoff_rows` at these shots; the pixels are the stored ones."""
    test = load_images(workspace, encoder.name, test_plan, len(test_plan))
    asked = [row for row in rows if row["shots"] in shots]
    progress = Progress(f"fine-tune on {dataset.name}", len(asked), unit="models")
    for row in asked:
        progress.show()
        plan = plans[row["source"], row["seed"]]
        train = load_images(workspace, encoder.name, plan, plan.num_recipes(row["shots"]))
        row["finetune"] = _finetuned(workspace, encoder, dataset, texts, train, test, row["seed"])
        progress.add(1, 0, 0.0)
    progress.close()


def _finetuned(
    workspace: Workspace,
    encoder: ImageEncoder,
    dataset: Dataset,
    texts: np.ndarray,
    train: Images,
    test: Images,
    seed: int,
) -> float:
    """Score of the fine-tuned encoder, 0 to 1."""
    encoded = stored_images(workspace, [*train.ids, *test.ids])
    settings: dict[str, Any] = {"metric": dataset.metric, "seed": seed}
    # the pixels decide, not the ids: two workspaces may hold images of one recipe that differ by a grey level
    inputs = settings | {
        "encoder": encoder.name,
        "device": encoder.device,
        "train": [encoded[name] for name in train.ids],
        "train_labels": train.labels,
        "test": [encoded[name] for name in test.ids],
        "test_labels": test.labels,
        "texts": texts,
    }

    def compute() -> float:
        from engine.evaluation import finetune_score

        pixels = [pixels_of([encoded[name] for name in images.ids]) for images in (train, test)]
        return finetune_score(encoder, pixels[0], train.labels, pixels[1], test.labels, texts, **settings).score

    return float(cached_value("finetuned", inputs, compute, packages=("engine.evaluation", "engine.models"), edition=1))


def improvements(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What generated images of the most shots improve on zero-shot, data sets in descending order (GenBench Fig. 2, left)."""
    most = max((row["shots"] for row in rows), default=0)
    found = []
    for row in average_over_seeds([row for row in rows if row["shots"] == most and row["source"] == "generative"]):
        if row["linear_probe"] is not None:
            kept = {name: row[name] for name in ("group", "dataset", "strategy", "shots", "seeds", "zero_shot")}
            probe = {name: row[name] for name in ("linear_probe", "linear_probe_sd")}
            found.append(kept | probe | {"improvement": row["linear_probe"] - row["zero_shot"]})
    return sorted(found, key=lambda row: -row["improvement"])


def improvement_figure(rows: Sequence[dict[str, Any]]) -> str:
    """Figure 2 of `improvements`: a bar a data set, in points, coloured by its group."""
    return bar_figure(
        {row["dataset"]: 100 * row["improvement"] for row in rows},
        spread={row["dataset"]: 100 * (row["linear_probe_sd"] or 0.0) for row in rows},
        colours={row["dataset"]: str(row["group"]) for row in rows},
        title="Linear probe on generated images less zero-shot",
        label="points",
    )


def cost_tables(workspace: Workspace, bills: Bills) -> dict[str, list[dict[str, Any]]]:
    """`costs`: images and dollars of the whole workspace by source, data set and generator. `runs`: all its runs."""
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
    return {"costs": summarise(bills.table, workspace.runs()), "runs": runs}


def error_rows(workspace: Workspace, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Recipes of these plans that have no image, by the reason of their last failure, and images that no recipe can name."""
    plans = list(plans)
    lost = lost_rows(plans)
    errors = workspace.errors()
    if not errors.num_rows:
        return lost
    planned = IdSet([plan[index].id for index in range(len(plan))] for plan in plans)
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
    )


def paper_tables(prices: PriceBook) -> dict[str, list[dict[str, Any]]]:
    """GenBench Tables 1 and 5, computed from the price book beside what the paper prints."""
    from engine.costs import genbench_table_1, genbench_table_5

    return {"genbench_table_1": genbench_table_1(prices), "genbench_table_5": genbench_table_5(prices)}
