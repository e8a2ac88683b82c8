"""Metrics as predictors of the linear probe: CLER, CLIP score, FID, retrieval (GenBench Fig. 4-6, 9, 10, 12.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.catalog import Dataset
from engine.evaluation import class_centers, class_embeddings, mean_text_similarity, predict, zero_shot_score
from engine.evaluation.metrics import CLER, LINEAR_PROBE, MetricInputs, proxy_metrics
from engine.evaluation.metrics.device_time import device_seconds
from engine.models import ImageEncoder
from engine.models.lazy import LazyEncoder
from engine.models.reach import check_encoder
from engine.prompts import Strategy, strategy_name
from engine.recipe import Recipe
from engine.reports import Report
from engine.sources.kinds import PAPER_SOURCES, source_kind
from engine.store import Workspace
from engine.studies.base import Phase, run_study
from engine.studies.config import check_not_empty
from engine.studies.genbench.metric_report import MetricFindings, metric_report
from engine.studies.genbench.similarity import CorpusSimilarity
from engine.studies.image_set import Images, load_features, load_images
from engine.studies.scoring import EvaluationSet, error_rows, is_generated, measure_once
from engine.studies.study import SourceStudy, StudyConfig
from engine.studies.variants import Variant, check_shots, check_sources

if TYPE_CHECKING:
    from engine.dataflow.inception import InceptionFeatures
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Stage


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(StudyConfig):
    """Points to measure: one per data set, source, strategy, number of shots and seed."""

    sources: tuple[str, ...] = PAPER_SOURCES
    """Any of `generative`, `retrieval`, `original`."""
    strategies: tuple[str, ...] = ("defined_template",)
    """Prompt strategies of the generated data."""
    shots: tuple[int, ...] = (5, 20, 100)
    """Images per class; the sets nest."""
    compare_shots: int = 5
    """Shots of the figures that the paper plots at 5 shots: other encoders (Fig. 9), other sources (Fig. 10)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed generates and samples its own images."""
    other_encoders: tuple[str, ...] = ("mini-judge",)
    """Encoders whose CLER and probe are compared too (Fig. 9), on `compare_shots` generated images."""
    fid_encoder: str = "mini-judge"
    """Encoder of the FID features if no Inception weights are given."""
    inception: Path | None = None
    """Inception weights (`pt_inception-2015-12-05` as safetensors) for the FID of the literature."""
    time_on_gpu: bool = False
    """Also time every metric on the GPU of the machine that runs the study, as Fig. 5 of the paper does."""
    nearest_captions: int = 100
    """Captions that the mean text similarity of a class averages over."""
    corpus: str = ""
    """Corpus of the workspace (`imagefoundry build-corpus`) whose captions these are; those of the pool if not given."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_sources(self.sources)
        check_not_empty(strategies=self.strategies, shots=self.shots)
        for name in self.strategies:
            Strategy.parse(name)
        check_shots(*self.shots, self.compare_shots)
        if self.compare_shots not in self.shots:
            raise ValueError(f"compare shots {self.compare_shots} is not among the shots; add it to shots")
        if self.nearest_captions < 1:
            raise ValueError(f"nearest captions {self.nearest_captions} is not a number of captions; give 1 or more")
        super().check()


