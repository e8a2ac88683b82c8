"""What all studies share: their data sets, sources and models, the plans these make, and how a workspace is filled with them."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from engine.cache import check_writable
from engine.catalog import Dataset
from engine.evaluation.protocols import check_protocol
from engine.models import ImageEncoder, generator_spec
from engine.models.families import family_of
from engine.models.registry import GeneratorSpec
from engine.models.sizes import check_size
from engine.names import unknown_name
from engine.prompts import Materials, load_sentences, strategy_name
from engine.recipe import Recipe
from engine.reports import Report
from engine.sources import (
    ConcatenatedPlan,
    CorpusMaker,
    GenerativePlan,
    GeneratorMaker,
    Maker,
    MakerBySource,
    OriginalPlan,
    Plan,
    RetrievalPlan,
    ShotIds,
    load_pool,
)
from engine.sources.retrieval import CaptionedPool, check_pool, class_queries, class_text_features
from engine.store import Workspace
from engine.studies.config import Parts, Settings, check_not_empty, check_place, check_seeds
from engine.studies.losses import account_lines, account_rows, check_losses

SOURCES = ("generative", "retrieval", "original")
"""Kinds of external data the paper compares."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """Which data, from which models, at which seeds."""

    generator: str = "mini"
    """Registry name (`python -m engine.models list`) or diffusers folder."""
    generator_source: Annotated[str, tyro.conf.arg(name="generator.source")] = ""
    """Hub id or folder to take the generator's weights from instead of its own."""
    generator_auxiliaries: Annotated[tuple[str, ...], tyro.conf.arg(name="generator.auxiliaries")] = ()
    """PURPOSE=SOURCE of the models its reference modes take, as `controlnet=path/to/folder`; the entry's own otherwise."""
    generator_steps: Annotated[int | None, tyro.conf.arg(name="generator.steps")] = None
    """Sampler steps; the generator's own default otherwise."""
    generator_size: Annotated[int | None, tyro.conf.arg(name="generator.size")] = None
    """Pixels a side of generated images; the generator's own default otherwise."""
    speed: Literal["exact", "fast", "lossy"] = "exact"
    """What the generator may do to be faster: nothing that shows, compile itself, or trade pixels."""
    sentence_model: str = "t5-common-gen"
    """Word-to-sentence model of the strategy `category_enhancement`: a name, a hub id or a folder."""
    probe: Literal["validation", "paper"] = "validation"
    """Protocol of the linear probe: logistic regression with a validated strength, or the paper's SGD from the text."""
    allow_fewer_shots: bool = False
    """Go on with what there is where a class has fewer original images than shots."""
    seeds: tuple[int, ...] = (0,)
    """Each seed draws its own generated and original images."""
    pool: str = "world:mini-web"
    """Captioned webdataset that retrieval searches."""
    batch_size: int | None = None
    """Images the generator makes at once; the generator's own default otherwise."""
    report: Path = Path("report")
    """Folder for report.json and index.html."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
        super().check()
        check_place("report", self.report)
        check_writable(self.report, "the report's folder", "give another one with --report")
        check_protocol(self.probe)
        check_seeds(self.seeds)
        for pair in self.generator_auxiliaries:
            if not all(pair.partition("=")):
                raise ValueError(
                    f"generator auxiliary {pair} is no PURPOSE=SOURCE; give one as controlnet=path/to/folder"
                )
        for name, value in (
            ("batch size", self.batch_size),
            ("generator steps", self.generator_steps),
            ("generator size", self.generator_size),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} makes no image; give 1 or more")


def check_sources(sources: tuple[str, ...]) -> None:
    """Raises ValueError for a name that is no source, or none at all."""
    check_not_empty(sources=sources)
    for name in sources:
        if name not in SOURCES:
            raise ValueError(unknown_name("source", name, SOURCES))


def check_shots(*shots: int) -> None:
    """Raises ValueError for a number of shots that is none."""
    for num in shots:
        if num < 1:
            raise ValueError(f"shots {num} is not a number of images; give 1 or more")


class Variant(NamedTuple):
    """A way to get images of every class."""

    source: str
    """`generative`, `retrieval` or `original`."""
    strategy: str
    """Prompt strategy of generative images; empty for the others."""
    shots: int
    """Images a class that are wanted at most."""

    @property
    def needs_references(self) -> bool:
        """Whether its images are drawn from retrieved ones."""
        return "retrieval_augmented" in self.strategy.split("+")


class Study(Parts, ABC):
    """The parts of a study, each made when it is first needed."""

    config: StudyConfig

    @property
    @abstractmethod
    def variants(self) -> dict[str, Variant]:
        """Name → the way to get images; what is made is every one of them on every data set with every seed."""

    @abstractmethod
    def report(self, workspace: Workspace) -> Report:
        """What the workspace holds of this study, scored."""

    def check(self) -> None:
        """Looks at every name and file the run will need, before anything is started.

        Raises:
            ValueError: the first that is wrong.
        """
        super().check()
        variants = self.variants.values()
        for variant in variants:
            if variant.strategy:
                strategy_name(variant.strategy)
        if any(variant.source == "generative" for variant in variants):
            self._check_generator()
        if self._retrieved_shots:
            check_pool(self.config.pool, self._retrieved_shots)
        _ = self.test_plans
        for variant in variants:
            if variant.source == "original":
                for dataset in self.datasets:
                    for seed in self.config.seeds:
                        self._original(dataset, seed, variant.shots)

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Splits of the data sets that are read."""
        return (
            ("train", "test") if any(variant.source == "original" for variant in self.variants.values()) else ("test",)
        )

    def files(self) -> list[dict[str, Any]]:
        """Rows of the table `files`: every file of the data sets and the pool, used, ignored or refused."""
        return account_rows(self.datasets, self.config.pool if self._retrieved_shots else "", self.read_splits)

    def _check_generator(self) -> None:
        """Weights are looked at by their spec; a generator that draws nothing from text alone needs a strategy that gives references."""
        family = family_of(self.generator.pipeline)
        family.check_available(self.generator.name, self.generator.is_local)
        if self.config.generator_size:
            check_size(self.generator, self.config.generator_size)
        drawn = [variant for variant in self.variants.values() if variant.source == "generative"]
        if family.needs_reference and not all(variant.needs_references for variant in drawn):
            raise ValueError(
                f"generator {self.generator.name} draws nothing without a reference image; "
                "add +retrieval_augmented to the strategy, or take another one"
            )

    @cached_property
    def generator(self) -> GeneratorSpec:
        """The generator's entry."""
        config = self.config
        auxiliaries = dict(pair.split("=", 1) for pair in config.generator_auxiliaries)
        spec = generator_spec(
            config.generator, source=config.generator_source, speed=config.speed, auxiliaries=auxiliaries
        )
        return replace(
            spec,
            num_inference_steps=config.generator_steps or spec.num_inference_steps,
            height=config.generator_size or spec.height,
            width=config.generator_size or spec.width,
        )

    @cached_property
    def pool(self) -> CaptionedPool:
        """The captioned web pool."""
        return load_pool(self.config.pool, self.encoder)

    @cached_property
    def test_plans(self) -> dict[str, OriginalPlan]:
        """Data set → all its test images."""
        return {dataset.name: OriginalPlan(dataset, None, split="test") for dataset in self.datasets}

    @cached_property
    def materials(self) -> Materials:
        """The sentences and reference images that the strategies draw on."""
        drawn = [variant for variant in self.variants.values() if variant.source == "generative"]
        enhanced = any("category_enhancement" in variant.strategy.split("+") for variant in drawn)
        augmented = any(variant.needs_references for variant in drawn)
        return Materials(
            {dataset.name: load_sentences(dataset, self.config.sentence_model) for dataset in self.datasets}
            if enhanced
            else {},
            {name: ShotIds(plan) for name, plan in self._retrievals.items()} if augmented else {},
        )

    @cached_property
    def plans(self) -> dict[str, dict[tuple[str, int], Any]]:
        """Variant → (data set, seed) → plan."""
        return {
            name: {
                (dataset.name, seed): self._plan(variant, dataset, seed)
                for dataset in self.datasets
                for seed in self.config.seeds
            }
            for name, variant in self.variants.items()
        }

    def _plan(self, variant: Variant, dataset: Dataset, seed: int) -> Any:
        if variant.source == "generative":
            return GenerativePlan(dataset, self.generator, variant.strategy, variant.shots, seed, self.materials)
        if variant.source == "original":
            return self._original(dataset, seed, variant.shots)
        return self._retrievals[dataset.name]  # the nearest captions are the same whatever the seed

    def work(self) -> Iterator[tuple[str, Plan, Maker]]:
        """What is to be filled: all at once where the models can share a pool of actors, else a pool each."""
        plans: dict[str, list[Plan]] = {source: [] for source in SOURCES}
        for name, variant in self.variants.items():
            if variant.source != "retrieval":
                plans[variant.source] += self.plans[name].values()
        if self._retrieved_shots:
            plans["retrieval"] += self._retrievals.values()
        # read before generated: reading needs no weights, so the first rows come soon
        read = [*self.test_plans.values(), *plans["original"], *plans["retrieval"]]
        yield from self.fills(read, plans["generative"])

    def fills(self, read: Sequence[Plan], drawn: Sequence[Plan]) -> Iterator[tuple[str, Plan, Maker]]:
        """Name, plan and maker of what is read from corpora and what is drawn."""
        corpus = self._corpus_maker()
        if not drawn:
            yield "read", ConcatenatedPlan(read), corpus
            return
        references = any(variant.needs_references for variant in self.variants.values())
        generator = GeneratorMaker(
            self.generator,
            self.config.batch_size or self.generator.batch_size,
            self.generator.num_gpus,
            references=Workspace.open(self.config.workspace).uri if references else "",
            needs_gpu=self.generator.needs_gpu,
        )
        # reference images are in the table before anything is generated from them
        if generator.gpus_per_actor == corpus.gpus_per_actor and not references:
            both = MakerBySource({"original": corpus, "retrieval": corpus, "generative": generator})
            yield "make", ConcatenatedPlan([*read, *drawn]), both
        else:
            yield "read", ConcatenatedPlan(read), corpus
            yield "generate", ConcatenatedPlan(drawn), generator

    def also_embed(self) -> Iterator[tuple[ImageEncoder, list[Recipe]]]:
        """Other encoders, and the images each of them is to embed once all are made."""
        return iter(())

    def _corpus_maker(self) -> CorpusMaker:
        corpora = {dataset.name: dataset.location for dataset in self.datasets}
        seconds = {}
        for plan in self._retrievals.values() if self._retrieved_shots else ():
            corpora[self.pool.name] = self.pool.location
            seconds["retrieval", plan.dataset.name] = plan.search_seconds_per_image
        return CorpusMaker(corpora, seconds)

    def every_plan(self) -> list[Plan]:
        """All plans, test images included."""
        return [*self.test_plans.values(), *(plan for plans in self.plans.values() for plan in plans.values())]

    def texts(self, dataset: Dataset) -> Any:
        """`[C, T, D]` float32, unit norm: class names in their templates."""
        return class_text_features(self.encoder, dataset)

    @property
    def _retrieved_shots(self) -> int:
        """Images a class that the pool is searched for: for their own sake, or as reference images."""
        return max(
            (v.shots for v in self.variants.values() if v.source == "retrieval" or v.needs_references), default=0
        )

    @cached_property
    def _originals(self) -> dict[tuple[str, int, int], OriginalPlan]:
        return {}

    def _original(self, dataset: Dataset, seed: int, shots: int) -> OriginalPlan:
        key = dataset.name, seed, shots
        if key not in self._originals:
            self._originals[key] = OriginalPlan(dataset, shots, seed, allow_fewer=self.config.allow_fewer_shots)
        return self._originals[key]

    @cached_property
    def _retrievals(self) -> dict[str, RetrievalPlan]:
        return {dataset.name: self._retrieval(dataset) for dataset in self.datasets}

    def _retrieval(self, dataset: Dataset) -> RetrievalPlan:
        return RetrievalPlan(dataset, self.pool, class_queries(self.encoder, dataset), self._retrieved_shots)


def run_study(study: Study) -> Report:
    """Makes what the workspace lacks, scores it, prices it, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to fix it.
        RunFailed: the run could not go on, or lost all images of a kind or too many of them; what there is is reported.
    """
    from engine.dataflow.cluster import RayConnection

    study.check()
    config = study.config
    for line in account_lines(study.datasets, config.pool if study._retrieved_shots else "", study.read_splits):
        print(line, file=sys.stderr)
    workspace = Workspace.open(config.workspace)
    with RayConnection() as connection:
        with study.run(workspace, study.encoder, connection) as run:
            for name, plan, maker in study.work():
                run.fill(name, plan, maker)
        for other, recipes in study.also_embed():
            with study.run(workspace, other, connection) as run:
                run.embed(other.name, [recipe.id for recipe in recipes])
    report = study.report(workspace)
    page = report.write(config.report)
    check_losses(workspace, study.every_plan(), config.max_errors, str(page))
    return report
