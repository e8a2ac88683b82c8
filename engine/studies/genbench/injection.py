"""GenBench section 4: external knowledge by Textual Inversion (Table 3, Figures 7, 8, 11 and 12).

What scores the images never saw a reference: CLER and the linear probe are scored on test images, and the judge's probe is fitted on
training images that are references of no seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from engine.catalog import Dataset
from engine.models import ImageEncoder
from engine.models.lazy import LazyEncoder
from engine.models.reach import check_encoder
from engine.prompts import Strategy
from engine.recipe import Recipe
from engine.reports import Report
from engine.reports.comparisons import by_series, dot_figure
from engine.sources import OriginalPlan, Plan
from engine.sources.injected import InjectedPlan, TokenRef
from engine.store import Workspace
from engine.studies.base import Phase, run_study
from engine.studies.config import check_not_empty, check_place
from engine.studies.genbench.injection_rows import (
    NONE,
    InjectionScores,
    TokenJudge,
    by_knowledge,
    claims,
    class_rows,
    figure_8_rows,
    table_3,
    token_rows,
)
from engine.studies.genbench.injection_sheets import figure_7, figure_8, figure_11
from engine.studies.injection import REFERENCES, InjectionSettings
from engine.studies.scoring import Bills, cost_tables, error_rows
from engine.studies.study import SourceStudy, StudyConfig
from engine.studies.variants import Variant, check_shots

if TYPE_CHECKING:
    from engine.dataflow.run import Run

JUDGE_SEED = 1 << 40
"""Seed of the judge's training images, which no study's seeds reach by counting."""


@dataclass(frozen=True, kw_only=True)
class InjectionConfig(StudyConfig):
    """References, shots, and what judges the images."""

    references: tuple[str, ...] = REFERENCES
    """Sources of the images that tokens are learned from: `retrieval`, `original`."""
    strategy: str = "defined_template"
    """Prompt strategy of all generated images; with tokens, the token takes the place of the class name."""
    shots: tuple[int, ...] = (5, 100)
    """Generated images per class (GenBench Table 3); leave empty to learn tokens and generate nothing."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed has its own original references, fits and images."""
    inject: InjectionSettings = field(default_factory=InjectionSettings)
    """References and fit of the tokens."""
    judge: str = "mini-judge"
    """Another encoder: a probe on its features of training images that are no references decides if an image shows its class; empty for none."""
    judge_images: int = 60
    """Training images per class for that probe."""
    judged_shots: int = 10
    """Generated images per class that are judged."""
    low_resolution: int = 8
    """Pixels per side to which originals are shrunk for Figure 8, on the smallest data set and the first seed; 0 leaves it out."""
    tokens: Path | None = None
    """Folder to write the tokens to, as safetensors that diffusers' `load_textual_inversion` reads."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_not_empty(references=self.references)
        for name in self.references:
            InjectionSettings(references=cast("Any", name)).check()
        Strategy.parse(self.strategy)
        check_shots(*self.shots, self.judge_images, self.judged_shots)
        if self.low_resolution < 0:
            raise ValueError(f"low_resolution is {self.low_resolution}; give pixels, or 0 to leave Figure 8 out")
        if self.judge:
            check_encoder(self.judge)
        if self.tokens is not None:
            check_place("tokens", self.tokens)
        super().check()


def run_injection(config: InjectionConfig) -> Report:
    """Reads references, learns tokens, generates with and without them, and writes the report; finished work is skipped.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(InjectionStudy(config))


