"""RealRAG: real images retrieved as references, by plain CLIP, by a normally trained head, and by a reflective one."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from engine.models import ImageEncoder
from engine.models.generators import adapter_of
from engine.models.lazy import LazyEncoder
from engine.prompts import Materials
from engine.reports import Report
from engine.retriever.fit import Trained
from engine.sources import ConcatenatedPlan, CorpusMaker, GenerativePlan, OriginalPlan, Plan
from engine.store import Workspace
from engine.studies.base import Phase, run_study
from engine.studies.realrag.config import RealRagConfig
from engine.studies.realrag.judge import (
    ImageSet,
    Judge,
    Row,
    class_prompts,
    encode_prompts,
    load_images,
    score_rows,
)
from engine.studies.realrag.options import Option, compare_options, option_lessons
from engine.studies.realrag.pictures import reference_sheet, space_figure
from engine.studies.realrag.presentation import figures, findings
from engine.studies.realrag.retrievers import Key, RetrieverStudy
from engine.studies.realrag.tables import by_knowledge, paired_tests, paper_tables, summary
from engine.studies.scoring import Bills, cost_tables, error_rows

if TYPE_CHECKING:
    from engine.dataflow.inception import InceptionFeatures
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Stage


def run_realrag(config: RealRagConfig) -> Report:
    """Builds the database, mines, trains, retrieves, generates, judges and reports; finished work is skipped.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(RealRag(config))


