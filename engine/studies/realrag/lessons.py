"""Lessons of a retriever: training prompts, the mining half of the database, and the negatives mined for one generator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.catalog import Dataset
from engine.models import ImageEncoder
from engine.models.spec import GeneratorSpec
from engine.retriever.data import RetrieverData, choose_validation
from engine.retriever.database import Database, DatabasePlan
from engine.retriever.fit import TrainingConfig
from engine.retriever.ray_mining import mine_missing, read_negatives
from engine.sources import ConcatenatedPlan, GenerativePlan
from engine.store import Workspace
from engine.studies.realrag.config import RetrieverSettings
from engine.studies.realrag.judge import ImageSet, encode_prompts, load_images
from engine.studies.realrag.negative_choices import (
    image_hard_negatives,
    oracle_negatives,
    random_negatives,
    selective_negatives,
)

if TYPE_CHECKING:
    from engine.dataflow.run import Run


@dataclass(frozen=True)
class MiningHalf:
    """The half of the database for mining and training; each part is read once, after the half has been committed."""

    workspace: Workspace
    encoder: str
    """Name of the embeddings."""
    plans: Sequence[DatabasePlan]
    """One per data set."""

    @cached_property
    def _ids(self) -> list[str]:
        return [one for plan in self.plans for one in plan.ids()]

    @cached_property
    def database(self) -> Database:
        """Each picture once, to mine in."""
        return Database(self.workspace, self.encoder, self._ids)

    @cached_property
    def images(self) -> ImageSet:
        """All committed images, to train on."""
        return load_images(self.workspace, self._ids, [self.encoder])


@dataclass(frozen=True)
class Lessons:
    """Everything that the heads of one generator learn from (RealRAG Eq. 3-5)."""

    config: RetrieverSettings
    datasets: Sequence[Dataset]
    encoder: ImageEncoder
    generator: GeneratorSpec
    half: MiningHalf
    """Real images, the same for every generator."""

    @cached_property
    def plan(self) -> ConcatenatedPlan:
        """One image per training prompt."""
        config = self.config
        plans = [
            GenerativePlan(dataset, self.generator, config.training_strategy, config.texts, config.mining_seed)
            for dataset in self.datasets
        ]
        return ConcatenatedPlan(plans)

    def mine(self, run: "Run", *, mask: bool) -> int:
        """Mines the missing negatives; returns the number of generated images that were mined now."""
        ids = [self.plan[index].id for index in range(len(self.plan))]
        return mine_missing(run, ids, self.half.database, k=self.config.negatives_mined, mask=mask)

    @cached_property
    def data(self) -> RetrieverData:
        """Prompts, images, and the negatives in the table, once they are mined; no negatives if nothing was mined."""
        codes = {pair: code for code, pair in enumerate(self._classes)}
        recipes = [self.plan[index] for index in range(len(self.plan))]
        images = self.half.images
        image_class = np.array([codes[pair] for pair in images.classes], np.int64)
        data = RetrieverData(
            encoder=self.encoder.name,
            text_features=encode_prompts(self.encoder, [recipe.prompt for recipe in recipes]),
            text_class=np.array([codes[recipe.dataset, recipe.class_index] for recipe in recipes], np.int64),
            image_features=images.features[self.encoder.name],
            image_class=image_class,
            negatives=self.negatives(mask=self.config.mask_own_class),
            validation=choose_validation(image_class, self.config.validation_share),
            generated=self._generated(),
        )
        held_out = [code for pair, code in codes.items() if pair in self.held_out]
        return data.without_classes(np.array(held_out)) if held_out else data

    @cached_property
    def held_out(self) -> frozenset[tuple[str, int]]:
        """(Data set, class) of the classes that no head is trained on, the same share of each data set."""
        random = np.random.default_rng(0)
        chosen: list[tuple[str, int]] = []
        for dataset in self.datasets:
            order = random.permutation(len(dataset.class_names))
            chosen += [(dataset.name, int(n)) for n in order[: round(self.config.held_out_share * len(order))]]
        return frozenset(chosen)

    def data_for(self, method: str) -> RetrieverData:
        """The training data of a method: the same prompts and images, with its own negatives. Raises ValueError as they do."""
        data, k = self.data, self.config.negatives_mined
        match method:
            case "random":
                return replace(data, negatives=random_negatives(data, k))
            case "image_hard":
                return replace(data, negatives=image_hard_negatives(data, k))
            case "oracle":
                return replace(data, negatives=oracle_negatives(data, self._class_names, k))
            case "selective":
                return replace(data, negatives=selective_negatives(data))
        return data

    def negatives(self, *, mask: bool) -> np.ndarray:
        """`[T, K]` rows of the mining half's images nearest to the image generated for each prompt; -1 for none."""
        row_of = {name: row for row, name in enumerate(self.half.images.ids)}
        text_of = {self.plan[index].id: index for index in range(len(self.plan))}
        found = read_negatives(self.half.workspace, self.half.database, k=self.config.negatives_mined, mask=mask)
        negatives = np.full((len(text_of), self.config.negatives_mined), -1)
        names = (found.column(name).to_pylist() for name in ("generated_id", "rank", "negative_id"))
        for generated, rank, negative in zip(*names, strict=True):
            if generated in text_of:  # the same database may also hold negatives of other prompts
                negatives[text_of[generated], rank - 1] = row_of[negative]
        return negatives

    def _generated(self) -> np.ndarray | None:
        """`[T, D]` embeddings of the generated images, zeros for failed images; None if there are none."""
        ids = [self.plan[index].id for index in range(len(self.plan))]
        drawn = load_images(self.half.workspace, ids, [self.encoder.name])
        if not drawn.ids:
            return None
        text_of = {name: row for row, name in enumerate(ids)}
        embeddings: np.ndarray = np.zeros((len(ids), self.encoder.dimension), np.float32)
        embeddings[[text_of[name] for name in drawn.ids]] = drawn.features[self.encoder.name]
        return embeddings

    @property
    def _class_names(self) -> list[str]:
        """Class number → data set and name."""
        return [f"{dataset.name}/{name}" for dataset in self.datasets for name in dataset.class_names]

    @property
    def _classes(self) -> list[tuple[str, int]]:
        return [(dataset.name, number) for dataset in self.datasets for number in range(len(dataset.class_names))]


def lesson(method: str, data: RetrieverData, training: TrainingConfig) -> tuple[RetrieverData, TrainingConfig]:
    """What the head of a method is trained from: its data, and the settings under its name, without negatives where it has none.

    A generator that is right everywhere leaves no selective negative, and the head is that of `normal`.
    """
    has_none = method == "normal" or (method == "selective" and (data.negatives < 0).all())
    return data, replace(training, label=method, num_negatives=0 if has_none else training.num_negatives)
