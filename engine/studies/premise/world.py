"""One world of the premise study: RealRAG's phases on `mini-pairs`, the further heads, and every score by kind of class."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evaluation import predict
from engine.models.spec import GeneratorSpec
from engine.reports import Report
from engine.retriever.blocks import cut_blocks
from engine.retriever.exact_search import top_k
from engine.retriever.fit import Trained
from engine.sources.retrieval import class_queries
from engine.store import Workspace
from engine.studies.base import Phase
from engine.studies.premise.config import GRID
from engine.studies.premise.kinds import by_kind
from engine.studies.realrag.config import TRAINED, RealRagConfig
from engine.studies.realrag.judge import ImageSet, Judge, Row, class_prompts, encode_prompts, load_images
from engine.studies.realrag.lessons import Lessons, lesson
from engine.studies.realrag.negative_choices import training_probe
from engine.studies.realrag.study import RealRag
from engine.world.classes import PAIRS, genus, shown_to_generator

if TYPE_CHECKING:
    from engine.dataflow.run import Run

NEAREST = 10
"""k of P@k."""
HELD_OUT_SHARE = 0.25
"""Share of the classes whose names the heads of `held_out` have not seen."""
Setting = tuple[int, int, bool, str, int]
"""Epochs, batch size, temperature on the reflective term, method and seed of a head."""


class PremiseWorld(RealRag):
    """RealRAG on one world and one CLIP model."""

    def __init__(self, config: RealRagConfig, generator: GeneratorSpec, *, held_out: bool, grid: bool):
        super().__init__(config)
        self._generator, self._held_out, self._grid = generator, held_out, grid
        self.held_out_heads: dict[tuple[str, int], Trained] = {}
        self.settings: dict[Setting, Trained] = {}

    @cached_property
    def generators(self) -> dict[str, GeneratorSpec]:
        """The generator that was trained on `mini-pairs`."""
        return {self._generator.name: self._generator}

    @property
    def generator_names(self) -> Sequence[str]:
        """Its name."""
        return list(self.generators)

    @property
    def one_lesson(self) -> Lessons:
        """What the heads learn from."""
        return self.lessons[self._generator.name]

    def phases(self) -> Iterator[Phase]:
        """RealRAG's, then the further heads."""
        yield from super().phases()
        if self._held_out:
            yield "held-out classes", self._train_held_out
        if self._grid:
            yield "settings", self._train_settings

    def _train_held_out(self, run: "Run") -> None:
        lessons = replace(self.one_lesson, config=replace(self.config, held_out_share=HELD_OUT_SHARE))
        settings = [(self.config.training.epochs, self.config.training.batch_size, True)]
        trained = self._train_each(run, lessons, settings)
        self.held_out_heads = {(method, seed): one for (*_, method, seed), one in trained.items()}

    def _train_settings(self, run: "Run") -> None:
        self.settings = self._train_each(run, self.one_lesson, GRID)

    def _train_each(
        self, run: "Run", lessons: Lessons, settings: Sequence[tuple[int, int, bool]]
    ) -> dict[Setting, Trained]:
        from engine.retriever.ray_training import train_missing

        data = {method: lessons.data_for(method) for method in TRAINED}
        wanted: dict[Any, Any] = {}
        for epochs, batch_size, temperature in settings:
            for method in TRAINED:
                if method == "normal" and not temperature:
                    continue  # it has no reflective term
                for seed in self.config.seeds:
                    training = replace(
                        self.config.training,
                        epochs=epochs,
                        batch_size=batch_size,
                        temperature_on_reflective=temperature,
                        seed=seed,
                    )
                    wanted[epochs, batch_size, temperature, method, seed] = lesson(method, data[method], training)
        return train_missing(run, wanted)

    def build_report(self, workspace: Workspace) -> Report:
        """Raw scores: a row per method, seed and kind of class, and what was found of the premise itself."""
        dataset = self.datasets[0]
        encoders = [self.encoder.name, self.judge.name]
        judge = Judge.of(
            workspace,
            dataset,
            self.mining[dataset.name],
            self.tests[dataset.name],
            self.encoder,
            self.judge,
            None,
        )
        retrieved = load_images(workspace, self.retrieval[dataset.name], [self.encoder.name])
        texts = encode_prompts(self.encoder, class_prompts(dataset, self.strategy_of(dataset)))
        scores: list[Row] = []
        without: list[ImageSet] = []
        for (_, method, seed), plans in self.plans.items():
            images = load_images(workspace, plans[dataset.name], encoders)
            if method == "none":
                without.append(images)
            right = judge.is_right(images)
            by_class = {int(n): float(right[images.labels == n].mean()) for n in np.unique(images.labels)}
            row: Row = {"method": method, "seed": seed}
            head = self.retrievers[self._generator.name, method, seed].head if method != "none" else None
            nearest = (
                precision(head.embed(retrieved.features[self.encoder.name]), retrieved.labels, texts) if head else {}
            )
            scores += [row | kind for kind in by_kind({"accuracy": by_class, "precision_at_10": nearest})]
        shown = looked_up(self.one_lesson, retrieved.features[self.encoder.name])
        ceiling = {"precision_at_10": precision_of(shown, retrieved.labels)}
        scores += [{"method": "lookup", "seed": 0} | kind for kind in by_kind(ceiling)]
        features = retrieved.features[self.encoder.name]
        tables = {
            "scores": scores,
            "premise": [self._premise(judge, without)],
            "held_out": self._held_out_rows(features, retrieved.labels, texts),
            "settings": [
                dict(zip(("epochs", "batch_size", "temperature", "method", "seed"), setting, strict=True)) | kind
                for setting, one in self.settings.items()
                for kind in by_kind({"precision_at_10": precision(one.head.embed(features), retrieved.labels, texts)})
            ],
        }
        return Report(
            title="One world of the premise study", tables={name: rows for name, rows in tables.items() if rows}
        )

    def _held_out_rows(self, features: np.ndarray, labels: np.ndarray, texts: np.ndarray) -> list[Row]:
        """P@10 of the names that heads have seen and of those that they have not."""
        config = replace(self.config, held_out_share=HELD_OUT_SHARE)
        unseen = {number for _, number in replace(self.one_lesson, config=config).held_out}
        rows: list[Row] = []
        for (method, seed), one in self.held_out_heads.items():
            found = precision(one.head.embed(features), labels, texts)
            for kind, wanted in (("trained", False), ("held out", True)):
                shares = [share for number, share in found.items() if (number in unseen) is wanted]
                rows.append({"method": method, "seed": seed, "classes": kind, "precision_at_10": fmean(shares)})
        return rows

    def _premise(self, judge: Judge, without: Sequence[ImageSet]) -> Row:
        """Shares by which the premise holds, over the classes B: what is generated for their names, what is mined, what CLIP knows."""
        names, data = self.datasets[0].class_names, self.one_lesson.data
        untaught = ~np.array(shown_to_generator(PAIRS))
        families = np.array([genus(name) for name in names])

        def shares(asked: np.ndarray, got: np.ndarray) -> tuple[float, float]:
            """Share of the right class, and of a sibling, among the classes B."""
            rows = untaught[asked] & (got >= 0)
            same = families[asked[rows]] == families[got[rows]]
            own = asked[rows] == got[rows]
            return float(own.mean()), float((same & ~own).mean())

        labels = np.concatenate([images.labels for images in without])
        judged = np.concatenate([judge.probe.predict(images.features[self.judge.name]).numpy() for images in without])
        own, sibling = shares(labels, judged)
        mined = np.where(data.negatives[:, 0] >= 0, data.image_class[data.negatives[:, 0]], -1)
        test = judge.test
        named = predict(test.features[self.encoder.name], class_queries(self.encoder, self.datasets[0])).numpy()
        known, confused = shares(test.labels, named)
        return {
            "generated_right": own,
            "generated_sibling": sibling,
            "mined_sibling": shares(data.text_class, mined)[1],
            "clip_right": known,
            "clip_sibling": confused,
            "judge_on_real": float(judge.is_right(test).mean()),
        }


def precision(images: np.ndarray, labels: np.ndarray, texts: np.ndarray) -> dict[int, float]:
    """Class → P@10 of its text among the images.

    Args:
        images: `[N, D]` embeddings by a head.
        labels: `[N]` their classes.
        texts: `[C, D]` one text per class, in label order.
    """
    found = top_k(texts, cut_blocks(images), k=min(NEAREST, len(images))).rows
    return {number: float((labels[rows] == number).mean()) for number, rows in enumerate(found)}


def precision_of(scores: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Class → P@10 of the images with its highest scores (`[N, C]`)."""
    best = np.argsort(-scores, axis=0, kind="stable")[:NEAREST]
    return {number: float((labels[best[:, number]] == number).mean()) for number in range(scores.shape[1])}


def looked_up(lessons: Lessons, features: np.ndarray) -> np.ndarray:
    """`[N, C]` scores of a lookup: a probe on the labelled images that the heads learn from, asked for the class itself.

    A head learns from labelled images of the very classes that it retrieves, so this is its competitor: no text is read at all.
    """
    scores: np.ndarray = training_probe(lessons.data).scores(features).numpy()
    return scores
