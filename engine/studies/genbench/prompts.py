"""GenBench Table 2: what each prompt strategy is worth, and the best strategy and source for each class (section 3.2)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine.catalog import Dataset
from engine.evaluation import choose_by_class
from engine.prompts import load_sentences, strategy_name
from engine.reports import Report
from engine.reports.figures import bar_figure
from engine.reports.tables import average_over_seeds
from engine.store import Workspace
from engine.studies.config import check_not_empty
from engine.studies.image_set import Images, load_images
from engine.studies.scoring import Bills, contact_sheet, cost_tables, error_rows, scores_of, tradeoff_rows
from engine.studies.study import Study, StudyConfig, Variant, check_shots, run_study

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
BY_CLASS, SINGLE, HINDSIGHT = "best for each class", "best single", "best single in hindsight"


@dataclass(frozen=True, kw_only=True)
class PromptsConfig(StudyConfig):
    """Which strategies, on which data."""

    strategies: tuple[str, ...] = STRATEGIES
    """Prompt strategies to compare, each a base and modifiers joined by `+`."""
    shots: int = 20
    """Generated images a class that are scored."""
    pilot_shots: int = 5
    """The first so many of them that the choice for each class is made from."""
    validation_shots: int = 5
    """Original training images a class that the choice is made on; 0 leaves the choice out."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed draws its own generated images, and its own original ones to choose on."""

    def check(self) -> None:
        """Raises ValueError, one sentence, for what no run could honour."""
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
    """Makes what the workspace lacks, compares the strategies, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to mend it.
    """
    return run_study(PromptStudy(config))


