"""Accuracy per dollar: the source and the number of shots of each class that a budget should buy, and the accuracy it reaches.

`allocation` describes the method. This study makes the pilot, decides on the purchase, makes it, and scores it on the test images
beside purchases of one source alone for the same dollars. Test images take no part in any decision.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.catalog import Dataset
from engine.costs import totals
from engine.prompts import Strategy
from engine.recipe import Recipe
from engine.reports import Report
from engine.reports.tables import average_over_seeds, format_usd
from engine.sources import Maker, Plan, plan_ids
from engine.sources.kinds import PAPER_SOURCES, source_kind
from engine.store import Workspace
from engine.studies.base import run_study
from engine.studies.genbench.allocation import (
    Curve,
    Option,
    allocate,
    errors_of,
    fit_curve,
    leave_one_out_errors,
    options_of,
    spread_evenly,
    worth_keeping,
)
from engine.studies.genbench.budget_report import (
    EVERYWHERE,
    PLANNED,
    Purchase,
    allocation_by_source,
    allocation_rows,
    bought_in_words,
    notes,
    spending_figures,
    summarise_spending,
    verdict,
)
from engine.studies.genbench.prompts import join
from engine.studies.genbench.shots import first_of_each, shot_numbers
from engine.studies.image_set import Images, load_images
from engine.studies.injection import TokenSet, fit_usd
from engine.studies.scoring import Bills, EvaluationSet, cost_tables, error_rows, scores_of
from engine.studies.study import SourceStudy, StudyConfig
from engine.studies.variants import Variant, check_shots, check_sources


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(StudyConfig):
    """The budget, and the size of the pilot."""

    budget_usd: float = 10.0
    """US dollars for the images of all data sets together, the pilot and its labels included; test images are free."""
    sources: tuple[str, ...] = PAPER_SOURCES
    """Sources of images to buy, `original` among them, on which the pilot tests the others; `injected` learns tokens, and pays for them."""
    strategy: str = "defined_template"
    """Prompt strategy of the generative data."""
    pilot_shots: int = 20
    """Images per class of each cheap source in the pilot."""
    pilot_originals: int = 2
    """Labelled originals per class in the pilot; they are bought, and trained on afterwards."""
    max_shots: int = 100
    """Most images per class from any one source."""
    compare: bool = True
    """Also buy images of each single source for the same dollars, and score them beside the plan."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed generates and samples its own images, and makes its own decision."""

    @property
    def reference_originals(self) -> int:
        """Labelled originals per class that tokens are learned from. They come after those that test the pilot, which must not know them."""
        learned = "injected" in self.sources and self.inject.references == "original"
        return self.inject.originals if learned else 0

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        check_sources(self.sources)
        Strategy.parse(self.strategy)
        if "original" not in self.sources:
            raise ValueError("the pilot tests the other sources on original images; add original to sources")
        if not (math.isfinite(self.budget_usd) and self.budget_usd > 0):
            raise ValueError(f"budget {self.budget_usd} USD buys nothing; give a positive number of dollars")
        check_shots(self.pilot_shots, self.pilot_originals, self.max_shots)
        if self.pilot_originals < 2:
            raise ValueError("one pilot original per class leaves none to test it on; give 2 or more")
        if max(self.pilot_shots, self.pilot_originals + self.reference_originals) > self.max_shots:
            raise ValueError(f"the pilot has more shots than the {self.max_shots} allowed; raise max shots")
        super().check()


