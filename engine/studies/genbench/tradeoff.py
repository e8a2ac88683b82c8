"""GenBench: generative, retrieval and original data at growing shots: what each costs, and what it is worth (section 3.1)."""

from dataclasses import dataclass

from engine.prompts import strategy_name
from engine.reports import Report
from engine.store import Workspace
from engine.studies.config import check_not_empty
from engine.studies.scoring import (
    FIGURE_2,
    Bills,
    add_finetuned,
    contact_sheet,
    cost_tables,
    error_rows,
    improvement_figure,
    improvements,
    paper_tables,
    tradeoff_rows,
)
from engine.studies.study import (
    SOURCES,
    Study,
    StudyConfig,
    Variant,
    check_shots,
    check_sources,
    run_study,
)


@dataclass(frozen=True, kw_only=True)
class GenBenchConfig(StudyConfig):
    """Which data, from which sources, at which shots."""

    sources: tuple[str, ...] = SOURCES
    """Any of `generative`, `retrieval`, `original`."""
    strategy: str = "defined_template"
    """Prompt strategy of the generative data: a base and modifiers, as in `defined_template+negative_prompts`."""
    shots: tuple[int, ...] = (1, 5, 20, 100, 500)
    """Images a class; the sets nest, so the largest number decides how many are made."""
    finetune: tuple[int, ...] = ()
    """Of these shots, those that CLIP's image tower is fine-tuned on too (on the machine that runs the study)."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
        check_sources(self.sources)
        strategy_name(self.strategy)
        check_not_empty(shots=self.shots)
        check_shots(*self.shots)
        for num in self.finetune:
            if num not in self.shots:
                raise ValueError(f"fine-tuning on {num} shots needs them among the shots; add {num} to shots")
        super().check()


def run_genbench(config: GenBenchConfig) -> Report:
    """Makes what the workspace lacks, scores it, prices it, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to mend it.
    """
    return run_study(GenBench(config))


class GenBench(Study):
    """The study of the paper's section 3.1."""

    config: GenBenchConfig

    @property
    def variants(self) -> dict[str, Variant]:
        """Source → itself, generative data by the strategy asked for."""
        self.config.check()
        return {
            source: Variant(source, self.config.strategy if source == "generative" else "", max(self.config.shots))
            for source in self.config.sources
        }

    def report(self, workspace: Workspace) -> Report:
        """Scores, costs and pictures of what the workspace holds of this study."""
        bills = Bills(workspace)
        tradeoff, sheets = [], []
        for dataset in self.datasets:
            texts = self.texts(dataset)
            plans = {
                (source, seed): self.plans[source][dataset.name, seed]
                for source in self.plans
                for seed in self.config.seeds
            }
            tests = self.test_plans[dataset.name]
            rows = tradeoff_rows(
                workspace, bills, dataset, self.encoder.name, texts, tests, plans, self.config.shots, self.config.probe
            )
            if self.config.finetune and dataset.task != "multilabel":
                add_finetuned(workspace, self.encoder, dataset, texts, tests, plans, self.config.finetune, rows)
            tradeoff += rows
            first = self.config.seeds[0]
            sheets += [
                contact_sheet(workspace, dataset, source, self.plans[source][dataset.name, first])
                for source in self.plans
            ]
        gains = improvements(tradeoff)
        tables = {
            "tradeoff": tradeoff,
            "improvement": gains,
            **cost_tables(workspace, bills),
            **paper_tables(self.prices),
            "errors": error_rows(workspace, self.every_plan()),
            "files": self.files(),
        }
        return Report(
            title="GenBench: what generated, retrieved and original images cost and are worth",
            tables=tables,
            sheets=sheets,
            figures={FIGURE_2: improvement_figure(gains)},
        )
