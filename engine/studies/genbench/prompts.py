"""GenBench Table 2: accuracy by prompt strategy, and the best strategy or source for each class (section 3.2)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.evaluation import choose_by_class
from engine.evaluation.metrics import CLER, Metric, tradeoff_metrics
from engine.prompts import Strategy, load_sentences, strategy_name
from engine.prompts.negative_prompts import NEGATIVE_PROMPTS
from engine.reports import Report
from engine.reports.aggregate import mean_and_sd, with_sd
from engine.reports.comparisons import by_series, dot_figure
from engine.reports.figures import bar_figure
from engine.reports.headings import strategy_words
from engine.reports.tables import average_over_seeds
from engine.store import Workspace
from engine.studies.base import run_study
from engine.studies.config import check_not_empty
from engine.studies.findings import ranking_findings
from engine.studies.image_set import Images
from engine.studies.scoring import (
    Bills,
    EvaluationSet,
    cost_tables,
    error_rows,
    improvement_figure,
    improvements,
    is_generated,
    scores_of,
    tradeoff_rows,
)
from engine.studies.sheets import comparison_sheet
from engine.studies.study import SourceStudy, StudyConfig
from engine.studies.variants import Variant, check_shots

STRATEGIES = (
    "simple_template",
    "category_enhancement",
    "defined_template",
    "defined_template+negative_prompts",
    "defined_template+restrictive_description",
    "defined_template+negative_prompts+restrictive_description",
    "defined_template+retrieval_augmented",
)
"""Rows of Table 2 (the third is `DT`, then `w/ NP`, `w/ RD`, `w/ NP, RD`), and the retrieval-augmented ones of section 3.2."""
FIGURE_2_BEST = (
    "GenBench Figure 2: gain over zero-shot of each data set's best strategy (chosen on the test set, as in the paper)."
)
BY_CLASS, SINGLE, HINDSIGHT = "best for each class", "best single", "best single in hindsight"


@dataclass(frozen=True, kw_only=True)
class PromptsConfig(StudyConfig):
    """Strategies and data to compare."""

    strategies: tuple[str, ...] = STRATEGIES
    """Prompt strategies to compare, each a base and modifiers joined by `+`."""
    shots: int = 20
    """Generated images per class that are scored."""
    pilot_shots: int = 5
    """Number of these images, from the first on, that choose the strategy of each class."""
    validation_shots: int = 5
    """Original training images per class that the choice is validated on; 0 leaves the choice out."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed generates its own images, and samples its own original images to choose on."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_not_empty(strategies=self.strategies)
        names = [strategy_name(name) for name in self.strategies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"prompt strategy {name} is given twice; give it once")
        check_shots(self.shots, self.pilot_shots)
        if self.pilot_shots > self.shots:
            raise ValueError(f"the pilot's {self.pilot_shots} shots are more than the {self.shots} scored; give fewer")
        if self.validation_shots < 0:
            raise ValueError(f"validation shots {self.validation_shots} is negative; give 0 or more")
        super().check()


