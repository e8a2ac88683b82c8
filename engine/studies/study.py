"""The base of all studies: data sets, sources, models, the plans made from them, and the fills of a workspace."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from engine.cache import check_writable
from engine.catalog import Dataset
from engine.evaluation.protocols import check_protocol
from engine.models import ImageEncoder, generator_spec
from engine.models.generators import adapter_of
from engine.models.sizes import check_size
from engine.models.spec import GeneratorSpec
from engine.prompts import Materials, Strategy, load_sentences
from engine.recipe import Recipe
from engine.sources import (
    ConcatenatedPlan,
    CorpusMaker,
    GeneratorMaker,
    Maker,
    MakerBySource,
    OriginalPlan,
    Plan,
    RetrievalPlan,
    ShotIds,
    load_pool,
)
from engine.sources.fetched import FetchedPlan
from engine.sources.injected import TokenRef
from engine.sources.kinds import SOURCE_KINDS, PlanRequest, source_kind
from engine.sources.retrieval import CaptionedPool, class_text_features
from engine.store import Workspace
from engine.studies.base import Phase, Study
from engine.studies.config import Settings, check_place, check_seeds
from engine.studies.image_set import load_images
from engine.studies.injection import InjectionSettings, Injector
from engine.studies.retrieved import check_retrieved, plan_retrieved
from engine.studies.scoring import EvaluationSet
from engine.studies.variants import Variant

if TYPE_CHECKING:
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Stage


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """Data, models and seeds of a study."""

    generator: str = "mini"
    """Registry name (see `imagefoundry models`) or diffusers folder."""
    generator_source: Annotated[str, tyro.conf.arg(name="generator.source")] = ""
    """Hub id or folder of the generator's weights; the entry's own if empty."""
    generator_auxiliaries: Annotated[tuple[str, ...], tyro.conf.arg(name="generator.auxiliaries")] = ()
    """PURPOSE=SOURCE of the models for reference modes, as `controlnet=path/to/folder`; the entry's own otherwise."""
    generator_steps: Annotated[int | None, tyro.conf.arg(name="generator.steps")] = None
    """Sampler steps; the generator's own default if not given."""
    generator_size: Annotated[int | None, tyro.conf.arg(name="generator.size")] = None
    """Pixels per side of generated images; the generator's own default if not given."""
    speed: Literal["exact", "fast", "lossy"] = "exact"
    """Ways for the generator to save time: none, compiling itself, or also changing pixels slightly."""
    sentence_model: str = "t5-common-gen"
    """Model that writes the sentences of the strategy `category_enhancement`: a name, a hub id or a folder."""
    probe: Literal["validation", "paper"] = "validation"
    """Protocol of the linear probe: logistic regression with a validated strength, or the paper's SGD from the text."""
    voc: Literal["devkit", "paper"] = "devkit"
    """Average precision of images with several labels: VOC 2007's own, or that of the authors' toolkit."""
    cler_ensemble: Literal["mean", "normalised"] = "mean"
    """CLER's ensemble: mean of centre and text, as the paper says, or brought to unit norm, as the authors' code does."""
    allow_fewer_shots: bool = False
    """If a class has fewer original images than shots, use those it has instead of stopping."""
    seeds: tuple[int, ...] = (0,)
    """Each seed generates and samples its own images."""
    pool: str = "world:mini-web"
    """Captioned webdataset or folder of img2dataset whose captions retrieval searches."""
    fetched: str = ""
    """Corpus of the workspace whose fetched pictures (`imagefoundry fetch`) are the retrieved images, in place of the pool's."""
    fetched_threshold: float | None = None
    """Least score of the caption filter (`imagefoundry fetch --filter`) for these pictures; all of them if not given."""
    batch_size: int | None = None
    """Images that the generator makes at once; the generator's own default if not given."""
    inject: InjectionSettings = field(default_factory=InjectionSettings)
    """References and fit of learned tokens, for the source `injected`."""
    report: Path = Path("report")
    """Folder of report.json and index.html."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        check_place("report", self.report)
        check_writable(self.report, "the report's folder", "give another one with --report")
        check_protocol(self.probe)
        check_seeds(self.seeds)
        self.inject.check()
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


class SourceStudy(Study):
    """A study that compares ways to get images: plans for each of its variants; each part is made at its first use."""

    config: StudyConfig

    @property
    @abstractmethod
    def variants(self) -> dict[str, Variant]:
        """Name → one way to get images; all of them are made for every data set and seed."""

    def check(self) -> None:
        """Checks every name and file that the run will need, before anything is started.

        Raises:
            ValueError: a name or file is invalid; one sentence on the first.
        """
        super().check()
        variants = self.variants.values()
        for variant in variants:
            if variant.strategy:
                Strategy.parse(variant.strategy)
        if any(variant.is_generated for variant in variants):
            self._check_generator()
        if self._retrieved_shots:
            check_retrieved(self.config, self.datasets, self._retrieved_shots, self._allow_fewer_retrieved)
        _ = self.test_plans
        for variant in variants:
            if source_kind(variant.source).plans_early:
                for dataset in self.datasets:
                    for seed in self.config.seeds:
                        self._plan(variant, dataset, seed)

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Splits of the data sets that are read."""
        return (
            ("train", "test")
            if "original" in (*self.injector.sources, *(variant.source for variant in self.variants.values()))
            else ("test",)
        )

    @property
    def searched_pool(self) -> str:
        """The captioned pool, if one is searched."""
        return self.config.pool if self._retrieved_shots and not self.config.fetched else ""

    def _check_generator(self) -> None:
        """Raises ValueError for missing weights, and for a strategy without references where the generator requires one."""
        adapter = adapter_of(self.generator.pipeline)
        adapter.check_available(self.generator.name, self.generator.is_local)
        if self.config.generator_size:
            check_size(self.generator, self.config.generator_size)
        generated = [variant for variant in self.variants.values() if variant.is_generated]
        if self.injector.sources and not adapter.vocabularies:
            raise ValueError(
                f"generator {self.generator.name} ({self.generator.pipeline}) takes no learned tokens; choose a Stable Diffusion 1, 2 or "
                "XL generator, or mini"
            )
        if adapter.needs_reference and not all(variant.needs_references for variant in generated):
            raise ValueError(
                f"generator {self.generator.name} requires a reference image; "
                "add +retrieval_augmented to the strategy, or choose another generator"
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
        """The sentences and reference images that the strategies need."""
        sentences: dict[str, Any] = {}
        if any(variant.needs_sentences for variant in self.variants.values()):
            sentences = {dataset.name: load_sentences(dataset, self.config.sentence_model) for dataset in self.datasets}
        references: dict[str, Any] = {}
        if any(variant.needs_references for variant in self.variants.values()):
            references = {name: ShotIds(plan) for name, plan in self._retrievals.items()}
        return Materials(sentences, references)

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
        if (variant, dataset.name, seed) not in self._planned:
            request = PlanRequest(
                dataset, variant.shots, seed, variant.strategy, self, variant.guidance_scale, variant.references
            )
            self._planned[variant, dataset.name, seed] = source_kind(variant.source).make_plan(request)
        return self._planned[variant, dataset.name, seed]

    @cached_property
    def _planned(self) -> dict[tuple[Variant, str, int], Any]:
        return {}

    @cached_property
    def injector(self) -> Injector:
        """The references and learned tokens of the injected variants."""
        chosen = [v for v in self.variants.values() if source_kind(v.source).learns_tokens]
        return Injector(self, list(dict.fromkeys(v.references or self.config.inject.references for v in chosen)))

    def learned_tokens(self, dataset: Dataset, seed: int, references: str) -> Sequence[TokenRef | None]:
        """The token of each class; None for a class without."""
        return self.injector.tokens(dataset, seed, references or self.config.inject.references)

    def reference_recipes(self, dataset: Dataset, seed: int) -> list[Recipe]:
        """Original images that tokens are learned from."""
        plan = self.original_plan(dataset, seed, self.config.inject.originals)
        return [plan[index] for index in range(len(plan))]

    @property
    def read_plans(self) -> list[tuple[str, str, Plan]]:
        """(Source, data set, plan) of all images that are read from corpora, reference images included, test images not."""
        # only these variants are planned: injected ones cannot be before their tokens are learned
        found: list[tuple[str, str, Plan]] = [
            (variant.source, dataset.name, self._plan(variant, dataset, seed))
            for variant in self.variants.values()
            if not variant.is_generated
            for dataset in self.datasets
            for seed in self.config.seeds
        ]
        if self._retrieved_shots:
            found += [("retrieval", dataset, plan) for dataset, plan in self._retrievals.items()]
        return list({id(plan): (source, dataset, plan) for source, dataset, plan in found}.values())

    @property
    def generated_plans(self) -> list[Plan]:
        """Plans of all images that a generator makes."""
        return [
            plan
            for name, variant in self.variants.items()
            if variant.is_generated
            for plan in self.plans[name].values()
        ]

    def phases(self) -> Iterator[Phase]:
        """Learns tokens if a variant needs them, makes the images, and embeds them by the study's other encoders."""
        if self.injector.sources:
            yield "references", self._fill_references
            yield "tokens", self.injector.learn
        yield "images", self._fill
        yield "other encoders", self._embed

    @property
    def stages(self) -> "list[Stage]":
        """Stages that run on the images as they are made: embeddings by the study's encoder."""
        from engine.dataflow.stages import Embed

        return [Embed.of(self.encoder)]

    def _fill_references(self, run: "Run") -> None:
        run.fill("references", self.injector.reference_plan(), self._corpus_maker(), self.stages)

    def _fill(self, run: "Run") -> None:
        for name, plan, maker in self.work():
            run.fill(name, plan, maker, self.stages)

    def _embed(self, run: "Run") -> None:
        for encoder, recipes in self.also_embed():
            run.embed(encoder, [recipe.id for recipe in recipes])

    def work(self) -> Iterator[tuple[str, Plan, Maker]]:
        """Name, plan and maker of each fill: one if the makers can share a pool of workers, else one per maker."""
        # read images first: reading needs no weights, so the first rows come soon
        read = [*self.test_plans.values(), *(plan for _, _, plan in self.read_plans)]
        yield from self.fills(read, self.generated_plans)

    def fills(self, read: Sequence[Plan], generated: Sequence[Plan]) -> Iterator[tuple[str, Plan, Maker]]:
        """Name, plan and maker of images that are read from corpora and images that are generated."""
        corpus = self._corpus_maker()
        if not generated:
            yield "read", ConcatenatedPlan(read), corpus
            return
        references = any(variant.needs_references for variant in self.variants.values())
        generator = GeneratorMaker(
            self.generator,
            self.config.batch_size or self.generator.batch_size,
            self.generator.num_gpus,
            references=Workspace.open(self.config.workspace).uri if references or self.injector.sources else "",
            needs_gpu=self.generator.needs_gpu,
        )
        # reference images must be in the table before images are generated from them
        if generator.gpus_per_actor == corpus.gpus_per_actor and not references:
            makers: dict[str, Maker] = {kind.name: generator if kind.is_generated else corpus for kind in SOURCE_KINDS}
            yield "make", ConcatenatedPlan([*read, *generated]), MakerBySource(makers)
        else:
            yield "read", ConcatenatedPlan(read), corpus
            yield "generate", ConcatenatedPlan(generated), generator

    def also_embed(self) -> Iterator[tuple[ImageEncoder, list[Recipe]]]:
        """Other encoders, and the images that each of them embeds once all images are made."""
        return iter(())

    def _corpus_maker(self) -> CorpusMaker:
        corpora = {dataset.name: dataset.location for dataset in self.datasets}
        seconds: dict[tuple[str, str], float] = {}
        for source, dataset, plan in self.read_plans:
            corpora |= getattr(plan, "corpora", {})
            if hasattr(plan, "search_seconds_per_image"):
                seconds[source, dataset] = plan.search_seconds_per_image
        return CorpusMaker(corpora, seconds)

    def every_plan(self) -> list[Plan]:
        """All plans, test images included."""
        return [*self.test_plans.values(), *(plan for plans in self.plans.values() for plan in plans.values())]

    def texts(self, dataset: Dataset) -> Any:
        """`[C, T, D]` float32, unit norm: class names in their templates."""
        return class_text_features(self.encoder, dataset)

    def evaluation_set(self, workspace: Workspace, dataset: Dataset) -> EvaluationSet:
        """The test images and class texts for scoring the images of a data set."""
        plan = self.test_plans[dataset.name]
        test = load_images(workspace, self.encoder.name, plan, len(plan))
        texts, normalised = self.texts(dataset), self.config.cler_ensemble == "normalised"
        if self.config.voc == "paper" and dataset.metric == "map_11_point":
            dataset = replace(dataset, metric="map_11_point_toolkit")
        return EvaluationSet(workspace, dataset, self.encoder, texts, test, self.config.probe, normalised)

    @property
    def _retrieved_shots(self) -> int:
        """Images per class that are searched for in the pool, as training images, as references, or to learn tokens from."""
        searched = (v for v in self.variants.values() if source_kind(v.source).searches_pool or v.needs_references)
        learned = self.config.inject.candidates if "retrieval" in self.injector.sources else 0
        return max([variant.shots for variant in searched] + [learned])

    @cached_property
    def _originals(self) -> dict[tuple[str, int, int], OriginalPlan]:
        return {}

    def original_plan(self, dataset: Dataset, seed: int, shots: int) -> OriginalPlan:
        """Training images of a data set; the same plan for the same request."""
        key = dataset.name, seed, shots
        if key not in self._originals:
            self._originals[key] = OriginalPlan(dataset, shots, seed, allow_fewer=self.config.allow_fewer_shots)
        return self._originals[key]

    def retrieval_plan(self, dataset: Dataset) -> RetrievalPlan | FetchedPlan:
        """The images of the pool, or the fetched pictures, whose captions are nearest to the classes of a data set."""
        return self._retrievals[dataset.name]

    @cached_property
    def _retrievals(self) -> dict[str, RetrievalPlan | FetchedPlan]:
        return {dataset.name: self._retrieval(dataset) for dataset in self.datasets}

    def _retrieval(self, dataset: Dataset) -> RetrievalPlan | FetchedPlan:
        shots, allow_fewer = self._retrieved_shots, self._allow_fewer_retrieved
        return plan_retrieved(self.config, dataset, self.encoder, lambda: self.pool, shots, allow_fewer)

    @property
    def _allow_fewer_retrieved(self) -> bool:
        """References are looked up by class and shot, so each class needs all of its own."""
        return self.config.allow_fewer_shots and not any(one.needs_references for one in self.variants.values())
