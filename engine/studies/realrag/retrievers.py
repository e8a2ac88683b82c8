"""From real images to trained retrievers: build the database, generate, mine, train, embed, and evaluate the retrieval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.catalog import Dataset
from engine.catalog.written_prompts import with_prompts
from engine.models import generator_spec
from engine.models.generators import adapter_of
from engine.models.spec import GeneratorSpec
from engine.prompts.written_prompt import WRITTEN_PROMPT
from engine.reports import Report
from engine.reports.headings import heading
from engine.retriever.database import DatabasePlan
from engine.retriever.fit import Trained
from engine.retriever.retriever import Retriever, plain_head
from engine.sources import ConcatenatedPlan, CorpusMaker, GeneratorMaker, Plan
from engine.store import Workspace
from engine.studies.base import Phase, Study, run_study
from engine.studies.realrag.config import TRAINED, RetrieverSettings, TrainRetrieverConfig
from engine.studies.realrag.judge import Row, retrieval_rows
from engine.studies.realrag.lessons import Lessons, MiningHalf, lesson
from engine.studies.realrag.presentation import RETRIEVED, curve_figures, dots, retrieval_findings
from engine.studies.realrag.tables import held_out_rows, summary
from engine.studies.scoring import Bills, cost_tables, error_rows

if TYPE_CHECKING:
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Stage

Key = tuple[str, str, int]
"""Generator, method and seed; the method of the head of a kept epoch is `normal@2`."""


class RetrieverStudy(Study):
    """Retrievers for one or several generators over one database."""

    name = "train-retriever"
    config: RetrieverSettings

    def __init__(self, config: RetrieverSettings):
        super().__init__(config)
        self.trained: dict[Key, Trained] = {}
        """Trained heads; `normal` is the same for every generator."""
        self.retrievers: dict[Key, Retriever] = {}

    @property
    def generator_names(self) -> Sequence[str]:
        """Generators from whose images the negatives are mined."""
        assert isinstance(self.config, TrainRetrieverConfig)
        return [self.config.generator]

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs whose heads are also kept, for the first seed."""
        return ()

    def check(self) -> None:
        """Checks every name and file that the run will need, before anything is started.

        Raises:
            ValueError: a name or file is invalid; the first is reported.
        """
        super().check()
        for spec in self.generators.values():
            if adapter_of(spec.pipeline).needs_reference and self.config.needs_mining:
                raise ValueError(
                    f"generator {spec.name} requires a reference image; leave out the methods none and realrag"
                )
        for dataset in self.datasets:
            if dataset.task == "multilabel":
                raise ValueError(f"{dataset.name} has several labels an image, and a reference has one; leave it out")
        _ = self.mining, self.retrieval

    @cached_property
    def datasets(self) -> list[Dataset]:
        """The data sets, those of the configured file with its prompts."""
        datasets = super().datasets
        return with_prompts(datasets, self.config.prompts) if self.config.prompts else datasets

    def strategy_of(self, dataset: Dataset) -> str:
        """Prompt strategy of a data set's queries and judged images."""
        return WRITTEN_PROMPT.name if dataset.prompts else self.config.strategy

    @cached_property
    def generators(self) -> dict[str, GeneratorSpec]:
        """Name → generator entry."""
        specs = [generator_spec(name) for name in self.generator_names]
        return {spec.name: spec for spec in specs}

    @cached_property
    def mining(self) -> dict[str, DatabasePlan]:
        """Data set → the half of the database for mining and training."""
        half = -(-self.config.database_shots // 2)
        return {dataset.name: DatabasePlan(dataset, 0, half) for dataset in self.datasets}

    @cached_property
    def retrieval(self) -> dict[str, DatabasePlan]:
        """Data set → the half for retrieval."""
        half = -(-self.config.database_shots // 2)
        rest = self.config.database_shots - half
        return {dataset.name: DatabasePlan(dataset, half, rest) for dataset in self.datasets}

    @property
    def database_plan(self) -> ConcatenatedPlan:
        """Both halves."""
        return ConcatenatedPlan([*self.mining.values(), *self.retrieval.values()])

    @property
    def retrieved_ids(self) -> list[str]:
        """Ids of the images for retrieval."""
        return [one for plan in self.retrieval.values() for one in plan.ids()]

    @property
    def encoder_stage(self) -> "Stage":
        """The stage that embeds by the retrievers' encoder."""
        from engine.dataflow.stages import Embed

        return Embed.of(self.encoder)

    @cached_property
    def lessons(self) -> dict[str, Lessons]:
        """Generator → training data of its heads."""
        half = MiningHalf(Workspace.open(self.config.workspace), self.encoder.name, list(self.mining.values()))
        return {
            name: Lessons(self.config, self.datasets, self.encoder, spec, half)
            for name, spec in self.generators.items()
        }

    def phases(self) -> Iterator[Phase]:
        """Database, training prompts, negatives, heads."""
        yield "database", self.fill_database
        if self.config.needs_mining:
            yield "training prompts", self._fill_prompts
            yield "negatives", self._mine
        yield "heads", self._train
        yield "embed by heads", self._embed

    def fill_database(self, run: "Run") -> None:
        """Reads and embeds the real images."""
        maker = CorpusMaker({dataset.name: dataset.location for dataset in self.datasets})
        run.fill("database", self.database_plan, maker, [self.encoder_stage])

    def generator_maker(self, generator: str) -> GeneratorMaker:
        """Generates images, with references from the workspace."""
        spec = self.generators[generator]
        size = self.config.batch_size or spec.batch_size
        references = Workspace.open(self.config.workspace).uri
        return GeneratorMaker(spec, size, spec.num_gpus, references, spec.needs_gpu)

    def _fill_prompts(self, run: "Run") -> None:
        for name, lessons in self.lessons.items():
            maker = self.generator_maker(name)
            run.fill(f"{name}: training prompts", lessons.plan, maker, [self.encoder_stage])

    @property
    def masks(self) -> tuple[bool, ...]:
        """For each kind of mining, whether images of the prompt's own class are skipped."""
        return (self.config.mask_own_class,)

    def _mine(self, run: "Run") -> None:
        for lessons in self.lessons.values():
            for mask in self.masks:
                lessons.mine(run, mask=mask)

    def _train(self, run: "Run") -> None:
        from engine.retriever.ray_training import train_missing

        wanted: dict[Key, Any] = {}
        for generator, lessons in self.lessons.items():
            methods = [method for method in TRAINED if method in self.config.methods]
            data = {method: lessons.data_for(method) for method in methods}
            for seed in self.config.seeds:
                kept = self.kept_epochs if seed == self.config.seeds[0] else ()
                for method in methods:
                    training = replace(self.config.training, seed=seed, keep_epochs=kept)
                    wanted[generator, method, seed] = lesson(method, data[method], training)
        self.trained = train_missing(run, wanted)

    def _embed(self, run: "Run") -> None:
        """Embeds the retrieval half with each head."""
        retrieved, distance = self.retrieved_ids, self.config.max_distance
        zero = Retriever(run.workspace, self.encoder, plain_head(self.encoder), distance)
        zero.embed(retrieved)
        for generator in self.generators:
            for seed in self.config.seeds:
                if "zero" in self.config.methods:
                    self.retrievers[generator, "zero", seed] = zero
                for method in TRAINED:
                    trained = self.trained.get((generator, method, seed))
                    if trained is None:
                        continue
                    retriever = Retriever(run.workspace, self.encoder, trained.head, distance)
                    retriever.embed(retrieved)
                    self.retrievers[generator, method, seed] = retriever
                    for epoch, head in trained.checkpoints.items():
                        checkpoint = replace(retriever, head=head)
                        checkpoint.embed(retrieved, build_index=False)
                        self.retrievers[generator, f"{method}@{epoch}", seed] = checkpoint

    def retrieval_table(self, workspace: Workspace) -> list[Row]:
        """P@k and recall@k of every retriever on each data set."""
        database: Mapping[Any, Plan] = {dataset: self.retrieval[dataset.name] for dataset in self.datasets}
        return retrieval_rows(self.retrievers, database, self.strategy_of, workspace)

    def held_out_table(self, retrieval: Sequence[Row]) -> dict[str, list[Row]]:
        """The table `held_out`, if classes are held out."""
        if not self.config.held_out_share:
            return {}
        held_out = next(iter(self.lessons.values())).held_out
        return {"held_out": held_out_rows([row for row in retrieval if "@" not in row["method"]], held_out)}

    def training_curves(self) -> list[Row]:
        """One row per epoch of every head."""
        return [
            dict(zip(("generator", "method", "seed"), key, strict=True)) | row
            for key, trained in self.trained.items()
            for row in trained.curves
        ]

    def head_rows(self) -> list[Row]:
        """Names of the heads in the workspace."""
        return [
            {
                "generator": generator,
                "method": method,
                "seed": seed,
                "head": one.head.name,
                "epoch": one.head.spec.epoch,
            }
            for (generator, method, seed), one in self.trained.items()
        ]

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Test images are not read."""
        return ("train",)

    def every_plan(self) -> list[Plan]:
        """Database and training prompts."""
        mined = self.lessons.values() if self.config.needs_mining else ()
        return [self.database_plan, *(lessons.plan for lessons in mined)]

    def build_report(self, workspace: Workspace) -> Report:
        """Retrieval, training curves and costs."""
        by = ("generator", "method", "dataset", "group")
        retrieval = self.retrieval_table(workspace)
        whole = [row for row in retrieval if "@" not in row["method"]]
        tables = {
            "retrieval": summary(retrieval, by),
            **self.held_out_table(retrieval),
            "heads": self.head_rows(),
            "training_curves": self.training_curves(),
            **cost_tables(workspace, Bills(workspace)),
            "files": self.files(),
            "errors": error_rows(workspace, self.every_plan()),
        }
        plots = {f"{heading(score)} by data set and retriever.": dots(whole, score) for score in RETRIEVED}
        return Report(
            findings=retrieval_findings(whole),
            figures=plots | curve_figures(tables["training_curves"]),
            title="Retrievers trained on the mistakes of a generator",
            tables={name: rows for name, rows in tables.items() if rows or name == "errors"},
            notes=[
                "Precision and recall of each class's first prompt over the retrieval half of the database; ± is over seeds.",
                "A head is loaded by its name, or the newest one by its method: engine.retriever.heads.load_kept_head.",
            ],
        )


def train_retriever(config: TrainRetrieverConfig) -> Report:
    """Builds the database, mines negatives, trains the heads and evaluates their retrieval; finished work is skipped.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(RetrieverStudy(config))