def run_prompts(config: PromptsConfig) -> Report:
    """Makes the images that the workspace lacks, compares the strategies, and writes the report.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(PromptStudy(config))


class PromptStudy(SourceStudy):
    """Every strategy at the same shots, and retrieved images as one more candidate for each class."""

    name = "prompts"
    config: PromptsConfig

    @cached_property
    def left_out(self) -> str:
        """Reason to leave out strategies that need sentences, if their model cannot be loaded; empty otherwise.

        A sentence model other than the default one must load.
        """
        if not any(Strategy.parse(name).needs_sentences for name in self.config.strategies):
            return ""
        try:
            for dataset in self.datasets:
                load_sentences(dataset, self.config.sentence_model)
        except ValueError as error:
            if self.config.sentence_model != StudyConfig.sentence_model:
                raise
            return f"category_enhancement is left out: {error}, or give --sentence-model a folder."
        return ""

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """Strategy → its images; `retrieval`; `original` if there is a choice to validate.

        Where a generator needs more guidance for negative prompts than it has by default, the same strategy without them is also
        made at that guidance, since their difference at two guidances is mostly that of the guidances.
        """
        self.config.check()
        names = [strategy_name(name) for name in self.config.strategies]
        if self.left_out:
            names = [name for name in names if not Strategy.parse(name).needs_sentences]
            check_not_empty(strategies=tuple(names))
        found: dict[str, Variant] = {}
        for name in names:
            if twin := self._at_equal_guidance(name):
                found[f"{twin.strategy} (guidance {twin.guidance_scale:g})"] = twin
            found[name] = Variant("generative", name, self.config.shots)
        found["retrieval"] = Variant("retrieval", "", self.config.shots)
        if self.config.validation_shots:
            found["original"] = Variant("original", "", self.config.validation_shots)
        return found

    def _at_equal_guidance(self, name: str) -> Variant | None:
        """The strategy without its negative prompts, at the guidance that these bring; None if they bring none of their own."""
        parts = [part.name for part in Strategy.parse(name).parts]
        scale = self.generator.negative_guidance_scale
        if NEGATIVE_PROMPTS.name not in parts or not scale or scale == self.generator.guidance_scale:
            return None
        parts.remove(NEGATIVE_PROMPTS.name)
        return Variant("generative", "+".join(parts), self.config.shots, scale)

    def build_report(self, workspace: Workspace) -> Report:
        """Table 2, the choice for each class and its accuracy."""
        bills = Bills(workspace)
        scored: list[dict[str, Any]] = []
        choices: list[dict[str, Any]] = []
        classes: list[dict[str, Any]] = []
        sheets = []
        candidates = [name for name in self.variants if name != "original"]
        for dataset in self.datasets:
            plans = {
                (name, seed): self.plans[name][dataset.name, seed] for name in candidates for seed in self.config.seeds
            }
            evaluation = self.evaluation_set(workspace, dataset)
            rows = tradeoff_rows(evaluation, bills, plans, [self.config.shots])
            for (name, _), row in zip(plans, rows, strict=True):
                variant = self.variants[name]
                row["source"], row["strategy"] = variant.source, name if variant.is_generated else variant.strategy
            scored += rows
            by_name = {(name, row["seed"]): row for (name, _), row in zip(plans, rows, strict=True)}
            if self.config.validation_shots and dataset.task != "multilabel":
                for seed in self.config.seeds:
                    eligible = [name for name in candidates if self.variants[name].guidance_scale is None]
                    chosen, of_classes = self._choose(evaluation, seed, eligible, by_name)
                    choices += chosen
                    classes += of_classes
            of_first = {name: plans[name, self.config.seeds[0]] for name in candidates}
            sheets.append(comparison_sheet(workspace, dataset, evaluation.test, of_first))
        best = best_by_dataset(scored)
        tables = {
            "table_2": table_2(scored),
            "figure_2": best,
            "choice": average_over_seeds(choices),
            "choice_by_class": choice_by_class(classes, len(self.config.seeds)),
            "tradeoff": scored,
            "choices": choices,
            **cost_tables(workspace, bills),
            "errors": error_rows(workspace, self.every_plan()),
            "files": self.files(),
        }
        figures = {FIGURE_2_BEST: improvement_figure(best)} if best else {}
        for group in dict.fromkeys(row["group"] for row in scored):
            bars, spread = _bars([row for row in scored if row["group"] == group])
            caption = f"GenBench Table 2, {group}: CLER at {self.config.shots} shots; bars are one standard deviation over seeds."
            figures[caption] = bar_figure(bars, spread=spread, title=str(group), label="CLER (%)")
        figures |= choice_figure(choices)
        generated = [row for row in scored if is_generated(row)]
        ranking = ranking_findings(generated, "strategy", "cler", "prompt strategy", "CLER")
        return Report(
            title="GenBench: prompt strategies",
            findings=[*ranking[: 1 if choices else 2], *choice_findings(choices)],
            tables={name: rows for name, rows in tables.items() if rows},
            sheets=sheets,
            figures=figures,
            notes=self._notes(choices),
        )

    def _choose(
        self,
        evaluation: EvaluationSet,
        seed: int,
        candidates: Sequence[str],
        scored: dict[tuple[str, int], dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Scores of the choice and of the single candidates that it is compared with; the candidate of each class."""
        config, dataset = self.config, evaluation.dataset
        num_classes = len(dataset.class_names)
        plans = {name: self.plans[name][dataset.name, seed] for name in (*candidates, "original")}
        images = {name: evaluation.load(plan, len(plan)) for name, plan in plans.items()}
        validation = images.pop("original")
        pilot_of = {name: images[name].first(config.pilot_shots * num_classes) for name in candidates}
        # a strategy whose prompts the generator refused has no images to choose or to score
        candidates = [name for name in candidates if len(pilot_of[name].ids) and scored[name, seed]["cler"] is not None]
        if not candidates:
            return [], []
        pilots = [pilot_of[name] for name in candidates]
        choice = choose_by_class(
            [(pilot.features, pilot.classes) for pilot in pilots],
            validation.features,
            validation.classes,
            num_classes=num_classes,
        )
        mixed = mix([images[name] for name in candidates], choice.chosen.numpy())
        single = candidates[choice.best_single]
        hindsight = max(candidates, key=lambda name: scored[name, seed]["cler"])
        where = {
            "group": dataset.group,
            "dataset": dataset.name,
            "source": "mixed",
            "shots": config.shots,
            "seed": seed,
        }
        columns = [*(metric.name for metric in tradeoff_metrics() if metric.compute), "images"]
        of_choice = scores_of(evaluation, mixed, seed) | {"images": len(mixed.ids)}
        found = [where | {"strategy": BY_CLASS} | {name: of_choice[name] for name in columns}]
        for label, name in ((SINGLE, single), (HINDSIGHT, hindsight)):
            row = scored[name, seed]
            found.append(where | {"strategy": label} | {column: row[column] for column in columns})
        of_classes = [
            {"dataset": dataset.name, "class_name": dataset.class_names[label], "chosen": candidates[number]}
            for label, number in enumerate(choice.chosen.tolist())
        ]
        return found, of_classes

    def _notes(self, choices: Sequence[dict[str, Any]]) -> list[str]:
        config = self.config
        notes = [self.left_out] if self.left_out else []
        notes.append(
            "Table 2: CLER in percent, mean ± standard deviation over seeds; * marks the best mean of a column."
        )
        if any(variant.guidance_scale is not None for variant in self.variants.values()):
            notes.append(
                "Negative prompts have an effect under guidance alone, so compare them with the row of the same guidance; "
                "rows with a guidance in brackets are not candidates of the choice."
            )
        if not choices:
            return notes
        return [
            *notes,
            f"'{BY_CLASS}': each class takes the strategy (or the retrieved images) whose first {config.pilot_shots} images "
            f"best recognise {config.validation_shots} original training images per class by CLER's centres; test images "
            f"are not used. All rows have {config.shots} shots. '{HINDSIGHT}' is an upper bound chosen on the test set, not a "
            "usable method.",
        ]


