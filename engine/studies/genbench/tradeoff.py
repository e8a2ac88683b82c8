"""GenBench section 3.1: accuracy and cost of generative, retrieval and original data at growing shots."""

from dataclasses import dataclass
from typing import Any

from engine.prompts import Strategy
from engine.reports import Report
from engine.sources.fetched import FetchedPlan
from engine.sources.kinds import PAPER_SOURCES, source_kind
from engine.store import Workspace
from engine.studies.base import run_study
from engine.studies.config import check_not_empty
from engine.studies.findings import tradeoff_findings
from engine.studies.retrieved import fetched_rows
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
from engine.studies.sheets import comparison_sheet
from engine.studies.study import SourceStudy, StudyConfig
from engine.studies.variants import Variant, check_shots, check_sources


@dataclass(frozen=True, kw_only=True)
class GenBenchConfig(StudyConfig):
    """Data, sources and shots to compare."""

    sources: tuple[str, ...] = PAPER_SOURCES
    """Any of `generative`, `retrieval`, `original`."""
    strategy: str = "defined_template"
    """Prompt strategy of the generative data: a base and modifiers, as in `defined_template+negative_prompts`."""
    shots: tuple[int, ...] = (1, 5, 20, 100, 500)
    """Images per class; the sets nest, so the largest number decides how many are made."""
    finetune: tuple[int, ...] = ()
    """Shots at which CLIP's image tower is also fine-tuned, on the machine that runs the study."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_sources(self.sources)
        Strategy.parse(self.strategy)
        check_not_empty(shots=self.shots)
        check_shots(*self.shots)
        for num in self.finetune:
            if num not in self.shots:
                raise ValueError(f"fine-tuning on {num} shots needs them among the shots; add {num} to shots")
        super().check()


def run_genbench(config: GenBenchConfig) -> Report:
    """Makes the images that the workspace lacks, scores and prices all of them, and writes the report.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(GenBench(config))


class GenBench(SourceStudy):
    """The study of the paper's section 3.1."""

    name = "genbench"
    config: GenBenchConfig

    @property
    def variants(self) -> dict[str, Variant]:
        """Source → its images, generated ones by the configured strategy."""
        self.config.check()
        return {
            source: Variant(
                source, self.config.strategy if source_kind(source).is_generated else "", max(self.config.shots)
            )
            for source in self.config.sources
        }

    def _fetched(self, workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
        """Table `fetched`, if fetched pictures are a source."""
        plans = [plan for found in self.plans.values() for plan in found.values() if isinstance(plan, FetchedPlan)]
        distinct = list({id(plan): plan for plan in plans}.values())
        return {"fetched": fetched_rows(self.config, workspace, distinct)} if distinct else {}

    def build_report(self, workspace: Workspace) -> Report:
        """Scores, costs and pictures of the study's images in the workspace."""
        bills = Bills(workspace)
        tradeoff, sheets = [], []
        for dataset in self.datasets:
            evaluation = self.evaluation_set(workspace, dataset)
            plans = {
                (source, seed): self.plans[source][dataset.name, seed]
                for source in self.plans
                for seed in self.config.seeds
            }
            rows = tradeoff_rows(evaluation, bills, plans, self.config.shots)
            if self.config.finetune and dataset.task != "multilabel":
                add_finetuned(evaluation, plans, self.config.finetune, rows)
            tradeoff += rows
            first = self.config.seeds[0]
            of_first = {source: self.plans[source][dataset.name, first] for source in self.plans}
            sheets.append(comparison_sheet(workspace, dataset, evaluation.test, of_first))
            sheets += [contact_sheet(workspace, dataset, source, plan) for source, plan in of_first.items()]
        gains = improvements(tradeoff)
        tables = {
            "tradeoff": tradeoff,
            "improvement": gains,
            **cost_tables(workspace, bills),
            **paper_tables(self.prices),
            **self._fetched(workspace),
            "errors": error_rows(workspace, self.every_plan()),
            "files": self.files(),
        }
        return Report(
            title="GenBench: accuracy and cost of generated, retrieved and original images",
            findings=tradeoff_findings(tradeoff),
            tables=tables,
            sheets=sheets,
            figures={FIGURE_2: improvement_figure(gains)},
        )
