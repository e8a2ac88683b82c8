"""RealRAG: real images retrieved as references, by plain CLIP, by a normally trained head, and by a reflective one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from engine.catalog import Dataset
from engine.models import ImageEncoder, generator_spec, load_encoder
from engine.models.generators import adapter_of
from engine.models.registry import encoder_source
from engine.models.spec import GeneratorSpec
from engine.names import unknown_name
from engine.prompts import Materials, strategy_name
from engine.reports import Report
from engine.retriever.data import RetrieverData, choose_validation
from engine.retriever.database import DatabasePlan
from engine.retriever.fit import Trained, TrainingConfig, fit_head
from engine.retriever.negatives import mine
from engine.retriever.retriever import Retriever, plain_head
from engine.sources import ConcatenatedPlan, CorpusMaker, GenerativePlan, GeneratorMaker, OriginalPlan, plan_ids
from engine.store import Workspace
from engine.studies.config import Parts, Settings, check_not_empty, check_place, check_seeds
from engine.studies.realrag.judge import (
    ImageSet,
    Judge,
    Row,
    class_prompts,
    encode_prompts,
    load_images,
    paired_tests,
    paper_tables,
    retrieval_rows,
    score_rows,
    summary,
)
from engine.studies.realrag.options import compare_options
from engine.studies.realrag.pictures import reference_sheet, space_sheet
from engine.studies.scoring import Bills, cost_tables, error_rows

METHODS = ("none", "zero", "normal", "realrag")
"""No reference; references by plain CLIP, by a head without and with reflective negatives (RealRAG section 5)."""
TRAINED = ("normal", "realrag")


@dataclass(frozen=True, kw_only=True)
class RealRagConfig(Settings):
    """Which generators and retrievers, and how they are judged. All data sets together are the database; the encoder is
    the CLIP whose frozen towers the retrievers stand on."""

    generators: tuple[str, ...] = ("mini",)
    """Registry names (`python -m engine.models list`) or diffusers folders; each must take a reference image."""
    reference_mode: str = ""
    """How the reference enters; each generator's own default if empty."""
    reference_scale: float | None = None
    """Its strength in the units of its mode; the generator's own default if None."""
    judge: str = "mini-judge"
    """Another encoder: a linear probe on its features of real images says whether a generated image shows its class."""
    inception: Path | None = None
    """Inception weights (safetensors) for FID; the judge's features otherwise."""
    methods: tuple[str, ...] = METHODS
    """Any of `none`, `zero`, `normal`, `realrag`."""
    seeds: tuple[int, ...] = (0, 1)
    """Each trains its own heads and draws its own images."""
    database_shots: int = 120
    """Real images a class: one half to mine and learn from, the other to retrieve from; fewer where a class has fewer."""
    texts: int = 20
    """Training prompts a class; an image is generated for each, to mine its negatives."""
    training_strategy: str = "defined_template"
    """Prompt strategy of the training prompts."""
    strategy: str = "simple_template"
    """Prompt strategy of the images that are judged ("A photo of a [CLASS NAME]")."""
    images: int = 10
    """Judged images a class."""
    test_images: int | None = None
    """Real test images a class to judge against; all if None."""
    references: int = 10
    """Nearest images of a class that its shots take in turn; 1 is the nearest for all."""
    max_distance: float | None = None
    """References farther than this cosine distance are left out, and the image drawn from text alone."""
    negatives_mined: int = 4
    """Negatives a prompt that are mined; `training.num_negatives` of them are used."""
    mask_own_class: bool = True
    """Never mine an image of the prompt's own class."""
    validation_share: float = 0.2
    """Share of the mining half's images that chooses the epoch instead of teaching."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the heads are trained; `normal` is trained the same without reflective negatives."""
    checkpoints: tuple[int, ...] = (2, 4, 6, 8, 10)
    """Epochs whose heads are compared for the first seed (RealRAG Fig. 7); none to leave it out."""
    checkpoint_images: int = 2
    """Judged images a class of each such head."""
    options: bool = False
    """Also compare ways to train the head (one change at a time, retrieval only)."""
    batch_size: int | None = None
    """Images a generator makes at once; its own default otherwise."""
    report: Path = Path("report")
    """Folder for report.json, index.html and the trained heads."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
        super().check()
        check_place("report", self.report)
        check_not_empty(generators=self.generators, methods=self.methods)
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(unknown_name("method", name, METHODS))
        for name in ("texts", "images", "references", "negatives_mined", "checkpoint_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.database_shots < 2:
            raise ValueError(f"database_shots is {self.database_shots}; give 2 or more, for two halves")
        if self.test_images is not None and self.test_images < 1:
            raise ValueError(f"test_images is {self.test_images}; give 1 or more, or leave it out for all")
        check_seeds(self.seeds)
        for strategy in (self.strategy, self.training_strategy):
            if "retrieval_augmented" in strategy_name(strategy).split("+"):
                raise ValueError("retrieval_augmented is what the methods add; leave it out of the strategies")
        if min(self.checkpoints, default=1) < 1:
            raise ValueError("a checkpoint before the first epoch is no trained head; give epochs of 1 or more")
        if self.options and "realrag" not in self.methods:
            raise ValueError("options compare ways to train realrag; add it to the methods")
        self.training.check()


Key = tuple[str, str, int]
"""Generator, method, seed."""


def run_realrag(config: RealRagConfig) -> Report:
    """Builds the database, mines, trains, retrieves, generates, judges, and writes the report; what is there is kept.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to mend it.
    """
    from engine.dataflow.cluster import RayConnection

    study = RealRag(config)
    study.check()
    workspace = Workspace.open(config.workspace)
    with RayConnection() as connection:
        with study.run(workspace, study.encoder, connection) as run:
            run.fill("database", study.database_plan, study.corpus_maker)
            for generator, plan in study.training_plans():
                run.fill(f"{generator}: training prompts", plan, study.generator_maker(generator))
            study.learn(workspace)
            for generator, plan in study.judged_plans():
                run.fill(f"{generator}: references", plan, study.generator_maker(generator))
        with study.run(workspace, study.judge, connection) as run:
            run.embed("judge the database", plan_ids(study.database_plan))
            for generator, plan in study.judged_plans():
                run.embed(f"judge {generator}", plan_ids(plan))
    report = study.report(workspace)
    report.write(config.report)
    return report


class RealRag(Parts):
    """The parts of the study, each made when it is first needed."""

    config: RealRagConfig

    def __init__(self, config: RealRagConfig):
        super().__init__(config)
        self.heads: dict[Key, Trained] = {}
        """What was trained; `normal` is the same for every generator."""
        self.retrievers: dict[Key, Retriever] = {}
        self.plans: dict[Key, dict[str, GenerativePlan]] = {}
        """What is generated and judged: data set → plan; a checkpoint's method is `normal@2`."""
        self.data: dict[str, RetrieverData] = {}
        """Generator → what its heads learn from."""

    def check(self) -> None:
        """Looks at every name and file the run will need, before anything is started.

        Raises:
            ValueError: the first that is wrong.
        """
        super().check()
        encoder_source(self.config.judge)
        for spec in self.generators.values():
            spec.check_reference_mode(self.config.reference_mode or spec.reference_mode)
            if adapter_of(spec.pipeline).needs_reference and {"none", "realrag"} & set(self.config.methods):
                raise ValueError(
                    f"generator {spec.name} requires a reference image; leave out the methods none and realrag"
                )
        for dataset in self.datasets:
            if dataset.task == "multilabel":
                raise ValueError(f"{dataset.name} has several labels an image, and a reference has one; leave it out")
        _ = self.mining, self.retrieval, self.tests

    @cached_property
    def generators(self) -> dict[str, GeneratorSpec]:
        """Name → entry."""
        specs = [generator_spec(name) for name in self.config.generators]
        return {spec.name: spec for spec in specs}

    @cached_property
    def judge(self) -> ImageEncoder:
        """The judge's encoder."""
        return load_encoder(self.config.judge)

    @cached_property
    def mining(self) -> dict[str, DatabasePlan]:
        """Data set → the database's half to mine and learn from."""
        half = -(-self.config.database_shots // 2)
        return {dataset.name: DatabasePlan(dataset, 0, half) for dataset in self.datasets}

    @cached_property
    def retrieval(self) -> dict[str, DatabasePlan]:
        """Data set → the half to retrieve from."""
        half = -(-self.config.database_shots // 2)
        return {
            dataset.name: DatabasePlan(dataset, half, self.config.database_shots - half) for dataset in self.datasets
        }

    @cached_property
    def tests(self) -> dict[str, OriginalPlan]:
        """Data set → its test images, that judge and are never retrieved."""
        num = self.config.test_images
        return {dataset.name: OriginalPlan(dataset, num, split="test", allow_fewer=True) for dataset in self.datasets}

    @property
    def database_plan(self) -> ConcatenatedPlan:
        """The database and the test images."""
        return ConcatenatedPlan([*self.mining.values(), *self.retrieval.values(), *self.tests.values()])

    def _database(self, dataset: str) -> ConcatenatedPlan:
        return ConcatenatedPlan([self.mining[dataset], self.retrieval[dataset]])

    @property
    def corpus_maker(self) -> CorpusMaker:
        """Reads the data sets."""
        return CorpusMaker({dataset.name: dataset.location for dataset in self.datasets})

    def generator_maker(self, generator: str) -> GeneratorMaker:
        """Draws, with references from the workspace."""
        spec = self.generators[generator]
        size = self.config.batch_size or spec.batch_size
        references = Workspace.open(self.config.workspace).uri
        return GeneratorMaker(spec, size, spec.num_gpus, references, spec.needs_gpu)

    @staticmethod
    def _ids(plans: Mapping[str, DatabasePlan]) -> list[str]:
        return [name for plan in plans.values() for name in plan.ids()]

    def training_plans(self) -> Iterator[tuple[str, ConcatenatedPlan]]:
        """Generator → an image for each training prompt."""
        if "realrag" in self.config.methods:
            for generator, spec in self.generators.items():
                yield generator, ConcatenatedPlan([self._training_plan(dataset, spec) for dataset in self.datasets])

    def _training_plan(self, dataset: Dataset, spec: GeneratorSpec) -> GenerativePlan:
        return GenerativePlan(dataset, spec, self.config.training_strategy, self.config.texts)

    def learn(self, workspace: Workspace) -> None:
        """Mines, trains the heads, embeds the database's other half with them, and plans the images to judge."""
        config = self.config
        retrieved = self._ids(self.retrieval)
        zero = Retriever(workspace, self.encoder, plain_head(self.encoder), config.max_distance)
        zero.embed(retrieved)
        for generator in self.generators:
            self.data[generator] = self._training_data(workspace, generator)
            for seed in config.seeds:
                self._plan(generator, "none", seed, None)
                self._plan(generator, "zero", seed, zero)
                for method in TRAINED:
                    self._train(workspace, (generator, method, seed), retrieved)

    def _train(self, workspace: Workspace, key: Key, retrieved: list[str]) -> None:
        generator, method, seed = key
        config = self.config
        if method not in config.methods:
            return
        kept = config.checkpoints if seed == config.seeds[0] else ()
        training = replace(config.training, label=method, seed=seed, keep_epochs=kept)
        if method == "normal":
            training = replace(training, num_negatives=0)
        first = next(iter(self.generators)), method, seed
        if method == "normal" and first in self.heads:
            self.heads[key] = self.heads[first]
        else:
            self.heads[key] = fit_head(self.data[generator], training)
            self.heads[key].head.save(config.report / "heads" / f"{_folder_name(generator)}-{method}-{seed}")
        retriever = Retriever(workspace, self.encoder, self.heads[key].head, config.max_distance)
        retriever.embed(retrieved)
        self._plan(generator, method, seed, retriever)
        for epoch, head in self.heads[key].checkpoints.items():
            checkpoint = replace(retriever, head=head)
            checkpoint.embed(retrieved, build_index=False)
            self._plan(generator, f"{method}@{epoch}", seed, checkpoint)

    def _plan(self, generator: str, method: str, seed: int, retriever: Retriever | None) -> None:
        config = self.config
        if method.split("@")[0] not in config.methods:
            return
        key, spec = (generator, method, seed), self.generators[generator]
        if retriever is None:
            self.plans[key] = {
                dataset.name: GenerativePlan(dataset, spec, config.strategy, config.images, seed)
                for dataset in self.datasets
            }
            return
        self.retrievers[key] = retriever
        images = config.checkpoint_images if "@" in method else config.images
        found = {
            dataset.name: retriever.references(dataset, config.strategy, images, config.references, seed)
            for dataset in self.datasets
        }
        self.plans[key] = {
            dataset.name: GenerativePlan(
                dataset,
                spec,
                f"{config.strategy}+retrieval_augmented",
                images,
                seed,
                Materials(references=found),
                config.reference_mode,
                config.reference_scale,
            )
            for dataset in self.datasets
        }

    def _training_data(self, workspace: Workspace, generator: str) -> RetrieverData:
        """Prompts, the mining half's images, and what the generator's own images are nearest to (RealRAG Eq. 3-5)."""
        codes = self._class_codes
        texts, text_class = [], []
        for dataset in self.datasets:
            plan = self._training_plan(dataset, self.generators[generator])
            for recipe in (plan[index] for index in range(len(plan))):
                texts.append(recipe.prompt)
                text_class.append(codes[recipe.dataset, recipe.class_index])
        images = load_images(workspace, self._ids(self.mining), [self.encoder.name])
        image_class = np.array([codes[name] for name in images.classes], np.int64)
        data = RetrieverData(
            encoder=self.encoder.name,
            text_features=encode_prompts(self.encoder, texts),
            text_class=np.array(text_class, np.int64),
            image_features=images.features[self.encoder.name],
            image_class=image_class,
            negatives=np.full((len(texts), 1), -1),
            validation=choose_validation(image_class, self.config.validation_share),
        )
        if "realrag" not in self.config.methods:
            return data
        negatives, generated = self._mine(workspace, generator, masked=self.config.mask_own_class)
        return replace(data, negatives=negatives, generated=generated)

    def _mine(self, workspace: Workspace, generator: str, masked: bool) -> tuple[np.ndarray, np.ndarray]:
        """`[T, K]` rows of the mining half's images that are nearest to what the generator drew for each text, -1 for none;
        and `[T, D]` embeddings of what it drew, zeros where it failed."""
        plans = [self._training_plan(dataset, self.generators[generator]) for dataset in self.datasets]
        text_of = {
            plan[index].id: row for row, (plan, index) in enumerate((p, i) for p in plans for i in range(len(p)))
        }
        drawn = load_images(workspace, list(text_of), [self.encoder.name])  # those that failed have no negatives
        images = load_images(workspace, self._ids(self.mining), [self.encoder.name]).ids
        row_of = {name: row for row, name in enumerate(images)}
        found = mine(workspace, self.encoder.name, drawn.ids, images, self.config.negatives_mined, masked)
        negatives = np.full((len(text_of), self.config.negatives_mined), -1)
        names = (found.column(name).to_pylist() for name in ("generated_id", "rank", "negative_id"))
        for generated, rank, negative in zip(*names, strict=True):
            negatives[text_of[generated], rank - 1] = row_of[negative]
        embeddings: np.ndarray = np.zeros((len(text_of), self.encoder.dimension), np.float32)
        embeddings[[text_of[name] for name in drawn.ids]] = drawn.features[self.encoder.name]
        return negatives, embeddings

    @cached_property
    def _class_codes(self) -> Mapping[tuple[str, int], int]:
        pairs = [(dataset.name, number) for dataset in self.datasets for number in range(len(dataset.class_names))]
        return {pair: code for code, pair in enumerate(pairs)}

    def judged_plans(self) -> Iterator[tuple[str, ConcatenatedPlan]]:
        """Generator → all that is drawn to be judged; images that two retrievers ask for alike are one row."""
        for generator in self.generators:
            plans = [plan for key, each in self.plans.items() if key[0] == generator for plan in each.values()]
            yield generator, ConcatenatedPlan(plans)

    def _options(self, workspace: Workspace) -> list[Row]:
        """Heads trained in other ways, for the first generator: a row a change, seed and data set."""
        generator = next(iter(self.generators))
        return compare_options(
            self.data[generator],
            self._mine(workspace, generator, masked=False)[0],
            {
                dataset.name: load_images(workspace, self.retrieval[dataset.name], [self.encoder.name])
                for dataset in self.datasets
            },
            {
                dataset.name: encode_prompts(self.encoder, class_prompts(dataset, self.config.strategy))
                for dataset in self.datasets
            },
            self.config.training,
            self.config.seeds,
        )

    def report(self, workspace: Workspace) -> Report:
        """Scores, tables and pictures of what the workspace holds of this study."""
        config = self.config
        encoders = [self.encoder.name, self.judge.name]
        judges = {
            dataset.name: Judge.of(
                workspace, dataset, self._database(dataset.name), self.tests[dataset.name], self.encoder,
                self.judge.name, config.inception,
            )
            for dataset in self.datasets
        }  # fmt: skip
        images: dict[Key, dict[str, ImageSet]] = {}
        rows: list[Row] = []
        for key, plans in self.plans.items():
            images[key] = {name: load_images(workspace, plan, encoders) for name, plan in plans.items()}
            for name, loaded in images[key].items():
                scored = score_rows(judges[name], loaded)
                rows.append(dict(zip(("generator", "method", "seed"), key, strict=True)) | scored)
        whole = [row for row in rows if "@" not in row["method"]]
        retrieval = retrieval_rows(
            self.retrievers,
            {dataset: self.retrieval[dataset.name] for dataset in self.datasets},
            config.strategy,
            workspace,
        )
        tables = {
            "realrag": summary(whole, ("generator", "method", "dataset", "group")),
            **paper_tables(whole, self.generators),
            "retrieval": summary(
                [row for row in retrieval if "@" not in row["method"]], ("generator", "method", "dataset", "group")
            ),
            "paired_tests": paired_tests(whole, [row for row in retrieval if "@" not in row["method"]]),
            "figure_7": _figure_7(rows, retrieval),
            "training_curves": [
                dict(zip(("generator", "method", "seed"), key, strict=True)) | row
                for key, trained in self.heads.items()
                for row in trained.curves
            ],
            "judge": [judge.row() for judge in judges.values()],
            "realrag_by_seed": [{k: v for k, v in row.items() if not k.startswith("_")} for row in whole],
            **cost_tables(workspace, Bills(workspace)),
            "errors": error_rows(
                workspace, [self.database_plan, *(plan for each in self.plans.values() for plan in each.values())]
            ),
        }
        if config.options:
            tables["head_options"] = summary(self._options(workspace), ("change", "dataset"))
        first = config.seeds[0]
        sheets = []
        for generator in self.generators:
            mine = {method: sets for (name, method, seed), sets in images.items() if (name, seed) == (generator, first)}
            mine = {method: sets for method, sets in mine.items() if "@" not in method}
            for dataset in self.datasets:
                of_dataset = {method: sets[dataset.name] for method, sets in mine.items()}
                sheets.append(reference_sheet(workspace, dataset, judges[dataset.name].test, of_dataset, generator))
                sheets.append(space_sheet(dataset, judges[dataset.name].test, of_dataset, self.judge.name, generator))
        return Report(
            title="RealRAG: what a retrieved real image adds to a generated one",
            tables=tables,
            sheets=sheets,
            notes=[
                f"FID is of {next(iter(judges.values())).fid_features}; only distances of equal features and numbers compare.",
                f"Accuracy is that of a linear probe on {self.judge.name}'s features of real images, fitted on each data set's database.",
                "Accuracies and precisions are in percent (shares in report.json); CLIP-I, CLIP-T and Judge-I are cosines times 100; ± is over seeds.",
            ],
        )


def _figure_7(rows: list[Row], retrieval: list[Row]) -> list[Row]:
    """What the heads of each kept epoch retrieve and draw: one seed (RealRAG Fig. 7)."""
    precision = {(row["generator"], row["method"], row["dataset"]): row["precision_at_1"] for row in retrieval}
    found = []
    for row in rows:
        method, _, epoch = row["method"].partition("@")
        if epoch:
            at = {"generator": row["generator"], "method": method, "epoch": int(epoch), "dataset": row["dataset"]}
            scores = {name: row[name] for name in ("accuracy", "clip_i", "clip_t", "fid")}
            found.append(at | {"precision_at_1": precision[row["generator"], row["method"], row["dataset"]]} | scores)
    return found


def _folder_name(generator: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in generator)