def best_by_dataset(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gain over zero-shot of each data set's best generated strategy by mean CLER, the largest first (GenBench Fig. 2, left).

    As in the paper, the strategy is the one with the best test score, so the gain is an upper bound.
    """
    averaged = [
        row for row in average_over_seeds([row for row in rows if is_generated(row)]) if row["cler"] is not None
    ]
    strategies = {
        dataset: max((row for row in averaged if row["dataset"] == dataset), key=lambda row: row["cler"])["strategy"]
        for dataset in dict.fromkeys(row["dataset"] for row in averaged)
    }
    return improvements([row for row in rows if row["strategy"] == strategies.get(row["dataset"])])


def mix(sets: Sequence[Images], chosen: np.ndarray) -> Images:
    """The images of each class from the set that it chose; `chosen`: `[C]`."""
    parts = [images.where(chosen[images.classes] == number) for number, images in enumerate(sets)]
    return join(parts)


def join(parts: Sequence[Images]) -> Images:
    """All images of several sets of one data set; an image with several labels counts for the class it was bought for."""
    parts = [part for part in parts if len(part.ids)]
    classes = np.concatenate([part.classes for part in parts])
    return Images(
        ids=[name for part in parts for name in part.ids],
        indices=np.arange(len(classes)),
        classes=classes,
        labels=classes,
        features=np.concatenate([part.features for part in parts]),
    )


def table_2(rows: Sequence[dict[str, Any]], metric: Metric = CLER) -> list[dict[str, Any]]:
    """One row per strategy, one column per data set and their mean: `mean ± sd` over seeds in percent, the best marked."""
    better = max if metric.higher_is_better else min
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row[metric.name] is not None:
            cells = values.setdefault(row["strategy"] or row["source"], {name: [] for name in [*datasets, "mean"]})
            cells[row["dataset"]].append(100 * row[metric.name])
    for cells in values.values():
        cells["mean"] = [statistics.fmean(each) for each in zip(*(cells[name] for name in datasets), strict=False)]
    best = {
        name: better((statistics.fmean(cells[name]) for cells in values.values() if cells[name]), default=None)
        for name in [*datasets, "mean"]
    }
    return [
        {"strategy": strategy} | {name: _cell(cells[name], best[name]) for name in [*datasets, "mean"]}
        for strategy, cells in values.items()
    ]


def _cell(values: Sequence[float], best: float | None) -> str:
    if not values:
        return "–"
    return with_sd(values, 1) + (" *" if statistics.fmean(values) == best else "")


def choice_by_class(rows: Sequence[dict[str, Any]], num_seeds: int) -> list[dict[str, Any]]:
    """The candidates that each class chose, most often first, with the number of seeds."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["class_name"]), []).append(row["chosen"])
    return [
        {
            "dataset": dataset,
            "class_name": name,
            "chosen": ", ".join(
                f"{each} ({chosen.count(each)} of {num_seeds})"
                for each in sorted(set(chosen), key=lambda each: (-chosen.count(each), each))
            ),
        }
        for (dataset, name), chosen in found.items()
    ]


def gains(choices: Sequence[dict[str, Any]], column: str = "cler") -> list[float]:
    """Percentage points by which the choice for each class exceeds the best single candidate: one per seed, mean over data sets."""
    by_seed: dict[int, list[float]] = {}
    value = {(row["dataset"], row["seed"], row["strategy"]): row[column] for row in choices}
    for (dataset, seed, strategy), score in value.items():
        if strategy == BY_CLASS:
            by_seed.setdefault(seed, []).append(100 * (score - value[dataset, seed, SINGLE]))
    return [statistics.fmean(each) for each in by_seed.values()]


def choice_findings(choices: Sequence[dict[str, Any]]) -> list[str]:
    """The gain of the choice for each class in one sentence; none without choices."""
    gain = gains(choices)
    if not gain:
        return []
    return [
        f"Best for each class less best single: {with_sd(gain, 2, '+')} points of CLER, mean over data sets; "
        f"positive for {sum(each > 0 for each in gain)} of {len(gain)} seeds."
    ]


def choice_figure(choices: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Caption → CLER of the choice for each class beside the single candidates, by data set; none without choices."""
    picture = dot_figure(
        by_series(choices, "dataset", "strategy", "cler", 100.0), title="Choice for each class", label="CLER (%)"
    )
    caption = (
        "The strategy chosen for each class, beside the best single one; bars are one standard deviation over seeds."
    )
    return {caption: picture} if picture else {}


def _bars(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """CLER in percent, mean over data sets and seeds, and its standard deviation over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["cler"] is not None:
            name = strategy_words(row["strategy"] or row["source"])
            values.setdefault(name, {}).setdefault(row["seed"], []).append(100 * row["cler"])
    seeds = {name: [statistics.fmean(each) for each in by_seed.values()] for name, by_seed in values.items()}
    found = {name: mean_and_sd(each) for name, each in seeds.items()}
    return {name: mean or 0.0 for name, (mean, _) in found.items()}, {
        name: sd or 0.0 for name, (_, sd) in found.items()
    }
