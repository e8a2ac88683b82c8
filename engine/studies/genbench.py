"""GenBench: generative, retrieval and original data at growing shots: what each costs, and what it is worth (section 3.1)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from engine.catalog import Dataset, load_dataset
from engine.costs import PriceBook
from engine.evaluation import check_protocol
from engine.models import ImageEncoder, generator_spec, load_encoder
from engine.models.families import family_of
from engine.models.registry import GeneratorSpec, encoder_source
from engine.names import unknown_name
from engine.prompts import Materials, load_sentences, strategy_name
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
from engine.sources.retrieval import CaptionedPool, check_pool, class_text_features
from engine.store import Workspace
from engine.studies.results import Bills, contact_sheet, cost_tables, error_rows, paper_tables, tradeoff_rows

SOURCES = ("generative", "retrieval", "original")
"""Kinds of external data the paper compares."""


@dataclass(frozen=True, kw_only=True)
class GenBenchConfig:
    """Which data, from which sources, at which shots."""

    datasets: tuple[str, ...] = ("mini-common", "mini-fine", "mini-rare", "mini-novel")
    """Catalog names, folders of images, or NAME=PATH for a catalog's set that lies elsewhere."""
    sources: tuple[str, ...] = SOURCES
    """Any of `generative`, `retrieval`, `original`."""
    generator: str = "mini"
    """Registry name (`python -m engine.models list`) or diffusers folder."""
    generator_source: Annotated[str, tyro.conf.arg(name="generator.source")] = ""
    """Hub id or folder to take the generator's weights from instead of its own."""
    generator_steps: Annotated[int | None, tyro.conf.arg(name="generator.steps")] = None
    """Sampler steps; the generator's own default otherwise."""
    generator_size: Annotated[int | None, tyro.conf.arg(name="generator.size")] = None
    """Pixels a side of generated images; the generator's own default otherwise."""
    speed: Literal["exact", "fast", "lossy"] = "exact"
    """What the generator may do to be faster: nothing that shows, compile itself, or trade pixels."""
    encoder: str = "mini-clip"
    """Registry name, open_clip ARCHITECTURE/WEIGHTS pair (ViT-B-32/openai) or open_clip folder."""
    strategy: str = "defined_template"
    """Prompt strategy of the generative data: a base and modifiers, as in `defined_template+negative_prompts`."""
    sentence_model: str = "t5-common-gen"
    """Word-to-sentence model of the strategy `category_enhancement`: a name, a hub id or a folder."""
    probe: Literal["validation", "paper"] = "validation"
    """Protocol of the linear probe: logistic regression with a validated strength, or the paper's SGD from the text."""
    shots: tuple[int, ...] = (1, 5, 20, 100, 500)
    """Images a class; the sets nest, so the largest number decides how many are made."""
    allow_fewer_shots: bool = False
    """Go on with what there is where a class has fewer original images than shots."""
    seeds: tuple[int, ...] = (0,)
    """Each seed draws its own generated and original images."""
    pool: str = "world:mini-web"
    """Captioned webdataset that retrieval searches."""
    workspace: str = "workspace"
    """Folder or s3:// prefix of the table; a run goes on where the last one stopped."""
    price_book: Path | None = None
    """Your own price book (TOML); the shipped one otherwise."""
    instance: str | None = None
    """Instance of the price book that the machines are; by the cluster's accelerator otherwise."""
    batch_size: int | None = None
    """Images the generator makes at once; the generator's own default otherwise."""
    report: Path = Path("report")
    """Folder for report.json and index.html."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
        for name in self.sources:
            if name not in SOURCES:
                raise ValueError(unknown_name("source", name, SOURCES))
        strategy_name(self.strategy)
        check_protocol(self.probe)
        for name in ("datasets", "sources", "shots", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        for shots in self.shots:
            if shots < 1:
                raise ValueError(f"shots {shots} is not a number of images; give 1 or more")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed {seed} is negative; give 0 or more")
        for name, value in (
            ("batch size", self.batch_size),
            ("generator steps", self.generator_steps),
            ("generator size", self.generator_size),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} makes no image; give 1 or more")


def run_genbench(config: GenBenchConfig) -> Report:
    """Makes what the workspace lacks, scores it, prices it, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to mend it.
    """
    from engine.dataflow.cluster import connected_cluster
    from engine.dataflow.run import Run

    study = GenBench(config)
    study.check()
    workspace = Workspace.open(config.workspace)
    with ThreadPoolExecutor(1) as beside:
        encoder = beside.submit(lambda: study.encoder)  # its libraries load while Ray starts
        with (
            connected_cluster(),
            Run(workspace, encoder.result(), study.prices, config.instance, asdict(config)) as run,
        ):
            for name, plan, maker in study.work():
                run.fill(name, plan, maker)
    report = study.report(workspace)
    report.write(config.report)
    return report


class GenBench:
    """The parts of the study, each made when it is first needed."""

    def __init__(self, config: GenBenchConfig):
        self.config = config

    def check(self) -> None:
        """Looks at every name and file the run will need, before anything is started.

        Raises:
            ValueError: the first that is wrong.
        """
        self.config.check()
        encoder_source(self.config.encoder)
        if "generative" in self.config.sources:
            self._check_generator()
        if len({dataset.name for dataset in self.datasets}) < len(self.datasets):
            raise ValueError("two data sets have the same name; give each once, and folders different names")
        if self.config.instance:
            self.prices.instance(self.config.instance)
        if self._retrieves:
            check_pool(self.config.pool, max(self.config.shots))
        _ = self.prices, self.test_plans
        if "original" in self.config.sources:
            for key in self._keys:
                self._original(*key)

    def _check_generator(self) -> None:
        """Weights are looked at by their spec; a generator that draws nothing from text alone has no place here."""
        if family_of(self.generator.pipeline).needs_reference:
            raise ValueError(
                f"generator {self.generator.name} draws nothing without a reference image; take another one"
            )

    @cached_property
    def prices(self) -> PriceBook:
        """The price book."""
        return PriceBook.load(self.config.price_book)

    @cached_property
    def datasets(self) -> list[Dataset]:
        """The data sets, in the order asked for."""
        return [load_dataset(name) for name in self.config.datasets]

    @cached_property
    def generator(self) -> GeneratorSpec:
        """The generator's entry."""
        config = self.config
        spec = generator_spec(config.generator, source=config.generator_source, speed=config.speed)
        return replace(
            spec,
            num_inference_steps=config.generator_steps or spec.num_inference_steps,
            height=config.generator_size or spec.height,
            width=config.generator_size or spec.width,
        )

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The encoder on this machine, for the class names."""
        return load_encoder(self.config.encoder)

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
        """The sentences and reference images that the strategy draws on."""
        parts = strategy_name(self.config.strategy).split("+")
        return Materials(
            {dataset.name: load_sentences(dataset, self.config.sentence_model) for dataset in self.datasets}
            if "category_enhancement" in parts
            else {},
            {name: ShotIds(plan) for name, plan in self._retrievals.items()} if "retrieval_augmented" in parts else {},
        )

    @cached_property
    def plans(self) -> dict[str, dict[tuple[str, int], Any]]:
        """Source → (data set, seed) → plan for the largest number of shots."""
        shots = max(self.config.shots)
        made: dict[str, dict[tuple[str, int], Any]] = {}
        for source in self.config.sources:
            if source == "generative":
                made[source] = {
                    (dataset.name, seed): GenerativePlan(
                        dataset, self.generator, self.config.strategy, shots, seed, self.materials
                    )
                    for dataset in self.datasets
                    for seed in self.config.seeds
                }
            elif source == "original":
                made[source] = {key: self._original(*key) for key in self._keys}
            else:  # the nearest captions are the same whatever the seed
                made[source] = {key: self._retrievals[key[0]] for key in self._keys}
        return made

    def work(self) -> Iterator[tuple[str, Plan, Maker]]:
        """What is to be filled: all at once where the models can share a pool of actors, else a pool each."""
        # read before generated: reading needs no weights, so the first rows come soon
        read = [plan for source in ("original", "retrieval") for plan in self.plans.get(source, {}).values()]
        if self._retrieves and "retrieval" not in self.plans:
            read += self._retrievals.values()
        read = [*self.test_plans.values(), *read]
        drawn = list(self.plans.get("generative", {}).values())
        corpus = self._corpus_maker()
        if not drawn:
            yield "read", ConcatenatedPlan(read), corpus
            return
        generator = GeneratorMaker(
            self.generator,
            self.config.batch_size or self.generator.batch_size,
            self.generator.num_gpus,
            references=Workspace.open(self.config.workspace).uri if self.materials.references else "",
        )
        # reference images are in the table before anything is generated from them
        if generator.gpus_per_actor == corpus.gpus_per_actor and not self.materials.references:
            both = MakerBySource({"original": corpus, "retrieval": corpus, "generative": generator})
            yield "make", ConcatenatedPlan([*read, *drawn]), both
        else:
            yield "read", ConcatenatedPlan(read), corpus
            yield "generate", ConcatenatedPlan(drawn), generator

    def _corpus_maker(self) -> CorpusMaker:
        corpora = {dataset.name: dataset.location for dataset in self.datasets}
        seconds = {}
        for plan in self._retrievals.values() if self._retrieves else ():
            corpora[self.pool.name] = self.pool.location
            seconds["retrieval", plan.dataset.name] = plan.search_seconds_per_image
        return CorpusMaker(corpora, seconds)

    def report(self, workspace: Workspace) -> Report:
        """Scores, costs and pictures of what the workspace holds of this study."""
        bills = Bills(workspace)
        tradeoff, sheets = [], []
        for dataset in self.datasets:
            texts = class_text_features(self.encoder, dataset)
            plans = {
                (source, seed): self.plans[source][dataset.name, seed]
                for source in self.plans
                for seed in self.config.seeds
            }
            tests = self.test_plans[dataset.name]
            tradeoff += tradeoff_rows(
                workspace, bills, dataset, self.encoder.name, texts, tests, plans, self.config.shots, self.config.probe
            )
            first = self.config.seeds[0]
            sheets += [
                contact_sheet(workspace, dataset, source, self.plans[source][dataset.name, first])
                for source in self.plans
            ]
        every = [*self.test_plans.values(), *(plan for plans in self.plans.values() for plan in plans.values())]
        tables = {
            "tradeoff": tradeoff,
            **cost_tables(workspace, bills),
            **paper_tables(self.prices),
            "errors": error_rows(workspace, every),
        }
        return Report(
            title="GenBench: what generated, retrieved and original images cost and are worth",
            tables=tables,
            sheets=sheets,
        )

    @property
    def _retrieves(self) -> bool:
        """Whether the pool is searched: for its own sake, or for reference images."""
        augmented = "generative" in self.config.sources and "retrieval_augmented" in self.config.strategy.split("+")
        return augmented or "retrieval" in self.config.sources

    @property
    def _keys(self) -> list[tuple[str, int]]:
        return [(dataset.name, seed) for dataset in self.datasets for seed in self.config.seeds]

    @cached_property
    def _originals(self) -> dict[tuple[str, int], OriginalPlan]:
        return {}

    def _original(self, name: str, seed: int) -> OriginalPlan:
        if (name, seed) not in self._originals:
            dataset = next(dataset for dataset in self.datasets if dataset.name == name)
            self._originals[name, seed] = OriginalPlan(
                dataset, max(self.config.shots), seed, allow_fewer=self.config.allow_fewer_shots
            )
        return self._originals[name, seed]

    @cached_property
    def _retrievals(self) -> dict[str, RetrievalPlan]:
        return {dataset.name: self._retrieval(dataset) for dataset in self.datasets}

    def _retrieval(self, dataset: Dataset) -> RetrievalPlan:
        from engine.evaluation import class_embeddings

        class_texts = class_embeddings(class_text_features(self.encoder, dataset)).numpy()
        return RetrievalPlan(dataset, self.pool, class_texts, max(self.config.shots))