class InjectionStudy(SourceStudy):
    """Table 3: generated images without external knowledge, and with tokens learned from each source of references."""

    name = "inject"
    config: InjectionConfig

    def __init__(self, config: InjectionConfig):
        super().__init__(config)
        self.low: list[TokenRef | None] = []
        """Tokens of Figure 8, learned from shrunken references."""

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """`none`, then one per source of references."""
        self.config.check()
        config, shots = self.config, max(self.config.shots, default=1)
        return {NONE: Variant("generative", config.strategy, shots)} | {
            source: Variant("injected", config.strategy, shots, references=source) for source in config.references
        }

    def check(self) -> None:
        """Checks every name and file that the run will need, and that there are originals for references and judge."""
        super().check()
        _ = self.judge_plans if self.config.judge else None
        for dataset in self.datasets:
            for seed in self.config.seeds if "original" in self.config.references else ():
                self.reference_recipes(dataset, seed)

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Training images are references, and what the judge learns from."""
        return "train", "test"

    @cached_property
    def judge(self) -> ImageEncoder:
        """The judge's encoder."""
        return LazyEncoder(self.config.judge)

    @cached_property
    def judge_plans(self) -> dict[str, list[Recipe]]:
        """Data set → training images that are references of no seed, up to `judge_images` per class."""
        found = {}
        for dataset in self.datasets:
            taken: set[str] = set()
            if "original" in self.config.references:
                taken = {one.id for seed in self.config.seeds for one in self.reference_recipes(dataset, seed)}
            most = self.config.judge_images + self.config.inject.originals * len(self.config.seeds)
            plan = OriginalPlan(dataset, most, JUDGE_SEED, allow_fewer=True)
            chosen: dict[int, list[Recipe]] = {number: [] for number in range(plan.num_classes)}
            for recipe in (plan[index] for index in range(len(plan))):
                if recipe.id not in taken and len(chosen[recipe.class_index]) < self.config.judge_images:
                    chosen[recipe.class_index].append(recipe)
            if short := [dataset.class_names[number] for number, each in chosen.items() if not each]:
                raise ValueError(
                    f"{dataset.name} has no training image of class {short[0]!r} beside the references, and the judge must not see those; "
                    "lower --inject.originals, or leave the judge out with --judge ''"
                )
            found[dataset.name] = [recipe for each in chosen.values() for recipe in each]
        return found

    def phases(self) -> Iterator[Phase]:
        """References, tokens, images, and what the judge must embed."""
        yield "references", self._fill_references
        yield "tokens", self._learn
        if self.config.shots:
            yield "images", self._fill
            if self.config.judge:
                yield "judge", self._judge

    def _learn(self, run: "Run") -> None:
        self.injector.learn(run)
        self._learn_low(run)
        if self.config.tokens is not None:
            write_tokens(run.workspace, self.injector.sets, self.config.tokens)

    @property
    def _low_dataset(self) -> Dataset | None:
        """The data set of Figure 8: the one of the fewest classes."""
        wanted = self.config.low_resolution and self.config.shots and "original" in self.config.references
        return min(self.datasets, key=lambda each: len(each.class_names)) if wanted else None

    def _learn_low(self, run: "Run") -> None:
        from engine.dataflow.inversion import TokenJob, learn_tokens
        from engine.models.inversion.tokens import token_names

        dataset, seed = self._low_dataset, self.config.seeds[0]
        if dataset is None:
            return
        references = self.injector.sets[dataset.name, seed, "original"].references
        names = token_names(dataset.name, dataset.class_names)
        jobs = {
            number: TokenJob(
                *(dataset.name, number, dataset.class_names[number], names[number], "original", seed),
                ids,
                tuple(dataset.templates),
                self.config.low_resolution,
            )
            for number, ids in enumerate(references)
            if ids
        }
        learned = dict(
            zip(jobs, learn_tokens(run, self.generator, self.injector.fit, list(jobs.values())), strict=True)
        )
        self.low = [learned.get(number) for number in range(len(names))]

    @property
    def low_plan(self) -> InjectedPlan | None:
        """Images of Figure 8."""
        dataset = self._low_dataset
        if dataset is None or not self.low:
            return None
        shots = min(max(self.config.shots), self.config.judged_shots)
        return InjectedPlan(
            dataset, self.generator, self.config.strategy, shots, self.config.seeds[0], self.materials, tokens=self.low
        )

    @property
    def generated_plans(self) -> list[Plan]:
        """Plans of all generated images, those of Figure 8 included."""
        return [*super().generated_plans, *([self.low_plan] if self.low_plan else [])]

    def every_plan(self) -> list[Plan]:
        """All plans; generated images only if shots are wanted."""
        read: list[Plan] = [*self.test_plans.values(), self.injector.reference_plan()]
        read += list(self.judge_plans.values()) if self.config.judge and self.config.shots else []
        return [*read, *(self.generated_plans if self.config.shots else [])]

    def _judge(self, run: "Run") -> None:
        from engine.dataflow.stages import Embed

        learnt = [recipe for plan in self.judge_plans.values() for recipe in plan]
        run.fill("judge's images", learnt, self._corpus_maker(), [Embed.of(self.judge)])
        # a class without a token is generated by its name, so two plans may share an image
        judged = dict.fromkeys(one for plan in self.generated_plans for one in self.judged_ids(plan))
        run.embed(self.judge, list(judged))

    def judged_ids(self, plan: Any) -> list[str]:
        """Ids of the first `judged_shots` images of each class of a plan."""
        return [plan[index].id for index in range(plan.num_recipes(self.config.judged_shots))]

    def build_report(self, workspace: Workspace) -> Report:
        """Table 3, its figures as contact sheets, the tokens, and the costs."""
        tokens = token_rows(workspace, self.injector.sets)
        bills = Bills(workspace)
        shared = {
            **cost_tables(workspace, bills),
            "errors": error_rows(workspace, self.every_plan()),
            "files": self.files(),
        }
        title = "GenBench section 4: external knowledge by Textual Inversion"
        if not self.config.shots:
            return Report(title=title, tables={"tokens": tokens, **shared})
        scores = InjectionScores(self, workspace, bills)
        rows: list[dict[str, Any]] = []
        classes: list[dict[str, Any]] = []
        sheets = []
        for dataset in self.datasets:
            evaluation = self.evaluation_set(workspace, dataset)
            judge = self._judge_of(workspace, dataset)
            rows += scores.rows(evaluation, judge)
            classes += class_rows(self, workspace, dataset, judge)
            sheets.append(figure_7(self, workspace, dataset))
            sheets.append(figure_11(self, workspace, dataset))
        low = figure_8_rows(self, scores, self.low_plan, self._low_dataset, workspace)
        if self.low_plan and self._low_dataset:
            sheets.append(figure_8(self, workspace, self._low_dataset, self.low_plan))
        known = by_knowledge(classes)
        tables = {
            "table_3": table_3(rows),
            **({"injection_by_knowledge": known} if known else {}),
            **({"figure_8": low} if low else {}),
            "injection": rows,
            "tokens": tokens,
            "injection_by_class": classes,
            **shared,
        }
        most = max(self.config.shots)
        caption = (
            f"GenBench Table 3: CLER at {most} shots by external knowledge; bars are one standard deviation over seeds."
        )
        compared = by_series((row for row in rows if row["shots"] == most), "dataset", "knowledge", "cler", 100.0)
        return Report(
            title=title,
            findings=claims(rows),
            tables=tables,
            figures={caption: dot_figure(compared, title="CLER by external knowledge", label="CLER (%)")},
            sheets=sheets,
            notes=self._notes(),
        )

    def _judge_of(self, workspace: Workspace, dataset: Dataset) -> TokenJudge | None:
        if not self.config.judge:
            return None
        return TokenJudge.of(workspace, self.judge.name, dataset, self.judge_plans[dataset.name])

    def _notes(self) -> list[str]:
        kept = [(key, each.tokens) for key, each in self.injector.sets.items() if key[2] == "retrieval"]
        without = sum(token is None for _, tokens in kept for token in tokens)
        total = sum(len(tokens) for _, tokens in kept)
        lines = [
            "± is the standard deviation over seeds: other references, fits and noise. Retrieved references are the same for every seed.",
            "Dollars are busy dollars of all that the images needed: references (the rejected ones too) with their labels, fits, and generation.",
        ]
        if without:
            lines.append(
                f"{without} of {total} tokens (class and seed) were not learned from retrieved images, since fewer than "
                f"{self.config.inject.least_retrieved} of them passed the filter; those classes are generated by their names."
            )
        return lines


def write_tokens(workspace: Workspace, sets: Any, folder: Path) -> int:
    """Writes the tokens of a study below `folder`, as DATASET/SOURCE-SEED/CATEGORY.safetensors; returns their number."""
    from engine.store.rows import quote

    wanted = [(key, token) for key, each in sets.items() for token in each.tokens if token]
    if not wanted:
        return 0
    hashes = ", ".join(quote(one) for one in sorted({token.fitted_from for _, token in wanted}))
    rows = {row["fitted_from"]: row for row in workspace.read("tokens", f"fitted_from IN ({hashes})").to_pylist()}
    for (dataset, seed, source), token in wanted:
        category = token.name.strip("<|>").removeprefix(f"{dataset.lower()} ")
        safe = "".join(letter if letter.isalnum() or letter in " .-" else "_" for letter in category)
        place = folder / dataset / f"{source}-{seed}" / f"{safe}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(rows[token.fitted_from]["weights"])
    return len(wanted)