def run_metrics(config: MetricsConfig) -> Report:
    """Makes the images that the workspace lacks, measures every metric on every point, and writes the report.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(MetricStudy(config))


class MetricStudy(SourceStudy):
    """Every metric on every point, and how well each predicts the linear probe."""

    name = "metrics"
    config: MetricsConfig

    def check(self) -> None:
        """Checks the study, the names of the other encoders, and the Inception file."""
        super().check()
        for name in (*self.config.other_encoders, self.config.fid_encoder):
            check_encoder(name)
        if self.config.corpus:
            self.similarity(Workspace.open(self.config.workspace, create=False))
        _ = self.inception
        if self.config.time_on_gpu:
            import torch

            if not torch.cuda.is_available():
                raise ValueError(
                    "time_on_gpu needs a GPU on the machine that runs the study; leave it out, or move there"
                )

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The strategies of generative data, and the other sources."""
        self.config.check()
        found = {source: Variant(source, "", max(self.config.shots)) for source in self.config.sources}
        for source in [source for source in self.config.sources if source_kind(source).is_generated]:
            found.pop(source)
            for name in self.config.strategies:
                found[strategy_name(name)] = Variant(source, strategy_name(name), max(self.config.shots))
        return found

    @cached_property
    def inception(self) -> "InceptionFeatures | None":
        """The stage that adds the features of the network that defines FID, if its weights are given."""
        from engine.dataflow.inception import InceptionFeatures

        return InceptionFeatures.of(self.config.inception) if self.config.inception else None

    @property
    def stages(self) -> "list[Stage]":
        """Embeddings by the study's encoder, and Inception's features."""
        return [*super().stages, *([self.inception] if self.inception else [])]

    @cached_property
    def encoders(self) -> dict[str, ImageEncoder]:
        """The encoders beside the study's own."""
        names = [*self.config.other_encoders, *([] if self.inception else [self.config.fid_encoder])]
        return {name: LazyEncoder(name) for name in dict.fromkeys(names) if name != self.config.encoder}

    def also_embed(self) -> Iterator[tuple[ImageEncoder, list[Recipe]]]:
        """Test images and the images that each other encoder embeds: all points for FID, else those of Fig. 9."""
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

    def build_report(self, workspace: Workspace) -> Report:
        """Points, correlations, times and figures."""
        found = MetricFindings(compare_shots=self.config.compare_shots)
        for dataset in self.datasets:
            evaluation = self.evaluation_set(workspace, dataset)
            points = list(self._points(evaluation))
            found.points += points
            found.architectures += self._architectures(evaluation, points)
            if self._generated and dataset.task != "multilabel":
                of_set, of_classes = self._similarities(evaluation)
                found.sets.append(of_set)
                found.classes += of_classes
        source = f"corpus {self.config.corpus}" if self.config.corpus else "the pool"
        found.captions = f"{self.config.nearest_captions} nearest captions of {source}"
        report = metric_report(found, error_rows(workspace, self.every_plan()))
        report.tables["files"] = self.files()
        return report

    def phases(self) -> Iterator[Phase]:
        """Makes and embeds the images, and searches the corpus for the mean text similarity."""
        yield from super().phases()
        if self.config.corpus and self._generated:
            yield "mean text similarity", self._search_corpus

    def similarity(self, workspace: Workspace) -> CorpusSimilarity:
        """Mean text similarities by the corpus. Raises ValueError if it cannot be used."""
        return CorpusSimilarity(workspace, self.config.corpus, self.encoder.name, self.config.nearest_captions)

    def _search_corpus(self, run: "Run") -> None:
        texts = [np.asarray(self.texts(dataset)) for dataset in self.datasets if dataset.task != "multilabel"]
        self.similarity(run.workspace).on_cluster(run, texts)

    @property
    def _generated(self) -> dict[str, Variant]:
        return {name: variant for name, variant in self.variants.items() if variant.is_generated}

    def _points(self, evaluation: EvaluationSet) -> Iterator[dict[str, Any]]:
        dataset, test, test_plan = evaluation.dataset, evaluation.test, self.test_plans[evaluation.dataset.name]
        zero_shot = zero_shot_score(test.features, test.labels, evaluation.texts, metric=dataset.metric)
        real = self._fid_features(evaluation, test_plan, len(test_plan), test.ids)
        seen: dict[int, Any] = {}
        for name, variant in self.variants.items():
            for seed in self.config.seeds:
                plan = self.plans[name][dataset.name, seed]
                if id(plan) in seen:  # retrieved images are the same for every seed: one point, not one per seed
                    continue
                seen[id(plan)] = plan
                num = plan.num_recipes(max(self.config.shots))
                most = evaluation.load(plan, num)
                judged = self._fid_features(evaluation, plan, num, most.ids)
                for shots in sorted(self.config.shots):
                    train = most.first(plan.num_recipes(shots))
                    if len(train.ids) < 2:
                        continue
                    row = _where(dataset, variant, shots, seed) | {
                        "zero_shot": zero_shot,
                        "fid_features": self._fid_name,
                    }
                    features = real, judged[: len(train.ids)]
                    inputs = evaluation.inputs(train, seed, fid_features=features, fid_name=self._fid_name)
                    yield row | measure_point(inputs) | self._on_gpu(inputs)

    def _on_gpu(self, inputs: MetricInputs) -> dict[str, float]:
        """`gpu_seconds_…` of each metric, if asked for (GenBench Fig. 5)."""
        if not self.config.time_on_gpu:
            return {}
        metrics = [metric for metric in (*proxy_metrics(), LINEAR_PROBE) if metric.compute]
        return {f"gpu_seconds_{name}": taken for name, taken in device_seconds(metrics, inputs, "cuda").items()}

    @property
    def _fid_name(self) -> str:
        if self.inception:
            return self.inception.features
        return self.encoders.get(self.config.fid_encoder, self.encoder).name

    def _fid_features(self, evaluation: EvaluationSet, plan: Any, num: int, ids: Sequence[str]) -> np.ndarray:
        """`[N, E]` of the images with these ids, which are the committed ones of the plan's first `num` recipes."""
        if not self.inception:
            return load_images(evaluation.workspace, self._fid_name, plan, num).features
        return load_features(evaluation.workspace, self.inception.column, ids)

    def _architectures(self, evaluation: EvaluationSet, points: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """CLER and linear probe of generated images at `compare_shots`, encoder by encoder (Fig. 9)."""
        dataset, shots = evaluation.dataset, self.config.compare_shots
        kept = ("dataset", "group", "source", "strategy", "shots", "seed", CLER.name, LINEAR_PROBE.name)
        for row in points:
            if is_generated(row) and row["shots"] == shots:
                yield {"encoder": self.encoder.name} | {name: row[name] for name in kept}
        test_plan = self.test_plans[dataset.name]
        for name in self.config.other_encoders:
            if name not in self.encoders:
                continue
            encoder = self.encoders[name].name
            test = load_images(evaluation.workspace, encoder, test_plan, len(test_plan))
            for label, variant in self._generated.items():
                for seed in self.config.seeds:
                    plan = self.plans[label][dataset.name, seed]
                    train = load_images(evaluation.workspace, encoder, plan, plan.num_recipes(shots))
                    found = measure_once((CLER, LINEAR_PROBE), _without_text(dataset, train, test, seed))
                    scores = {metric.name: found[metric.name] for metric in (CLER, LINEAR_PROBE)}
                    yield {"encoder": encoder} | _where(dataset, variant, shots, seed) | scores

    def _similarities(self, evaluation: EvaluationSet) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Mean text similarity of the data set and its classes, and CLER of generated images less zero-shot (Fig. 6)."""
        dataset, test = evaluation.dataset, evaluation.test
        queries = class_embeddings(evaluation.texts)
        mts = self._mean_text_similarity(evaluation)
        num_classes = len(dataset.class_names)
        before = recall_by_class(predict(test.features, queries).numpy(), test.labels, num_classes)
        after = []
        for name in self._generated:
            for seed in self.config.seeds:
                plan = self.plans[name][dataset.name, seed]
                train = evaluation.load(plan, plan.num_recipes(max(self.config.shots)))
                centers, _ = class_centers(train.features, train.labels, num_classes=num_classes)
                after.append(recall_by_class(predict(test.features, centers).numpy(), test.labels, num_classes))
        change = np.mean(after, axis=0) - before
        source = next(iter(self._generated.values())).source
        where = {"dataset": dataset.name, "group": dataset.group, "source": source}
        rows = [
            where | {"class_name": name, "mts": float(mts[label]), "cler_change": float(change[label])}
            for label, name in enumerate(dataset.class_names)
        ]
        return where | {"mts": float(mts.mean()), "cler_change": float(np.nanmean(change))}, rows

    def _mean_text_similarity(self, evaluation: EvaluationSet) -> np.ndarray:
        """`[C]`, by the captions of the corpus, each once, or by those of the pool, once for each image."""
        if self.config.corpus:
            return self.similarity(evaluation.workspace).of(np.asarray(evaluation.texts))
        captions = self.pool
        counts = np.bincount(captions.caption_of, minlength=len(captions.captions))
        k = min(self.config.nearest_captions, int(counts.sum()))
        queries = class_embeddings(evaluation.texts)
        return mean_text_similarity(queries, captions.captions, k=k, counts=counts).numpy()


def measure_point(inputs: MetricInputs) -> dict[str, Any]:
    """Every metric of some training images, and `seconds_…` of each on ready features (GenBench Fig. 5)."""
    metrics = [metric for metric in proxy_metrics() if metric.compute]
    return measure_once([*metrics, LINEAR_PROBE], inputs)


def recall_by_class(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`[C]` share of each class's images that are predicted right; NaN for a class without any."""
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return right / np.bincount(labels, minlength=num_classes)


def _where(dataset: Dataset, variant: Variant, shots: int, seed: int) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "group": dataset.group,
        "source": variant.source,
        "strategy": variant.strategy,
        "shots": shots,
        "seed": seed,
    }


def _without_text(dataset: Dataset, train: Images, test: Images, seed: int) -> MetricInputs:
    return MetricInputs(
        train_features=train.features,
        train_labels=train.labels,
        train_classes=train.classes,
        test_features=test.features,
        test_labels=test.labels,
        num_classes=len(dataset.class_names),
        metric=dataset.metric,
        seed=seed,
    )
