"""Scores of RealRAG's images and retrievers, and the tables of the paper computed from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.catalog import Dataset
from engine.evaluation import LinearProbe, clip_score, fid_score, fit_linear_probe
from engine.models import ImageEncoder
from engine.models.prompt_weights import read_weights
from engine.models.spec import GeneratorSpec
from engine.prompts import make_prompt
from engine.recipe import embedding_column
from engine.retriever.retriever import Retriever, precision_and_recall
from engine.sources import Plan
from engine.store import Workspace
from engine.store.vectors import to_matrix
from engine.studies.image_set import load_features

if TYPE_CHECKING:
    from engine.dataflow.inception import InceptionFeatures

Row = dict[str, Any]
SCORES = ("clip_i", "clip_t", "fid", "accuracy", "judge_i")
TOP = (1, 5, 10)
"""The k of P@k and recall@k."""
PAIRS = (("none", "zero"), ("none", "normal"), ("none", "realrag"), ("zero", "normal"), ("zero", "realrag"), ("normal", "realrag"))  # fmt: skip
"""Methods that are compared with each other."""


@dataclass(frozen=True)
class ImageSet:
    """Committed images of a plan, in its order; failed images are left out."""

    ids: list[str]
    classes: list[tuple[str, int]]
    """Data set and class index of each image."""
    prompts: list[str]
    reference_ids: list[str]
    features: dict[str, np.ndarray]
    """Encoder → `[N, D]` float32, unit norm."""

    @cached_property
    def labels(self) -> np.ndarray:
        """`[N]` int64 class indices."""
        return np.array([number for _, number in self.classes], np.int64)


def load_images(workspace: Workspace, wanted: Plan | Sequence[str], encoders: Sequence[str]) -> ImageSet:
    """The images of a plan, or with these ids, that are in the table and embedded by all of `encoders`."""
    ids = [each if isinstance(each, str) else each.id for each in (wanted[index] for index in range(len(wanted)))]
    columns = {encoder: embedding_column(encoder) for encoder in encoders}
    table = workspace.fetch(ids, ["dataset", "class_index", "prompt", "reference_id", *columns.values()])
    whole = pa.array(np.ones(table.num_rows, bool))
    for column in columns.values():
        whole = pc.and_(whole, pc.is_valid(table.column(column)))
    table = table.filter(whole)
    return ImageSet(
        table.column("id").to_pylist(),
        list(zip(table.column("dataset").to_pylist(), table.column("class_index").to_pylist(), strict=True)),
        table.column("prompt").to_pylist(),
        table.column("reference_id").to_pylist(),
        {encoder: to_matrix(table.column(column)) for encoder, column in columns.items()},
    )


@dataclass(frozen=True)
class Judge:
    """Real test images of one data set, and the probe that scores generated images."""

    dataset: Dataset
    workspace: Workspace
    encoder: ImageEncoder
    judge_name: str
    test: ImageSet
    probe: LinearProbe
    inception: "InceptionFeatures | None" = None
    """Stage that added the features for FID; None for the judge's features."""
    _known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        dataset: Dataset,
        original: Plan,
        test: Plan,
        encoder: ImageEncoder,
        judge_name: str,
        inception: "InceptionFeatures | None",
    ) -> "Judge":
        """Fits the probe on the judge's features of the data set's database images. Raises ValueError if there are none."""
        database = load_images(workspace, original, [judge_name])
        if not database.ids:
            raise ValueError(f"the database has no image of {dataset.name} that could be read; look at the errors")
        probe = fit_linear_probe(
            database.features[judge_name], database.labels, num_classes=len(dataset.class_names), seed=0
        )
        tested = load_images(workspace, test, [encoder.name, judge_name])
        return cls(dataset, workspace, encoder, judge_name, tested, probe, inception)

    @property
    def fid_features(self) -> str:
        """Name of the features that FID compares."""
        return self.inception.features if self.inception else self.judge_name

    def row(self) -> Row:
        """Accuracy of the judge itself on real test images."""
        return {
            "dataset": self.dataset.name,
            "group": self.dataset.group,
            "classes": len(self.dataset.class_names),
            "test_images": len(self.test.ids),
            "accuracy_on_real": float(self.is_right(self.test).mean()),
        }

    def is_right(self, images: ImageSet) -> np.ndarray:
        """`[N]` bool: whether the probe predicts the requested class."""
        return self.probe.predict(images.features[self.judge_name]).numpy() == images.labels

    def nearness(self, images: ImageSet, encoder: str) -> float:
        """Mean cosine of each image and all test images of its class, times 100 (CLIP-I; an image without any is left out)."""
        real, labels = self.test.features[encoder], self.test.labels
        if encoder not in self._known:
            shape = len(self.dataset.class_names), real.shape[1]
            sums = np.zeros(shape, np.float64)
            np.add.at(sums, labels, real)
            self._known[encoder] = sums / np.bincount(labels, minlength=shape[0])[:, None].clip(1)
        means = self._known[encoder]
        rows = np.isin(images.labels, labels)
        return float(100 * (images.features[encoder][rows] * means[images.labels[rows]]).sum(axis=1).mean())

    def fid(self, images: ImageSet) -> float:
        """Fréchet distance to the test images."""
        if self.inception is None:
            real, drawn = self.test.features[self.judge_name], images.features[self.judge_name]
            return fid_score(real, drawn, of=self.fid_features).fid
        if "inception" not in self._known:
            self._known["inception"] = load_features(self.workspace, self.inception.column, self.test.ids)
        features = load_features(self.workspace, self.inception.column, images.ids)
        return fid_score(self._known["inception"], features, of=self.fid_features).fid