def run_budget(config: BudgetConfig) -> Report:
    """Makes the pilot, decides, buys, compares, and writes the report.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    return run_study(BudgetStudy(config))


class BudgetStudy(SourceStudy):
    """A pilot, a decision for each seed, and the purchase."""

    name = "budget"
    config: BudgetConfig

    def check(self) -> None:
        """Checks the study, and that the budget pays for the pilot's labels."""
        super().check()
        originals = self._pilot_shots["original"]
        labels = self._num_classes * originals * source_kind("original").usd_per_label(self.prices)
        if labels > self.config.budget_usd:
            raise ValueError(
                f"the pilot's {originals} originals of {self._num_classes} classes cost "
                f"{format_usd(labels)} of labels, more than the budget of {format_usd(self.config.budget_usd)}; "
                "give more dollars or fewer pilot originals"
            )

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The sources at the most shots; of these images only the purchased ones are made."""
        self.config.check()
        return {
            source: Variant(
                source, self.config.strategy if source_kind(source).is_generated else "", self.config.max_shots
            )
            for source in self.config.sources
        }

    @property
    def _num_classes(self) -> int:
        return sum(len(dataset.class_names) for dataset in self.datasets)

    def work(self) -> Iterator[tuple[str, Plan, Maker]]:
        """The pilot; then the purchase that follows from its images, and the purchases that it is compared with."""
        pilot = self._pilot_shots
        yield from self._wanted(
            {(source, *key): num for source in self.plans for key in self._keys for num in [pilot[source]]}
        )
        workspace = Workspace.open(self.config.workspace)
        bills = Bills(workspace)
        wanted: dict[tuple[str, str, int], Any] = {}
        for seed in self.config.seeds:
            for name, bought in self.decide(workspace, bills, seed).items():
                wanted |= {(source, name, seed): shots for source, shots in bought.shots.items()}
        if self.config.compare:
            for seed in self.config.seeds:
                for source in self.config.sources:
                    usd = self._usd_per_image(bills)[source]
                    for name, shots in self._evenly(source, usd, self._money(workspace, bills, source, seed)).items():
                        both = np.maximum(shots, wanted.get((source, name, seed), 0))
                        wanted[source, name, seed] = both
        yield from self._wanted(wanted)

    def _wanted(self, shots: Mapping[tuple[str, str, int], Any]) -> Iterator[tuple[str, Plan, Maker]]:
        """Fills of the first images of each class (`[C]`, or one number for all) by (source, data set, seed)."""
        read: list[Plan] = list(self.test_plans.values())
        generated: list[Plan] = []
        for (source, name, seed), each in shots.items():
            plans = generated if source_kind(source).is_generated else read
            plans.append(first_of_each(self.plans[source][name, seed], each))
        yield from self.fills(read, [plan for plan in generated if len(plan)])

    @property
    def _keys(self) -> list[tuple[str, int]]:
        return [(dataset.name, seed) for dataset in self.datasets for seed in self.config.seeds]

    @property
    def _pilot_shots(self) -> dict[str, int]:
        config = self.config
        originals = config.pilot_originals + config.reference_originals
        return {name: originals if name == "original" else config.pilot_shots for name in config.sources}

    def reference_recipes(self, dataset: Dataset, seed: int) -> list[Recipe]:
        """The originals after those that test the pilot."""
        plan, tested = self._plan(self.variants["original"], dataset, seed), self.config.pilot_originals
        end = plan.num_recipes(tested + self.config.inject.originals)
        return [plan[number] for number in range(plan.num_recipes(tested), end)]

    def _knowledge(self, dataset: Dataset, seed: int) -> TokenSet:
        """Tokens and references of the injected images; none if there are none."""
        if "injected" not in self.config.sources:
            return TokenSet([], [], [])
        return self.injector.sets[dataset.name, seed, self.config.inject.references]

    def _knowledge_usd(self, workspace: Workspace, bills: Bills, seed: int) -> float:
        """Dollars of all fits and of all references, with their labels."""
        sets = [self._knowledge(dataset, seed) for dataset in self.datasets]
        ids = [one for each in sets for one in each.considered]
        return totals(bills.of(ids))["usd_busy"] + sum(fit_usd(workspace, each.tokens) for each in sets)

    def _usd_per_image(self, bills: Bills) -> dict[str, float]:
        """Cost per image of each source in the pilot, compute and labels."""
        usd = {}
        for source, shots in self._pilot_shots.items():
            ids = [name for plan in self.plans[source].values() for name in plan_ids(plan, plan.num_recipes(shots))]
            usd[source] = totals(bills.of(list(dict.fromkeys(ids))))["usd_per_image"] or 0.0
        return usd

    def decide(self, workspace: Workspace, bills: Bills, seed: int) -> dict[str, Purchase]:
        """Data set → its purchase, decided from the pilot's images alone."""
        usd, pilot = self._usd_per_image(bills), self._pilot_shots
        curves: dict[str, dict[str, Curve]] = {}
        options, weights, where = [], [], []
        for dataset in self.datasets:
            curves[dataset.name] = self._curves(workspace, dataset, seed)
            for label in range(len(dataset.class_names)):
                options.append(options_of(curves[dataset.name], usd, pilot, self.config.max_shots, label))
                weights.append(1 / len(dataset.class_names) / len(self.datasets))
                where.append((dataset.name, label))
        left = self.config.budget_usd - sum(usd[source] * shots * self._num_classes for source, shots in pilot.items())
        # labels of references are among the pilot's originals already
        labels = usd["original"] * self.config.reference_originals * self._num_classes
        left -= self._knowledge_usd(workspace, bills, seed) - labels
        chosen, left = allocate(options, weights, max(left, 0.0))
        bought: dict[str, Purchase] = {}
        for dataset in self.datasets:
            mine = [option for option, (name, _) in zip(chosen, where, strict=True) if name == dataset.name]
            shots = {source: np.full(len(mine), num) for source, num in pilot.items()}
            for label, option in enumerate(mine):
                shots[option.source][label] = option.shots
            sources = [self._trains_on(option, curves[dataset.name], label) for label, option in enumerate(mine)]
            bought[dataset.name] = Purchase(sources, shots, np.array([option.value for option in mine]))
        self._spend_rest(bought, curves, int(left / usd["original"]) if usd["original"] else 0)
        return bought

    def _trains_on(self, option: Option, curves: Mapping[str, Curve], label: int) -> str:
        """The source that a class trains on beside its originals; `original` for none."""
        values = {name: float(curve.at(self._pilot_shots[name])[label]) for name, curve in curves.items()}
        cheap = {name: value for name, value in values.items() if name != "original"}
        if option.source != "original" or not cheap:
            return option.source
        best = max(cheap, key=lambda name: cheap[name])
        kept = worth_keeping(cheap[best], values["original"], self.config.pilot_originals)
        return best if kept else "original"

    def _spend_rest(self, bought: dict[str, Purchase], curves: Mapping[str, Mapping[str, Curve]], images: int) -> None:
        """Buys this many originals evenly, for classes of the lowest expected accuracy first; changes `bought`."""
        have = np.concatenate([each.shots["original"] for each in bought.values()])
        most = np.concatenate([self._most_originals(name) for name in bought])
        worst = 1 - np.concatenate([each.expected for each in bought.values()])
        shots = spread_evenly(have, most, worst, images)
        ends = np.cumsum([len(each.expected) for each in bought.values()])[:-1]
        for (name, each), mine in zip(bought.items(), np.split(shots, ends), strict=True):
            each.shots["original"][:] = mine
            originals = curves[name]["original"]
            now = np.array([originals.at(num)[label] for label, num in enumerate(mine)])
            each.expected[:] = np.maximum(each.expected, now)

    def _most_originals(self, name: str) -> np.ndarray:
        """`[C]` available originals, `max_shots` at most."""
        plan = self.plans["original"][name, self.config.seeds[0]]
        classes = [plan[index].class_index for index in range(len(plan))]
        return np.bincount(classes, minlength=plan.num_classes)

    def _curves(self, workspace: Workspace, dataset: Dataset, seed: int) -> dict[str, Curve]:
        """Source → expected errors, from the pilot."""
        num, originals = len(dataset.class_names), self._pilot(workspace, "original", dataset, seed)
        tested = self.plans["original"][dataset.name, seed].num_recipes(self.config.pilot_originals)
        testing = originals.first(tested).features, originals.first(tested).classes
        everything = originals.features, originals.classes
        shots = self._pilot_shots["original"]
        curves = {}
        for source in self.config.sources:
            if source == "original":
                first = originals.first(self.plans["original"][dataset.name, seed].num_recipes(1))
                rest = originals.where(np.arange(len(originals.ids)) >= len(first.ids))
                few = errors_of(first.features, first.classes, rest.features, rest.classes, num)
                curves[source] = fit_curve(few, 1, leave_one_out_errors(*everything, num), shots - 1, shots)
                continue
            images = self._pilot(workspace, source, dataset, seed)
            fewer = max(1, self.config.pilot_shots // 4)
            part = images.first(fewer * num)
            few = errors_of(part.features, part.classes, *testing, num)
            many = errors_of(images.features, images.classes, *testing, num)
            curves[source] = fit_curve(few, fewer, many, self.config.pilot_shots, self.config.pilot_originals)
        return curves

    def _pilot(self, workspace: Workspace, source: str, dataset: Dataset, seed: int) -> Images:
        plan = self.plans[source][dataset.name, seed]
        return load_images(workspace, self.encoder.name, plan, plan.num_recipes(self._pilot_shots[source]))

    def _money(self, workspace: Workspace, bills: Bills, source: str, seed: int) -> float:
        """Dollars for the images of one source alone; tokens and their references are paid first."""
        budget = self.config.budget_usd
        return budget if source != "injected" else max(0.0, budget - self._knowledge_usd(workspace, bills, seed))

    def _evenly(self, source: str, usd: float, money: float) -> dict[str, np.ndarray]:
        """Data set → `[C]` shots when so many dollars go to one source, one shot per class and round."""
        config = self.config
        total = config.max_shots * self._num_classes
        images = min(total, int(money / usd)) if usd else total
        zeros: np.ndarray = np.zeros(self._num_classes, np.int64)
        most = np.concatenate([self._most_originals(dataset.name) for dataset in self.datasets])
        most = most if source == "original" else np.full_like(zeros, config.max_shots)
        shots = spread_evenly(zeros, most, zeros, images)
        ends = np.cumsum([len(dataset.class_names) for dataset in self.datasets])[:-1]
        return dict(zip([dataset.name for dataset in self.datasets], np.split(shots, ends), strict=True))

    def build_report(self, workspace: Workspace) -> Report:
        """The allocation, and its expected and reached accuracy."""
        bills = Bills(workspace)
        usd = self._usd_per_image(bills)
        rows: list[dict[str, Any]] = []
        allocation: list[dict[str, Any]] = []
        evaluations = {dataset.name: self.evaluation_set(workspace, dataset) for dataset in self.datasets}
        for seed in self.config.seeds:
            bought = self.decide(workspace, bills, seed)
            for dataset in self.datasets:
                allocation += allocation_rows(dataset.name, dataset.class_names, bought[dataset.name], seed)
                sets = {PLANNED: self._bought(workspace, dataset, seed, bought[dataset.name])}
                if self.config.compare:
                    even = {
                        source: self._evenly(source, usd[source], self._money(workspace, bills, source, seed))[
                            dataset.name
                        ]
                        for source in self.config.sources
                    }
                    for source, shots in even.items():
                        sets[f"{source} alone"] = self._images(workspace, source, dataset, seed, shots)
                    if "retrieval" in even:
                        both = [
                            self._images(workspace, each, dataset, seed, even[each])
                            for each in ("original", "retrieval")
                        ]
                        sets[EVERYWHERE] = join(both)
                rows += self._scored(evaluations[dataset.name], bills, seed, sets, bought[dataset.name])
        summary = summarise_spending(rows)
        tables = {
            "budget": average_over_seeds(rows),
            "budget_mean": summary,
            "allocation": allocation_by_source(allocation),
            "allocation_by_class": [row for row in allocation if row["seed"] == self.config.seeds[0]],
            "budget_by_seed": rows,
            **cost_tables(workspace, bills),
            "errors": error_rows(workspace, self.every_plan()) if self.config.compare else [],
            "files": self.files(),
        }
        return Report(
            title=f"The best use of {format_usd(self.config.budget_usd)}",
            tables={name: found for name, found in tables.items() if found},
            figures=spending_figures(summary, tables["allocation"], format_usd(self.config.budget_usd)),
            findings=[*verdict(rows), *bought_in_words(tables["allocation"])],
            notes=notes(self.config.pilot_shots, self._pilot_shots["original"], self.config.max_shots),
        )

    def _scored(
        self,
        evaluation: EvaluationSet,
        bills: Bills,
        seed: int,
        sets: Mapping[str, Images],
        bought: Purchase,
    ) -> Iterator[dict[str, Any]]:
        dataset = evaluation.dataset
        where = {"group": dataset.group, "dataset": dataset.name, "source": "mixed", "shots": None, "seed": seed}
        for name, images in sets.items():
            paid = images.ids if name != PLANNED else [*images.ids, *self._pilot_ids(dataset, seed)]
            row = where | {"strategy": name} | scores_of(evaluation, images, seed)
            row["expected"] = float(bought.expected.mean()) if name == PLANNED else None
            learned = self._knowledge(dataset, seed) if name in (PLANNED, "injected alone") else TokenSet([], [], [])
            usd = fit_usd(evaluation.workspace, learned.tokens)
            usd += totals(bills.of(list(dict.fromkeys([*paid, *learned.considered]))))["usd_busy"]
            yield row | {"images": len(images.ids), "usd_busy": usd, "usd_per_image": usd / max(1, len(images.ids))}

    def _pilot_ids(self, dataset: Dataset, seed: int) -> list[str]:
        """Ids of all pilot images: they are paid for, trained on or not."""
        plans = {source: self.plans[source][dataset.name, seed] for source in self._pilot_shots}
        return [
            one for source, plan in plans.items() for one in plan_ids(plan, plan.num_recipes(self._pilot_shots[source]))
        ]

    def _bought(self, workspace: Workspace, dataset: Dataset, seed: int, bought: Purchase) -> Images:
        """The images that the classes train on: those of their source, and all their originals."""
        parts = []
        for source, shots in bought.shots.items():
            taken = np.array([source in ("original", mine) for mine in bought.source])
            parts.append(self._images(workspace, source, dataset, seed, np.where(taken, shots, 0)))
        return join(parts)

    def _images(self, workspace: Workspace, source: str, dataset: Dataset, seed: int, shots: np.ndarray) -> Images:
        """The first images of each class; `shots`: `[C]`, their number."""
        plan = self.plans[source][dataset.name, seed]
        images = load_images(workspace, self.encoder.name, plan, plan.num_recipes(int(shots.max(initial=0))))
        return images.where(shot_numbers(images.classes) < shots[images.classes]) if len(images.ids) else images
