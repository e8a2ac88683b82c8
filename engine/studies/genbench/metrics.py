"""Which metric tells what images are worth? CLER, CLIP score, FID and retrieval against the probe (GenBench Fig. 4-6, 9, 10, 12.2)."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.cache import cached_value
from engine.catalog import Dataset
from engine.evaluation import (
    Inception,
    class_centers,
    class_embeddings,
    cler_score,
    clip_score,
    correlation_rows,
    fid_score,
    image_retrieval_score,
    linear_probe_score,
    mean_text_similarity,
    predict,
    zero_shot_score,
)
from engine.models import ImageEncoder
from engine.models.lazy import LazyEncoder
from engine.models.reach import check_encoder
from engine.prompts import strategy_name
from engine.recipe import Recipe
from engine.reports import Report
from engine.reports.figures import bar_figure, scatter_figure
from engine.store import Workspace
from engine.studies.config import check_not_empty
from engine.studies.image_set import Images, load_images, stored_pixels
from engine.studies.scoring import error_rows
from engine.studies.study import (
    SOURCES,
    Study,
    StudyConfig,
    Variant,
    check_shots,
    check_sources,
    run_study,
)

METRICS = ("cler", "cler_ensemble", "clip_score", "fid", "precision_at_5", "recall_at_5")
"""What is held against the probe's accuracy; a small FID is a good one, so its correlation should be negative."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(StudyConfig):
    """Which points: one for each data set, source, strategy, number of shots and seed."""

    sources: tuple[str, ...] = SOURCES
    """Any of `generative`, `retrieval`, `original`."""
    strategies: tuple[str, ...] = ("defined_template",)
    """Prompt strategies of the generative data."""
    shots: tuple[int, ...] = (5, 20, 100)
    """Images a class; the sets nest."""
    compare_shots: int = 5
    """Shots of the figures that the paper draws at 5: other encoders (Fig. 9), other sources (Fig. 10)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed draws its own generated and original images."""
    other_encoders: tuple[str, ...] = ("mini-judge",)
    """Encoders whose CLER and probe are compared too (Fig. 9), on `compare_shots` generated images."""
    fid_encoder: str = "mini-judge"
    """Encoder whose features FID is measured in where no Inception weights are given."""
    inception: Path | None = None
    """Inception weights (`pt_inception-2015-12-05` as safetensors) for the FID of the literature."""
    nearest_captions: int = 100
    """Captions of the pool that a class's mean text similarity is the mean over."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
        check_sources(self.sources)
        check_not_empty(strategies=self.strategies, shots=self.shots)
        for name in self.strategies:
            strategy_name(name)
        check_shots(*self.shots, self.compare_shots)
        if self.compare_shots not in self.shots:
            raise ValueError(f"compare shots {self.compare_shots} is not among the shots; add it to shots")
        if self.nearest_captions < 1:
            raise ValueError(f"nearest captions {self.nearest_captions} is no number of captions; give 1 or more")
        super().check()


def run_metrics(config: MetricsConfig) -> Report:
    """Makes what the workspace lacks, measures every metric on every point, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to mend it.
    """
    return run_study(MetricStudy(config))


class MetricStudy(Study):
    """Every metric on every point, and the correlations between them."""

    config: MetricsConfig

    def check(self) -> None:
        """As every study's, and the other encoders' names and Inception's file."""
        super().check()
        for name in (*self.config.other_encoders, self.config.fid_encoder):
            check_encoder(name)
        _ = self.inception

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The strategies of generative data, and the other sources."""
        self.config.check()
        found = {source: Variant(source, "", max(self.config.shots)) for source in self.config.sources}
        if found.pop("generative", None):
            for name in self.config.strategies:
                found[strategy_name(name)] = Variant("generative", strategy_name(name), max(self.config.shots))
        return found

    @cached_property
    def inception(self) -> Inception | None:
        """FID's own network, if its weights are given."""
        return Inception(self.config.inception) if self.config.inception else None

    @cached_property
    def encoders(self) -> dict[str, ImageEncoder]:
        """The encoders beside the study's own."""
        names = [*self.config.other_encoders, *([] if self.inception else [self.config.fid_encoder])]
        return {name: LazyEncoder(name) for name in dict.fromkeys(names) if name != self.config.encoder}

    def also_embed(self) -> Iterator[tuple[ImageEncoder, list[Recipe]]]:
        """Test images and what each other encoder judges: all points for FID, else those of Fig. 9."""
        for name, encoder in self.encoders.items():
            shots = (
                max(self.config.shots)
                if name == self.config.fid_encoder and not self.inception
                else self.config.compare_shots
            )
            plans = list(self.test_plans.values())
            recipes = {recipe.id: recipe for plan in plans for recipe in (plan[index] for index in range(len(plan)))}
            for each in self.plans.values():
                for plan in each.values():
                    recipes |= {plan[index].id: plan[index] for index in range(plan.num_recipes(shots))}
            yield encoder, list(recipes.values())

    def report(self, workspace: Workspace) -> Report:
        """Points, correlations, times and figures."""
        points: list[dict[str, Any]] = []
        classes: list[dict[str, Any]] = []
        architectures: list[dict[str, Any]] = []
        sets: list[dict[str, Any]] = []
        for dataset in self.datasets:
            found = list(self._points(workspace, dataset))
            points += found
            architectures += self._architectures(workspace, dataset, found)
            if "generative" in self.config.sources and dataset.task != "multilabel":
                of_set, of_classes = self._similarities(workspace, dataset)
                sets.append(of_set)
                classes += of_classes
        report = assemble(
            points,
            architectures,
            sets,
            classes,
            compare_shots=self.config.compare_shots,
            errors=error_rows(workspace, self.every_plan()),
        )
        report.tables["files"] = self.files()
        return report

    def _points(self, workspace: Workspace, dataset: Dataset) -> Iterator[dict[str, Any]]:
        test_plan = self.test_plans[dataset.name]
        test = load_images(workspace, self.encoder.name, test_plan, len(test_plan))
        texts = self.texts(dataset)
        zero_shot = zero_shot_score(test.features, test.labels, texts, metric=dataset.metric)
        real = self._fid_features(workspace, test_plan, len(test_plan), test.ids)
        seen: dict[int, Any] = {}
        for name, variant in self.variants.items():
            for seed in self.config.seeds:
                plan = self.plans[name][dataset.name, seed]
                if id(plan) in seen:  # retrieved images are the same for every seed: one point, not one a seed
                    continue
                seen[id(plan)] = plan
                most = load_images(workspace, self.encoder.name, plan, plan.num_recipes(max(self.config.shots)))
                judged = self._fid_features(workspace, plan, plan.num_recipes(max(self.config.shots)), most.ids)
                for shots in sorted(self.config.shots):
                    train = most.first(plan.num_recipes(shots))
                    if len(train.ids) < 2:
                        continue
                    row = {
                        "dataset": dataset.name,
                        "group": dataset.group,
                        "source": variant.source,
                        "strategy": variant.strategy,
                        "shots": shots,
                        "seed": seed,
                        "zero_shot": zero_shot,
                        "fid_features": self._fid_name,
                    }
                    features = real, judged[: len(train.ids)]
                    yield row | measure(dataset, texts, test, train, features, self._fid_name, seed, self.config.probe)

    @property
    def _fid_name(self) -> str:
        if self.inception:
            return self.inception.name
        return self.encoders.get(self.config.fid_encoder, self.encoder).name

    def _fid_features(self, workspace: Workspace, plan: Any, num: int, ids: Sequence[str]) -> np.ndarray:
        """`[N, D]`, of the images with these ids, which are the plan's first `num` that there are."""
        if not self.inception:
            return load_images(workspace, self._fid_name, plan, num).features
        import torch

        decode = stored_pixels(workspace, ids)
        # images of a set may differ in size, and Inception takes one size a batch
        parts = [self.inception(torch.stack(decode([row]))).cpu().numpy() for row in range(len(ids))]
        return np.concatenate(parts)

    def _architectures(
        self, workspace: Workspace, dataset: Dataset, points: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """CLER and probe of generated images of `compare_shots`, encoder by encoder (Fig. 9)."""
        kept = ("dataset", "group", "source", "strategy", "shots", "seed", "cler", "linear_probe")
        for row in points:
            if row["source"] == "generative" and row["shots"] == self.config.compare_shots:
                yield {"encoder": self.encoder.name} | {name: row[name] for name in kept}
        test_plan = self.test_plans[dataset.name]
        for name in self.config.other_encoders:
            if name not in self.encoders:
                continue
            encoder = self.encoders[name].name
            test = load_images(workspace, encoder, test_plan, len(test_plan))
            for label, variant in self.variants.items():
                if variant.source != "generative":
                    continue
                for seed in self.config.seeds:
                    plan = self.plans[label][dataset.name, seed]
                    train = load_images(workspace, encoder, plan, plan.num_recipes(self.config.compare_shots))
                    where = {
                        "encoder": encoder,
                        "dataset": dataset.name,
                        "group": dataset.group,
                        "source": variant.source,
                        "strategy": variant.strategy,
                        "shots": self.config.compare_shots,
                        "seed": seed,
                    }
                    sets = train.features, train.labels, test.features, test.labels
                    kinds: dict[str, Any] = {"num_classes": len(dataset.class_names), "metric": dataset.metric}

                    def compute(sets: Any = sets, kinds: Any = kinds, seed: int = seed) -> dict[str, float]:
                        return {
                            "cler": cler_score(*sets, **kinds).cler,
                            "linear_probe": linear_probe_score(*sets, seed=seed, **kinds).score,
                        }

                    inputs = {"sets": sets, "kinds": kinds, "seed": seed}
                    yield where | cached_value(
                        "architectures", inputs, compute, packages=("engine.evaluation",), edition=1
                    )

    def _similarities(self, workspace: Workspace, dataset: Dataset) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Mean text similarity of the data set and its classes, and CLER of generated images less zero-shot (Fig. 6)."""
        captions = self.pool
        queries = class_embeddings(self.texts(dataset))
        counts = np.bincount(captions.caption_of, minlength=len(captions.captions))
        k = min(self.config.nearest_captions, int(counts.sum()))
        mts = mean_text_similarity(queries, captions.captions, k=k, counts=counts).numpy()
        test_plan = self.test_plans[dataset.name]
        test = load_images(workspace, self.encoder.name, test_plan, len(test_plan))
        num_classes = len(dataset.class_names)
        before = recall_by_class(predict(test.features, queries).numpy(), test.labels, num_classes)
        after = []
        for name, variant in self.variants.items():
            if variant.source != "generative":
                continue
            for seed in self.config.seeds:
                plan = self.plans[name][dataset.name, seed]
                train = load_images(workspace, self.encoder.name, plan, plan.num_recipes(max(self.config.shots)))
                centers, _ = class_centers(train.features, train.labels, num_classes=num_classes)
                after.append(recall_by_class(predict(test.features, centers).numpy(), test.labels, num_classes))
        change = np.mean(after, axis=0) - before
        where = {"dataset": dataset.name, "group": dataset.group, "source": "generative"}
        rows = [
            where | {"class_name": name, "mts": float(mts[label]), "cler_change": float(change[label])}
            for label, name in enumerate(dataset.class_names)
        ]
        return where | {"mts": float(mts.mean()), "cler_change": float(np.nanmean(change))}, rows


def measure(
    dataset: Dataset,
    texts: np.ndarray,
    test: Images,
    train: Images,
    fid_features: tuple[np.ndarray, np.ndarray],
    fid_name: str,
    seed: int,
    probe: Any,
) -> dict[str, Any]:
    """Every metric of some training images, and `seconds_…` of each on features that are at hand (GenBench Fig. 5).

    From the cache where nothing has changed; the seconds are then those that were measured when they were computed.

    Args:
        texts: `[C, T, D]`; an image's own text, for the CLIP score, is its class's embedding.
        fid_features: of the test images `[N, E]` and of the training images `[M, E]`.
    """
    sets = train.features, train.labels, test.features, test.labels
    kinds: dict[str, Any] = {"num_classes": len(dataset.class_names), "metric": dataset.metric}
    inputs = {
        "sets": sets,
        "kinds": kinds,
        "classes": train.classes,
        "texts": texts,
        "fid_features": fid_features,
        "fid_name": fid_name,
        "seed": seed,
        "probe": probe,
    }
    found: dict[str, Any] = cached_value(
        "metrics",
        inputs,
        lambda: _measure(texts, test, train, fid_features, fid_name, seed, probe, sets, kinds),
        packages=("engine.evaluation",),
        edition=1,
    )
    return found


def _measure(
    texts: np.ndarray,
    test: Images,
    train: Images,
    fid_features: tuple[np.ndarray, np.ndarray],
    fid_name: str,
    seed: int,
    probe: Any,
    sets: tuple[np.ndarray, ...],
    kinds: dict[str, Any],
) -> dict[str, Any]:
    own_text = class_embeddings(texts).numpy()[train.classes]
    row: dict[str, Any] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = call()
        row[f"seconds_{name}"] = time.process_time() - started
        return result

    cler = timed("cler", lambda: cler_score(*sets, text_features=texts, **kinds))
    clip = timed("clip_score", lambda: clip_score(train.features, own_text))
    retrieval = timed(
        "retrieval",
        lambda: image_retrieval_score(
            train.features, train.classes, test.features, test.labels, num_classes=kinds["num_classes"]
        ),
    )
    distance = timed("fid", lambda: fid_score(*fid_features, of=fid_name))
    linear = timed(
        "linear_probe", lambda: linear_probe_score(*sets, seed=seed, protocol=probe, text_features=texts, **kinds)
    )
    return row | {
        "cler": cler.cler,
        "cler_ensemble": cler.cler_ensemble,
        "clip_score": clip,
        "fid": distance.fid,
        "precision_at_5": retrieval.precision,
        "recall_at_5": retrieval.recall,
        "linear_probe": linear.score,
    }


def recall_by_class(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`[C]` share of each class's images that are predicted right; NaN for a class without any."""
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return right / np.bincount(labels, minlength=num_classes)


def assemble(
    points: Sequence[dict[str, Any]],
    architectures: Sequence[dict[str, Any]],
    sets: Sequence[dict[str, Any]],
    classes: Sequence[dict[str, Any]],
    *,
    compare_shots: int,
    errors: list[dict[str, Any]] | None = None,
) -> Report:
    """The report: every correlation with its interval, and the figures."""
    import polars as pl

    def correlate(
        rows: Sequence[dict[str, Any]], scores: Sequence[str], against: str, group: str | None
    ) -> list[dict[str, Any]]:
        return correlation_rows(pl.DataFrame(rows), scores, against=against, group=group) if rows else []

    drawn = [row for row in points if row["source"] == "generative"]
    at_compared = [row for row in points if row["shots"] == compare_shots]
    tables: dict[str, list[dict[str, Any]]] = {
        "figure_4": correlate(drawn, METRICS, "linear_probe", "group"),
        "figure_4_at_equal_shots": [
            {"shots": shots} | row
            for shots in sorted({row["shots"] for row in drawn})
            for row in correlate([r for r in drawn if r["shots"] == shots], METRICS, "linear_probe", None)
        ],
        "figure_5": times(points),
        "figure_6": correlate(classes, ["mts"], "cler_change", "group")
        + [row | {"group": "data sets"} for row in correlate(sets, ["mts"], "cler_change", None)],
        "figure_6_data_sets": list(sets),
        "figure_9": correlate(architectures, ["cler"], "linear_probe", "encoder"),
        "figure_10": correlate(
            [row for row in at_compared if row["source"] != "generative"], ["cler"], "linear_probe", "source"
        ),
        "section_12_2": correlate(points, ["precision_at_5", "recall_at_5"], "cler", "source"),
    }
    figures = {
        f"GenBench Figure 4: {name.replace('_', ' ')} against the probe's accuracy, generated images.": scatter_figure(
            drawn, name, "linear_probe", note=_says(tables["figure_4"], name)
        )
        for name in ("cler", "clip_score", "fid", "precision_at_5")
    }
    seconds = {row["metric"]: row for row in tables["figure_5"] if row["shots"] == "all"}
    figures |= {
        "GenBench Figure 5: processor seconds a data set, features at hand; bars one standard error over points.": bar_figure(
            {name: row["seconds"] for name, row in seconds.items()},
            spread={name: row["standard_error"] for name, row in seconds.items()},
            title="Evaluation time",
            label="seconds",
            log=True,
        ),
        "GenBench Figure 6: mean text similarity of a class against what its generated images change.": scatter_figure(
            classes, "mts", "cler_change", note=_says(tables["figure_6"], "mts")
        ),
        f"GenBench Figure 9: CLER against the probe on {compare_shots} generated shots, encoder by encoder.": scatter_figure(
            architectures, "cler", "linear_probe", colour="encoder", note=_says(tables["figure_9"], "cler")
        ),
        f"GenBench Figure 10: CLER against the probe on {compare_shots} retrieved or original shots.": scatter_figure(
            [row for row in at_compared if row["source"] != "generative"],
            "cler",
            "linear_probe",
            colour="source",
            note=_says(tables["figure_10"], "cler"),
        ),
        "GenBench section 12.2: image-to-image precision@5 against CLER, all sources.": scatter_figure(
            points, "precision_at_5", "cler", colour="source", note=_says(tables["section_12_2"], "precision_at_5")
        ),
    }
    tables |= {"points": list(points), "figure_6_classes": list(classes), "figure_9_points": list(architectures)}
    tables["errors"] = errors or []
    return Report(
        title="GenBench: which metric tells what images are worth?",
        tables={name: rows for name, rows in tables.items() if rows},
        figures={caption: svg for caption, svg in figures.items() if svg},
        notes=[
            "A point is a data set, source, strategy, number of shots and seed; intervals are 95 % by bootstrap over points. "
            "Points of one data set are kin, so the intervals are narrower than those of as many data sets would be.",
            "FID and CLIP score: points of different numbers of shots are not equals (a FID of few images is too large); "
            "see the table at equal shots. FID should fall as accuracy rises.",
        ],
    )


def times(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean seconds of each metric with its standard error, at each number of shots and at all; `probe_ratio`: the probe's ÷ its own."""
    rows = []
    for shots in [*sorted({row["shots"] for row in points}), "all"]:
        part = [row for row in points if shots in (row["shots"], "all")]
        probe = statistics.fmean(row["seconds_linear_probe"] for row in part)
        for name in ("cler", "clip_score", "retrieval", "fid", "linear_probe"):
            seconds = [row[f"seconds_{name}"] for row in part]
            mean = statistics.fmean(seconds)
            error = statistics.stdev(seconds) / len(seconds) ** 0.5 if len(seconds) > 1 else 0.0
            rows.append(
                {
                    "shots": shots,
                    "metric": name,
                    "seconds": mean,
                    "standard_error": error,
                    "probe_ratio": probe / mean if mean else None,
                }
            )
    return rows


def _says(rows: Sequence[dict[str, Any]], score: str) -> str:
    """Pearson's r over all rows, with its interval."""
    row = next((row for row in rows if row["score"] == score and row["group"] == "all"), None)
    if row is None or row["pearson"] is None:
        return ""
    return f"r = {row['pearson']:.2f} [{row['pearson_low']:.2f}, {row['pearson_high']:.2f}], n = {row['n']}"