class PromptStudy(Study):
    """Every strategy at the same shots; retrieved images beside them as another candidate for a class."""

    config: PromptsConfig

    @cached_property
    def left_out(self) -> str:
        """Why Category Enhancement is left out: its model is not at hand; empty if it is, or nobody asked for it.

        A sentence model that is named as anything but the default one must load.
        """
        if not any("category_enhancement" in name.split("+") for name in self.config.strategies):
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
        """Strategy → its images; `retrieval`; `original` where there is something to choose."""
        self.config.check()
        names = [strategy_name(name) for name in self.config.strategies]
        if self.left_out:
            names = [name for name in names if "category_enhancement" not in name.split("+")]
            check_not_empty(strategies=tuple(names))
        found = {name: Variant("generative", name, self.config.shots) for name in names}
        found["retrieval"] = Variant("retrieval", "", self.config.shots)
        if self.config.validation_shots:
            found["original"] = Variant("original", "", self.config.validation_shots)
        return found

    def report(self, workspace: Workspace) -> Report:
        """Table 2, the choice for each class and what it is worth."""
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
            rows = tradeoff_rows(
                workspace,
                bills,
                dataset,
                self.encoder.name,
                self.texts(dataset),
                self.test_plans[dataset.name],
                plans,
                [self.config.shots],
                self.config.probe,
            )
            for (name, _), row in zip(plans, rows, strict=True):
                row["source"], row["strategy"] = self.variants[name].source, self.variants[name].strategy
            scored += rows
            by_name = {(name, row["seed"]): row for (name, _), row in zip(plans, rows, strict=True)}
            if self.config.validation_shots and dataset.task != "multilabel":
                for seed in self.config.seeds:
                    chosen, of_classes = self._choose(workspace, dataset, seed, candidates, by_name)
                    choices += chosen
                    classes += of_classes
            sheets += [
                replace(
                    contact_sheet(workspace, dataset, name, plans[name, self.config.seeds[0]]),
                    source=self.variants[name].source,
                )
                for name in candidates
            ]
        tables = {
            "table_2": table_2(scored),
            "choice": average_over_seeds(choices),
            "choice_by_class": choice_by_class(classes, len(self.config.seeds)),
            "tradeoff": scored,
            "choices": choices,
            **cost_tables(workspace, bills),
            "errors": error_rows(workspace, self.every_plan()),
            "files": self.files(),
        }
        figures = {}
        for group in dict.fromkeys(row["group"] for row in scored):
            bars, spread = _bars([row for row in scored if row["group"] == group])
            caption = f"CLER of {self.config.shots} shots, {group}; bars are one standard deviation over seeds."
            figures[caption] = bar_figure(bars, spread=spread, title=str(group), label="CLER (%)")
        return Report(
            title="GenBench: prompt strategies",
            tables={name: rows for name, rows in tables.items() if rows},
            sheets=sheets,
            figures=figures,
            notes=self._notes(choices),
        )

    def _choose(
        self,
        workspace: Workspace,
        dataset: Dataset,
        seed: int,
        candidates: Sequence[str],
        scored: dict[tuple[str, int], dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Scores of the choice and of the single candidates it is compared with; what each class takes."""
        config, num_classes = self.config, len(dataset.class_names)
        load = lambda plan: load_images(workspace, self.encoder.name, plan, len(plan))  # noqa: E731
        images = {name: load(self.plans[name][dataset.name, seed]) for name in candidates}
        validation = load(self.plans["original"][dataset.name, seed])
        pilot_of = {name: images[name].first(config.pilot_shots * num_classes) for name in candidates}
        # a strategy whose prompts the generator could not take has no images to choose or to score
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
        test_plan = self.test_plans[dataset.name]
        test = load_images(workspace, self.encoder.name, test_plan, len(test_plan))
        single = candidates[choice.best_single]
        hindsight = max(candidates, key=lambda name: scored[name, seed]["cler"])
        where = {
            "group": dataset.group,
            "dataset": dataset.name,
            "source": "mixed",
            "shots": config.shots,
            "seed": seed,
        }
        columns = ("zero_shot", "cler", "cler_ensemble", "linear_probe", "images")
        of_choice = scores_of(dataset, self.texts(dataset), test, mixed, seed, config.probe) | {
            "images": len(mixed.ids)
        }
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
        notes.append("Table 2: CLER in percent, mean ± standard deviation over seeds; * the best mean of a column.")
        if not choices:
            return notes
        gain = gains(choices)
        spread = f" ± {statistics.stdev(gain):.2f}" if len(gain) > 1 else ""
        return [
            *notes,
            f"The choice: each class takes the strategy or the retrieved images whose first {config.pilot_shots} "
            f"recognise {config.validation_shots} original training images a class best (CLER's centres); test images "
            f"take no part. All rows have {config.shots} shots. '{HINDSIGHT}' is chosen on the test images: a bound, no method.",
            f"Best for each class less best single: {statistics.fmean(gain):+.2f}{spread} points of CLER, "
            f"mean over data sets, {len(gain)} seeds; {sum(each > 0 for each in gain)} of them positive.",
        ]


def mix(sets: Sequence[Images], chosen: np.ndarray) -> Images:
    """Of each class the images of the set that it chose; `chosen`: `[C]`."""
    parts = [images.where(chosen[images.classes] == number) for number, images in enumerate(sets)]
    return join(parts)


def join(parts: Sequence[Images]) -> Images:
    """All images of several sets of one data set; those with several labels count for the class they were bought for."""
    parts = [part for part in parts if len(part.ids)]
    classes = np.concatenate([part.classes for part in parts])
    return Images(
        ids=[name for part in parts for name in part.ids],
        indices=np.arange(len(classes)),
        classes=classes,
        labels=classes,
        features=np.concatenate([part.features for part in parts]),
    )


def table_2(rows: Sequence[dict[str, Any]], column: str = "cler") -> list[dict[str, Any]]:
    """A row a strategy, a column a data set and their mean: `mean ± sd` over seeds in percent, the best marked."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row[column] is not None:
            cells = values.setdefault(row["strategy"] or row["source"], {name: [] for name in [*datasets, "mean"]})
            cells[row["dataset"]].append(100 * row[column])
    for cells in values.values():
        cells["mean"] = [statistics.fmean(each) for each in zip(*(cells[name] for name in datasets), strict=False)]
    best = {
        name: max((statistics.fmean(cells[name]) for cells in values.values() if cells[name]), default=None)
        for name in [*datasets, "mean"]
    }
    return [
        {"strategy": strategy} | {name: _cell(cells[name], best[name]) for name in [*datasets, "mean"]}
        for strategy, cells in values.items()
    ]


def _cell(values: Sequence[float], best: float | None) -> str:
    if not values:
        return "–"
    mean = statistics.fmean(values)
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}{' *' if mean == best else ''}"


def choice_by_class(rows: Sequence[dict[str, Any]], num_seeds: int) -> list[dict[str, Any]]:
    """For each class what was chosen, most often first, with the number of seeds."""
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
    """Points that the choice for each class is better than the best single one, a number a seed, mean over data sets."""
    by_seed: dict[int, list[float]] = {}
    value = {(row["dataset"], row["seed"], row["strategy"]): row[column] for row in choices}
    for (dataset, seed, strategy), score in value.items():
        if strategy == BY_CLASS:
            by_seed.setdefault(seed, []).append(100 * (score - value[dataset, seed, SINGLE]))
    return [statistics.fmean(each) for each in by_seed.values()]


def _bars(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """CLER in percent, mean over data sets and seeds, and its standard deviation over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["cler"] is not None:
            name = (row["strategy"] or row["source"]).replace("defined_template+", "DT, ").replace("_", " ")
            values.setdefault(name, {}).setdefault(row["seed"], []).append(100 * row["cler"])
    seeds = {name: [statistics.fmean(each) for each in found.values()] for name, found in values.items()}
    return (
        {name: statistics.fmean(each) for name, each in seeds.items()},
        {name: statistics.stdev(each) if len(each) > 1 else 0.0 for name, each in seeds.items()},
    )