def class_prompts(dataset: Dataset, strategy: str) -> list[str]:
    """The first prompt of each class under a strategy."""
    return [make_prompt(strategy, dataset, number, 0).text for number in range(len(dataset.class_names))]


def encode_prompts(encoder: ImageEncoder, prompts: Sequence[str]) -> np.ndarray:
    """`[N, D]` float32, unit norm, of prompts as written; equal prompts are encoded once."""
    distinct = list(dict.fromkeys(prompts))
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    features = encoder.encode_texts([read_weights(prompt).text for prompt in distinct])
    return features[[row_of[prompt] for prompt in prompts]]


def score_rows(judge: Judge, images: ImageSet) -> Row:
    """Scores of the images that one method made for one data set; `_by_class` is for the paired tests."""
    dataset = judge.dataset
    row: Row = {"dataset": dataset.name, "group": dataset.group, "images": len(images.ids)}
    if len(images.ids) < 2:
        return row | dict.fromkeys(SCORES) | {"right_references": None, "_by_class": {}}
    right = judge.is_right(images)
    by_class = {int(number): float(right[images.labels == number].mean()) for number in np.unique(images.labels)}
    referred = [number for number, name in enumerate(images.reference_ids) if name]
    found = judge.workspace.fetch(sorted({images.reference_ids[n] for n in referred}), ["dataset", "class_index"])
    names = (found.column(name).to_pylist() for name in ("id", "dataset", "class_index"))
    shown = {name: (of, number) for name, of, number in zip(*names, strict=True)}
    hits = [shown.get(images.reference_ids[number]) == images.classes[number] for number in referred]
    texts = encode_prompts(judge.encoder, images.prompts)
    return row | {
        "clip_i": judge.nearness(images, judge.encoder.name),
        "clip_t": clip_score(images.features[judge.encoder.name], texts),
        "fid": judge.fid(images),
        "accuracy": fmean(by_class.values()),
        "judge_i": judge.nearness(images, judge.judge_name),
        "right_references": fmean(hits) if hits else None,
        "_by_class": by_class,
    }


def retrieval_rows(
    retrievers: Mapping[tuple[str, str, int], Retriever],
    database: Mapping[Dataset, Plan],
    strategy: str,
    workspace: Workspace,
) -> list[Row]:
    """P@k and recall@k of every retriever on each data set; all search the whole database with the class's first prompt.

    `index_recall` is the share of the exact ten nearest images that the table's index finds.
    """
    num_relevant: dict[tuple[str, int], int] = {}
    for plan in database.values():
        for name in load_images(workspace, plan, []).classes:
            num_relevant[name] = num_relevant.get(name, 0) + 1
    rows: list[Row] = []
    known: dict[str, list[Row]] = {}
    for key, retriever in retrievers.items():
        if retriever.name not in known:
            whole = Retriever(retriever.workspace, retriever.encoder, retriever.head)  # without a limit on the distance
            known[retriever.name] = []
            for dataset in database:
                texts = [read_weights(prompt).text for prompt in class_prompts(dataset, strategy)]
                hits = whole.search(texts, max(TOP))
                wanted = [(dataset.name, number) for number in range(len(texts))]
                row: Row = {"dataset": dataset.name, "group": dataset.group}
                for k in TOP:
                    precision, recall = precision_and_recall(hits, wanted, num_relevant, k)
                    row |= {f"precision_at_{k}": float(precision.mean()), f"recall_at_{k}": float(recall.mean())}
                known[retriever.name].append(row | {"index_recall": whole.recall(texts, max(TOP))})
        rows += [dict(zip(("generator", "method", "seed"), key, strict=True)) | row for row in known[retriever.name]]
    return rows


