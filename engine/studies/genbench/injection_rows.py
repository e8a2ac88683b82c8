"""Rows of the Textual Inversion study: scores, gains and dollars of each kind of external knowledge (GenBench Table 3)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.catalog import Dataset
from engine.costs import totals
from engine.evaluation import fit_linear_probe
from engine.recipe import embedding_column
from engine.reports.aggregate import Row, group_rows, standard_error, with_sd
from engine.sources import Plan
from engine.sources.injected import InjectedPlan
from engine.store import Workspace
from engine.store.rows import quote
from engine.store.vectors import to_matrix
from engine.studies.injection import TokenSet, fit_usd
from engine.studies.scoring import Bills, EvaluationSet, scores_of

if TYPE_CHECKING:
    from engine.studies.genbench.injection import InjectionStudy

NONE = "none"
"""Variant without external knowledge."""
ALONE = "references alone"
KNOWN_FROM = 0.5
"""Share of right images by name from which a class counts as known to the generator."""
SCORES = ("cler", "linear_probe", "judged")


@dataclass(frozen=True)
class TokenJudge:
    """A probe on another encoder's features of training images that no token has seen."""

    workspace: Workspace
    encoder: str
    probe: Any

    @classmethod
    def of(cls, workspace: Workspace, encoder: str, dataset: Dataset, learnt: Plan) -> "TokenJudge":
        """Fits the probe. Raises ValueError if none of the images could be read."""
        features, labels = features_of(workspace, encoder, [learnt[index].id for index in range(len(learnt))])
        if not len(labels):
            raise ValueError(f"no training image of {dataset.name} could be read for the judge; look at the errors")
        return cls(workspace, encoder, fit_linear_probe(features, labels, num_classes=len(dataset.class_names), seed=0))

    def right(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(Class `[N]`, whether the probe finds it right `[N] bool`) of committed images."""
        features, labels = features_of(self.workspace, self.encoder, ids)
        if not len(labels):
            return labels, np.zeros(0, bool)
        return labels, self.probe.predict(features).numpy() == labels


def features_of(workspace: Workspace, encoder: str, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(`[N, D]` features, `[N]` classes) of the committed images that have them."""
    column = embedding_column(encoder)
    table = workspace.fetch(list(ids), ["class_index", column])
    table = table.filter(table.column(column).is_valid())
    return to_matrix(table.column(column)), np.array(table.column("class_index").to_pylist(), np.int64)


class InjectionScores:
    """Scores and dollars of the variants of a study."""

    def __init__(self, study: "InjectionStudy", workspace: Workspace, bills: Bills):
        self._study, self._workspace, self._bills = study, workspace, bills

    def rows(self, evaluation: EvaluationSet, judge: TokenJudge | None) -> list[Row]:
        """One row per variant, number of shots and seed, and one per seed for the references alone."""
        study, dataset = self._study, evaluation.dataset
        found = []
        for seed in study.config.seeds:
            for name in study.variants:
                plan = study.plans[name][dataset.name, seed]
                loaded = evaluation.load(plan, plan.num_recipes(max(study.config.shots)))
                judged = self._judged(judge, study.judged_ids(plan))
                for shots in sorted(study.config.shots):
                    part = loaded.first(plan.num_recipes(shots))
                    scores = scores_of(evaluation, part, seed)
                    row = self._row(dataset, name, shots, seed) | {each: scores[each] for each in SCORES[:2]}
                    found.append(row | {"judged": judged} | self.dollars(dataset, name, seed, part.ids))
            if "original" in study.config.references:
                references = study.injector.sets[dataset.name, seed, "original"].references
                wanted = {one for ids in references for one in ids}
                recipes = [one for one in study.reference_recipes(dataset, seed) if one.id in wanted]
                loaded = evaluation.load(recipes, len(recipes))
                scores = scores_of(evaluation, loaded, seed)
                row = self._row(dataset, ALONE, 0, seed) | {each: scores[each] for each in SCORES[:2]}
                paid = totals(self._bills.of(loaded.ids))
                money = {"usd_busy": paid["usd_busy"], "usd_per_image": paid["usd_per_image"], "usd_fit": 0.0}
                found.append(row | {"judged": None} | money)
        return found

    def _row(self, dataset: Dataset, name: str, shots: int, seed: int) -> Row:
        return {"dataset": dataset.name, "group": dataset.group, "knowledge": name, "shots": shots, "seed": seed}

    def _judged(self, judge: TokenJudge | None, ids: Sequence[str]) -> float | None:
        if judge is None:
            return None
        labels, right = judge.right(ids)
        return statistics.fmean(right[labels == each].mean() for each in np.unique(labels)) if len(labels) else None

    def dollars(self, dataset: Dataset, name: str, seed: int, ids: Sequence[str]) -> Row:
        """Busy dollars of all that a set of images needed: generation, fits, and all references that were read."""
        usd = totals(self._bills.of(ids))["usd_busy"]
        fits = 0.0
        if name != NONE:
            learned = self._study.injector.sets[dataset.name, seed, name]
            fits = fit_usd(self._workspace, learned.tokens)
            usd += fits + totals(self._bills.of(learned.considered))["usd_busy"]
        return {"usd_busy": usd, "usd_per_image": usd / len(ids) if ids else None, "usd_fit": fits}


def class_rows(study: "InjectionStudy", workspace: Workspace, dataset: Dataset, judge: TokenJudge | None) -> list[Row]:
    """One row per class and variant: the judge's share of right images, over seeds; none without a judge."""
    if judge is None:
        return []
    rows = []
    for name in study.variants:
        parts = [judge.right(study.judged_ids(study.plans[name][dataset.name, seed])) for seed in study.config.seeds]
        labels, right = (np.concatenate(each) for each in zip(*parts, strict=True))
        for number, class_name in enumerate(dataset.class_names):
            mine = right[labels == number]
            tokens = (
                [study.injector.sets[dataset.name, seed, name].tokens[number] for seed in study.config.seeds]
                if name != NONE
                else []
            )
            row = {"dataset": dataset.name, "group": dataset.group, "class_name": class_name, "knowledge": name}
            rows.append(row | {"judged": float(mine.mean()) if len(mine) else None, "tokens": sum(map(bool, tokens))})
    return rows


def by_knowledge(rows: Sequence[Row]) -> list[Row]:
    """The judge's accuracy on classes that the generator knows by name, and on the others, by data set and kind of external knowledge."""
    plain = {(row["dataset"], row["class_name"]): row["judged"] or 0.0 for row in rows if row["knowledge"] == NONE}
    marked = [row | {"known": plain[row["dataset"], row["class_name"]] >= KNOWN_FROM} for row in rows]
    found = []
    for (dataset, known, knowledge), members in group_rows(marked, ("dataset", "known", "knowledge")).items():
        judged = [row["judged"] for row in members if row["judged"] is not None]
        base = [plain[dataset, row["class_name"]] for row in members]
        found.append(
            {
                "dataset": dataset,
                "classes_are": "known by name" if known else "not known",
                "knowledge": knowledge,
                "classes": len(members),
                "classes_with_token": sum(bool(row["tokens"]) for row in members) if knowledge != NONE else None,
                "judged": _shown([statistics.fmean(judged)]) if judged else None,
                "gain_points": 100 * (statistics.fmean(judged) - statistics.fmean(base)) if judged else None,
            }
        )
    return sorted(found, key=lambda row: (row["dataset"], row["classes_are"] != "not known"))


def table_3(rows: Sequence[Row]) -> list[Row]:
    """GenBench's Table 3: CLER by kind of external knowledge and shots, mean over data sets first, then each data set; ± over seeds."""
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    found = []
    for (shots, knowledge), members in sorted(
        group_rows(rows, ("shots", "knowledge")).items(), key=lambda each: each[0][0]
    ):
        row: Row = {"knowledge": knowledge, "shots": shots, "seeds": len({each["seed"] for each in members})}
        for column in SCORES:
            by_seed = group_rows(members, ("seed",)).values()
            means = [_mean(each[column] for each in one) for one in by_seed]
            row[f"mean {column}"] = _shown([value for value in means if value is not None])
        for name in names:
            row[name] = _shown(
                [each["cler"] for each in members if each["dataset"] == name and each["cler"] is not None]
            )
        row["usd_per_image"] = _mean(each["usd_per_image"] for each in members)
        found.append(row)
    return found


def gains(rows: Sequence[Row], column: str) -> dict[tuple[str, int, str], list[float]]:
    """(Knowledge, shots, data set) → points gained over images without knowledge, one per seed, in the order of the seeds."""
    plain = {(row["dataset"], row["shots"], row["seed"]): row[column] for row in rows if row["knowledge"] == NONE}
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        base = plain.get((row["dataset"], row["shots"], row["seed"]))
        if row["knowledge"] not in (NONE, ALONE) and base is not None and row[column] is not None:
            key = row["knowledge"], row["shots"], row["dataset"]
            found.setdefault(key, []).append(100 * (row[column] - base))
    return found


def claims(rows: Sequence[Row]) -> list[str]:
    """Sentences: where external knowledge gains CLER, and how the references alone do."""
    lines = []
    for (knowledge, shots), members in group_rows(
        [{"knowledge": k, "shots": s, "dataset": d, "gain": g} for (k, s, d), g in gains(rows, "cler").items()],
        ("knowledge", "shots"),
    ).items():
        parts = [f"{row['dataset']} {verdict(row['gain'])} ({with_sd(row['gain'], 1, '+')})" for row in members]
        lines.append(f"Tokens from {knowledge} references, {shots} shots, points of CLER: {', '.join(parts)}.")
    alone = {row["dataset"]: row for row in _means(rows, ALONE, None)}
    most = max((row["shots"] for row in rows), default=0)
    made = {row["dataset"]: row for row in _means(rows, "original", most)}
    if alone and made:
        parts = [f"{name} {alone[name]['cler']:.1%} against {made[name]['cler']:.1%}" for name in alone if name in made]
        lines.append(
            f"CLER of the original references alone against {most} images made with their tokens: {', '.join(parts)}."
        )
    return lines


def verdict(gain: Sequence[float]) -> str:
    """`gains` or `loses` if the mean is beyond two standard errors, else `no clear change`; a single seed tells nothing."""
    if len(gain) < 2:
        return "one seed"
    mean, error = statistics.fmean(gain), standard_error(gain)
    if mean == 0 or abs(mean) <= 2 * error:
        return "no clear change"
    return "gains" if mean > 0 else "loses"


def figure_8_rows(
    study: "InjectionStudy",
    scores: InjectionScores,
    low: InjectedPlan | None,
    dataset: Dataset | None,
    workspace: Workspace,
) -> list[Row]:
    """CLER and the judge on tokens learned from whole and from shrunken originals, of the first seed, at equal shots."""
    if low is None or dataset is None:
        return []
    seed = study.config.seeds[0]
    evaluation, judge = study.evaluation_set(workspace, dataset), study._judge_of(workspace, dataset)
    side = study.config.low_resolution
    plans = {"originals": study.plans["original"][dataset.name, seed], f"originals shrunk to {side}x{side} pixels": low}
    found = []
    for name, plan in plans.items():
        part = evaluation.load(plan, plan.num_recipes(low.shots))
        judged = scores._judged(judge, study.judged_ids(plan))
        found.append(
            {
                "dataset": dataset.name,
                "references": name,
                "shots": low.shots,
                "cler": scores_of(evaluation, part, seed)["cler"],
                "judged": None if judged is None else _shown([judged]),
            }
        )
    return found


def token_rows(workspace: Workspace, sets: Mapping[tuple[str, int, str], TokenSet]) -> list[Row]:
    """One row per data set and source of references: tokens, references, bytes, seconds, dollars and losses, means per token."""
    rows = []
    for (dataset, source), keys in group_rows(
        [{"dataset": key[0], "source": key[2], "key": key} for key in sets], ("dataset", "source")
    ).items():
        members = [sets[row["key"]] for row in keys]
        wanted = sorted({token.fitted_from for each in members for token in each.tokens if token})
        found = (
            workspace.read("tokens", f"fitted_from IN ({', '.join(map(quote, wanted))})").to_pylist() if wanted else []
        )
        rows.append(
            {
                "dataset": dataset,
                "references": source,
                "tokens": len(found),
                "classes_without_token": sum(token is None for each in members for token in each.tokens),
                "references_per_token": _mean(float(len(row["reference_ids"])) for row in found),
                "reference_bytes": sum(row["reference_bytes"] for row in found),
                "device_seconds_per_token": _mean(row["device_seconds"] for row in found),
                "usd_per_token": _mean(row["usd_compute"] for row in found),
                "first_loss": _mean(row["losses"][0] for row in found),
                "last_loss": _mean(row["losses"][-1] for row in found),
            }
        )
    return rows


def _means(rows: Sequence[Row], knowledge: str, shots: int | None) -> list[Row]:
    chosen = [row for row in rows if row["knowledge"] == knowledge and shots in (None, row["shots"])]
    grouped = group_rows([row for row in chosen if row["cler"] is not None], ("dataset",))
    return [{"dataset": name, "cler": _mean(row["cler"] for row in each)} for (name,), each in grouped.items()]


def _mean(values: Any) -> float | None:
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(kept) if kept else None


def _shown(values: Sequence[float]) -> str | None:
    """`44.2 ± 1.3`, in percent."""
    return with_sd([100 * value for value in values], 1) if values else None
