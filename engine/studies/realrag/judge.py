"""Scores of RealRAG's images and retrievers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.catalog import Dataset
from engine.evaluation import LinearProbe, clip_score, fid_score, fit_linear_probe, predict
from engine.models import ImageEncoder
from engine.models.prompt_weights import read_weights
from engine.prompts import make_prompt
from engine.recipe import embedding_column
from engine.retriever.retriever import Retriever, precision_and_recall
from engine.sources import Plan
from engine.sources.retrieval import class_queries
from engine.store import Workspace
from engine.store.vectors import to_matrix
from engine.studies.image_set import load_features

if TYPE_CHECKING:
    from engine.dataflow.inception import InceptionFeatures

Row = dict[str, Any]
SCORES = ("clip_i", "clip_t", "fid", "accuracy", "zero_shot_accuracy", "judge_i")
"""Columns that `score_rows` fills."""
TOP = (1, 5, 10)
"""The k of P@k and recall@k."""


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
    """Real test images of one data set, and what scores generated images: a probe, and the class names in CLIP's way."""

    dataset: Dataset
    workspace: Workspace
    encoder: ImageEncoder
    judge: ImageEncoder
    """Encoder of the probe; its text tower classifies by the class names too, as RealRAG's OpenCLIP does (Table 2)."""
    test: ImageSet
    probe: LinearProbe
    learnt_from: frozenset[str]
    """Ids of the real images that the probe was fitted on."""
    inception: "InceptionFeatures | None" = None
    """Stage that added the features for FID; None for the judge's features."""
    _known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        dataset: Dataset,
        known: Plan,
        test: Plan,
        encoder: ImageEncoder,
        judge: ImageEncoder,
        inception: "InceptionFeatures | None",
    ) -> "Judge":
        """Fits the probe on the judge's features of the images of `known`. Raises ValueError if there are none.

        None of them may be a reference: a generated image is much like its reference, so a probe that has seen the reference
        scores a memory of it.
        """
        learnt = load_images(workspace, known, [judge.name])
        if not learnt.ids:
            raise ValueError(f"the database has no image of {dataset.name} that could be read; look at the errors")
        probe = fit_linear_probe(
            learnt.features[judge.name], learnt.labels, num_classes=len(dataset.class_names), seed=0
        )
        tested = load_images(workspace, test, [encoder.name, judge.name])
        return cls(dataset, workspace, encoder, judge, tested, probe, frozenset(learnt.ids), inception)

    @property
    def fid_features(self) -> str:
        """Name of the features that FID compares."""
        return self.inception.features if self.inception else self.judge.name

    def row(self) -> Row:
        """Accuracy of the judge itself on real test images, by its probe and by the class names."""
        return {
            "dataset": self.dataset.name,
            "group": self.dataset.group,
            "classes": len(self.dataset.class_names),
            "probe_images": len(self.learnt_from),
            "test_images": len(self.test.ids),
            "accuracy_on_real": float(self.is_right(self.test).mean()),
            "zero_shot_accuracy": float(self.is_named(self.test).mean()),
        }

    def is_right(self, images: ImageSet) -> np.ndarray:
        """`[N]` bool: whether the probe predicts the requested class."""
        return self.probe.predict(images.features[self.judge.name]).numpy() == images.labels

    def is_named(self, images: ImageSet) -> np.ndarray:
        """`[N] bool`: whether the name of the requested class, in the data set's templates, is the nearest of all classes."""
        nearest = predict(images.features[self.judge.name], class_queries(self.judge, self.dataset))
        return nearest.numpy() == images.labels

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
            real, drawn = self.test.features[self.judge.name], images.features[self.judge.name]
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
    by_class, named = (_by_class(right, images) for right in (judge.is_right(images), judge.is_named(images)))
    referred = [number for number, name in enumerate(images.reference_ids) if name]
    assert judge.learnt_from.isdisjoint(images.reference_ids), "the judge has seen a reference"
    shown = shown_classes(judge.workspace, images.reference_ids)
    hits = [shown.get(images.reference_ids[number]) == images.classes[number] for number in referred]
    texts = encode_prompts(judge.encoder, images.prompts)
    return row | {
        "clip_i": judge.nearness(images, judge.encoder.name),
        "clip_t": clip_score(images.features[judge.encoder.name], texts),
        "fid": judge.fid(images),
        "accuracy": fmean(by_class.values()),
        "zero_shot_accuracy": fmean(named.values()),
        "judge_i": judge.nearness(images, judge.judge.name),
        "right_references": fmean(hits) if hits else None,
        "_by_class": by_class,
    }


def shown_classes(workspace: Workspace, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Id → data set and class index of each of these images that is in the table; empty ids are left out."""
    found = workspace.fetch(sorted(set(ids) - {""}), ["dataset", "class_index"])
    names = (found.column(name).to_pylist() for name in ("id", "dataset", "class_index"))
    return {name: (of, number) for name, of, number in zip(*names, strict=True)}


def _by_class(right: np.ndarray, images: ImageSet) -> dict[int, float]:
    return {int(number): float(right[images.labels == number].mean()) for number in np.unique(images.labels)}


def retrieval_rows(
    retrievers: Mapping[tuple[str, str, int], Retriever],
    database: Mapping[Dataset, Plan],
    strategy_of: Callable[[Dataset], str],
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
                texts = [read_weights(prompt).text for prompt in class_prompts(dataset, strategy_of(dataset))]
                hits = whole.search(texts, max(TOP))
                wanted = [(dataset.name, number) for number in range(len(texts))]
                row: Row = {"dataset": dataset.name, "group": dataset.group}
                for k in TOP:
                    precision, recall = precision_and_recall(hits, wanted, num_relevant, k)
                    row |= {f"precision_at_{k}": float(precision.mean()), f"recall_at_{k}": float(recall.mean())}
                row["_precision_by_class"] = dict(enumerate(precision.tolist()))  # of the largest k
                known[retriever.name].append(row | {"index_recall": whole.recall(texts, max(TOP))})
        rows += [dict(zip(("generator", "method", "seed"), key, strict=True)) | row for row in known[retriever.name]]
    return rows