def summary(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """One row per combination of the columns `by`: mean over seeds of every number, its `…_sd` (n - 1), and `seeds`."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row[name] for name in by), []).append(row)
    averaged = []
    for setting, members in settings.items():
        result: Row = dict(zip(by, setting, strict=True)) | {"seeds": len(members)}
        for name in members[0]:
            if name in (*by, "seed") or name.startswith("_"):
                continue
            values = [row[name] for row in members if row[name] is not None]
            result[name] = fmean(values) if values else None
            result[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
        averaged.append(result)
    return averaged


def paper_tables(rows: Sequence[Row], generators: Mapping[str, GeneratorSpec]) -> dict[str, list[Row]]:
    """RealRAG's Tables 1 to 5, with the study's data sets instead of Cars, Dogs and Flowers."""

    def table(methods: Sequence[str], scores: Sequence[str], average_only: bool = False) -> list[Row]:
        found = []
        for generator, spec in generators.items():
            for method in methods:
                seeds: dict[int, Row] = {}
                for row in rows:
                    if (row["generator"], row["method"]) == (generator, method) and row["accuracy"] is not None:
                        each = seeds.setdefault(row["seed"], {})
                        each |= {} if average_only else {f"{row['dataset']} {name}": row[name] for name in scores}
                        each["accuracies"] = [*each.get("accuracies", []), row["accuracy"]]
                for each in seeds.values():
                    accuracies = each.pop("accuracies")
                    if "accuracy" in scores:
                        each["average accuracy"] = fmean(accuracies)
                named = {"type": spec.pipeline, "generator": generator, "method": method}
                found += summary([named | each | {"seed": seed} for seed, each in seeds.items()], tuple(named))
        return found

    means, ours = ("clip_i", "clip_t", "fid"), ("zero", "normal", "realrag")
    return {
        "realrag_table_1": table(("none", "realrag"), means),
        "realrag_table_2": table(("none", "realrag"), ("accuracy",), average_only=True),
        "realrag_table_3": table(ours, means),
        "realrag_table_4": table(("none", "realrag"), ("accuracy",)),
        "realrag_table_5": table(ours, ("accuracy",)),
    }


def paired_tests(rows: Sequence[Row], retrieval: Sequence[Row]) -> list[Row]:
    """Differences of two methods on one data set: t-test over paired seeds, and for accuracy Wilcoxon's over paired classes.

    A seed's pair shares the noise of its images. p is None if all differences are equal or there is only one pair.
    """
    from scipy import stats

    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    classes: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for row in [*rows, *retrieval]:
        for name in (*SCORES, "precision_at_1", "precision_at_10"):
            if row.get(name) is not None:
                by_method = values.setdefault((row["generator"], row["dataset"], name), {})
                by_method.setdefault(row["method"], {})[row["seed"]] = row[name]
        for number, share in row.get("_by_class", {}).items():
            by_class = classes.setdefault((row["generator"], row["dataset"]), {}).setdefault(row["method"], {})
            by_class.setdefault(number, []).append(share)
    found = []
    for (generator, dataset, score), methods in values.items():
        for first, second in PAIRS:
            seeds = sorted(methods.get(first, {}).keys() & methods.get(second, {}).keys())
            if not seeds:
                continue
            before, after = (np.array([methods[name][seed] for seed in seeds]) for name in (first, second))
            compared: Row = {
                "generator": generator,
                "dataset": dataset,
                "score": score,
                "from": first,
                "to": second,
                "difference": float((after - before).mean()),
                "seeds": len(seeds),
                "p_seeds": _p_value(stats.ttest_rel, after, before),
            }
            if score == "accuracy":
                one, other = (classes[generator, dataset][name] for name in (first, second))
                both = sorted(one.keys() & other.keys())
                before, after = (np.array([fmean(each[number]) for number in both]) for each in (one, other))
                compared |= {"classes": len(both), "p_classes": _p_value(stats.wilcoxon, after, before)}
            found.append(compared)
    return found


def _p_value(test: Any, after: np.ndarray, before: np.ndarray) -> float | None:
    if len(after) < 2 or np.ptp(after - before) < 1e-12:  # equal differences have no variance to test against
        return None
    return float(test(after, before).pvalue)