class RealRag(RetrieverStudy):
    """Retrievers, and the images that are generated with their references."""

    name = "realrag"
    config: RealRagConfig

    def __init__(self, config: RealRagConfig):
        super().__init__(config)
        self.plans: dict[Key, dict[str, GenerativePlan]] = {}
        """Judged images: data set → plan; the method of the head of a kept epoch is `normal@2`."""
        self.options: dict[Option, Trained] = {}
        """Heads trained in other ways, for the first generator."""

    @property
    def generator_names(self) -> Sequence[str]:
        """The configured generators."""
        return self.config.generators

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The checkpoints of RealRAG Fig. 7."""
        return self.config.checkpoints

    @property
    def masks(self) -> tuple[bool, ...]:
        """The configured mask; the comparison of options also needs negatives of the own class."""
        configured = self.config.mask_own_class
        return (configured, False) if self.config.options and configured else (configured,)

    def check(self) -> None:
        """Checks every name and file that the run will need, before anything is started.

        Raises:
            ValueError: a name or file is invalid; the first is reported.
        """
        super().check()
        for spec in self.generators.values():
            spec.check_reference_mode(self.config.reference_mode or spec.reference_mode)
            if adapter_of(spec.pipeline).needs_reference and "none" in self.config.methods:
                raise ValueError(
                    f"generator {spec.name} requires a reference image; leave out the methods none and realrag"
                )
        _ = self.tests, self.inception

    @cached_property
    def judge(self) -> ImageEncoder:
        """The judge's encoder; workers load it, and this process loads it only if it must encode something."""
        return LazyEncoder(self.config.judge)

    @cached_property
    def inception(self) -> "InceptionFeatures | None":
        """The stage that adds the features for FID, if Inception's weights are given."""
        from engine.dataflow.inception import InceptionFeatures

        return InceptionFeatures.of(self.config.inception) if self.config.inception else None

    @property
    def judge_stages(self) -> "list[Stage]":
        """Stages of images that are compared for FID: embeddings by the encoder and the judge, and Inception's features."""
        from engine.dataflow.stages import Embed

        return [self.encoder_stage, Embed.of(self.judge), *([self.inception] if self.inception else [])]

    @cached_property
    def tests(self) -> dict[str, OriginalPlan]:
        """Data set → its test images, which are used for judging and never retrieved."""
        num = self.config.test_images
        return {dataset.name: OriginalPlan(dataset, num, split="test", allow_fewer=True) for dataset in self.datasets}

    def phases(self) -> Iterator[Phase]:
        """The phases of the retrievers, and the judged images."""
        yield from super().phases()
        yield "references", self._fill_judged

    def fill_database(self, run: "Run") -> None:
        """Reads the real images and embeds them by the encoder and the judge, in one pass."""
        maker = CorpusMaker({dataset.name: dataset.location for dataset in self.datasets})
        tests = list(self.tests.values())
        if self.inception:  # of real images, FID compares those of the test split alone
            run.fill("test images", ConcatenatedPlan(tests), maker, self.judge_stages)
            tests = []
        run.fill("database", ConcatenatedPlan([self.database_plan, *tests]), maker, self.judge_stages[:2])

    def _train(self, run: "Run") -> None:
        """Trains the heads of the methods and, for `--options`, those of other ways to train."""
        from engine.retriever.ray_training import train_missing

        super()._train(run)
        if self.config.options:
            lessons = next(iter(self.lessons.values()))
            unmasked = lessons.negatives(mask=False)
            self.options = train_missing(
                run, option_lessons(lessons.data, unmasked, self.config.training, self.config.seeds)
            )

    def _fill_judged(self, run: "Run") -> None:
        """Generates the images to judge; if two retrievers request the same image, it is one row."""
        for generator in self.generators:
            for seed in self.config.seeds:
                if "none" in self.config.methods:
                    self._plan_without(generator, seed)
                for key in self.retrievers:
                    if (key[0], key[2]) == (generator, seed):
                        self._plan(key)
        for generator in self.generators:
            plans = [plan for key, each in self.plans.items() if key[0] == generator for plan in each.values()]
            maker = self.generator_maker(generator)
            run.fill(f"{generator}: references", ConcatenatedPlan(plans), maker, self.judge_stages)

    def _plan_without(self, generator: str, seed: int) -> None:
        spec, config = self.generators[generator], self.config
        self.plans[generator, "none", seed] = {
            dataset.name: GenerativePlan(dataset, spec, self.strategy_of(dataset), config.images, seed)
            for dataset in self.datasets
        }

    def _plan(self, key: Key) -> None:
        generator, method, seed = key
        config, spec = self.config, self.generators[generator]
        images = config.checkpoint_images if "@" in method else config.images
        retriever = self.retrievers[key]
        found = {
            dataset.name: retriever.references(dataset, self.strategy_of(dataset), images, config.references, seed)
            for dataset in self.datasets
        }
        self.plans[key] = {
            dataset.name: GenerativePlan(
                dataset,
                spec,
                f"{self.strategy_of(dataset)}+retrieval_augmented",
                images,
                seed,
                Materials(references=found),
                config.reference_mode,
                config.reference_scale,
            )
            for dataset in self.datasets
        }

    def _options(self, workspace: Workspace) -> list[Row]:
        """Retrieval of the heads trained in other ways: one row per change, seed and data set."""
        return compare_options(
            self.options,
            {
                dataset.name: load_images(workspace, self.retrieval[dataset.name], [self.encoder.name])
                for dataset in self.datasets
            },
            {
                dataset.name: encode_prompts(self.encoder, class_prompts(dataset, self.strategy_of(dataset)))
                for dataset in self.datasets
            },
            self.encoder.name,
        )

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Test images are read, for the judge."""
        return "train", "test"

    def every_plan(self) -> list[Plan]:
        """Database, test images, training prompts and judged images."""
        judged = (plan for plans in self.plans.values() for plan in plans.values())
        return [*super().every_plan(), *self.tests.values(), *judged]

    def build_report(self, workspace: Workspace) -> Report:
        """Scores, tables and pictures of this study's data in the workspace."""
        config = self.config
        encoders = [self.encoder.name, self.judge.name]
        judges = {
            dataset.name: Judge.of(
                workspace,
                dataset,
                self.mining[dataset.name],
                self.tests[dataset.name],
                self.encoder,
                self.judge,
                self.inception,
            )
            for dataset in self.datasets
        }
        images: dict[Key, dict[str, ImageSet]] = {}
        rows: list[Row] = []
        for key, plans in self.plans.items():
            images[key] = {name: load_images(workspace, plan, encoders) for name, plan in plans.items()}
            for name, loaded in images[key].items():
                scored = score_rows(judges[name], loaded)
                rows.append(dict(zip(("generator", "method", "seed"), key, strict=True)) | scored)
        whole = [row for row in rows if "@" not in row["method"]]
        every_retrieval = self.retrieval_table(workspace)
        retrieval = [row for row in every_retrieval if "@" not in row["method"]]
        tables = {
            "realrag": summary(whole, ("generator", "method", "dataset", "group")),
            **paper_tables(whole, self.generators),
            "retrieval": summary(retrieval, ("generator", "method", "dataset", "group")),
            "paired_tests": paired_tests(whole, retrieval),
            **self.held_out_table(retrieval),
            "by_knowledge": by_knowledge(whole, retrieval),
            "figure_7": _figure_7(rows, every_retrieval),
            "training_curves": self.training_curves(),
            "heads": self.head_rows(),
            "judge": [judge.row() for judge in judges.values()],
            "realrag_by_seed": [{k: v for k, v in row.items() if not k.startswith("_")} for row in whole],
            **cost_tables(workspace, Bills(workspace)),
            "files": self.files(),
            "errors": error_rows(workspace, self.every_plan()),
        }
        if config.options:
            tables["head_options"] = summary(self._options(workspace), ("change", "dataset"))
        first = config.seeds[0]
        sheets = []
        maps: dict[str, str] = {}
        for generator in self.generators:
            mine = {method: sets for (name, method, seed), sets in images.items() if (name, seed) == (generator, first)}
            mine = {method: sets for method, sets in mine.items() if "@" not in method}
            for dataset in self.datasets:
                of_dataset = {method: sets[dataset.name] for method, sets in mine.items()}
                sheets.append(reference_sheet(workspace, dataset, judges[dataset.name].test, of_dataset, generator))
                maps |= space_figure(dataset, judges[dataset.name].test, of_dataset, self.judge.name, generator)
        return Report(
            title="RealRAG: what a retrieved real image adds to a generated one",
            findings=findings(whole, retrieval),
            tables=tables,
            figures=figures(whole, retrieval, tables["by_knowledge"], tables["figure_7"], tables["training_curves"])
            | maps,
            sheets=sheets,
            notes=[
                f"FID is of {next(iter(judges.values())).fid_features}; only distances of equal features and numbers compare.",
                f"Accuracy is that of a linear probe on {self.judge.name}'s features of real images, fitted on the mining half of each data set's database; it has seen neither references nor test images.",
                "Accuracies and precisions are in percent (shares in report.json); CLIP-I, CLIP-T and Judge-I are cosines times 100; ± is over seeds.",
            ],
        )


def _figure_7(rows: list[Row], retrieval: list[Row]) -> list[Row]:
    """Retrieval and images of the heads of each kept epoch, for one seed (RealRAG Fig. 7)."""
    precision = {(row["generator"], row["method"], row["dataset"]): row["precision_at_1"] for row in retrieval}
    found = []
    for row in rows:
        method, _, epoch = row["method"].partition("@")
        if epoch:
            at = {"generator": row["generator"], "method": method, "epoch": int(epoch), "dataset": row["dataset"]}
            scores = {name: row[name] for name in ("accuracy", "clip_i", "clip_t", "fid")}
            found.append(at | {"precision_at_1": precision[row["generator"], row["method"], row["dataset"]]} | scores)
    return found
