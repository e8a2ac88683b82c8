"""RealRAG's Tables 1 to 5 and the paired tests, computed from the scores of each seed."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from engine.models.generators import adapter_of
from engine.models.spec import GeneratorSpec
from engine.studies.realrag.judge import SCORES, Row

ARCHITECTURES = ("AR", "U-Net", "DiT")
"""Types of generators, in the order of the paper's tables."""
PAIRS = (
    *(("none", "zero"), ("none", "normal"), ("none", "realrag")),
    *(("zero", "normal"), ("zero", "realrag"), ("normal", "realrag")),
    *(("normal", "random"), ("normal", "image_hard"), ("normal", "oracle"), ("normal", "selective")),
    *(("random", "realrag"), ("image_hard", "realrag"), ("realrag", "selective")),
)
"""Methods that are compared with each other."""


def summary(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """One row per combination of the columns `by`: mean over seeds of every number, its `…_sd` (n - 1), and `seeds`."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row[name] for name in by), []).append(row)
    averaged = []
    for setting, members in settings.items():
        result: Row = dict(zip(by, setting, strict=True)) | {"seeds": len(members)}
        for name in members[0]:
            if name in (*by, "seed") or name.startswith("_"):
                continue
            values = [row[name] for row in members if row[name] is not None]
            result[name] = fmean(values) if values else None
            result[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
        averaged.append(result)
    return averaged


def paper_tables(rows: Sequence[Row], generators: Mapping[str, GeneratorSpec]) -> dict[str, list[Row]]:
    """RealRAG's Tables 1 to 5, with the study's data sets instead of Cars, Dogs and Flowers.

    Rows are in the order of the types (AR, U-Net, DiT). After the generators of a type comes its row Δ, the mean over them of
    the last method less the first of the table, as in Tables 1, 2 and 4 of the paper, or less `normal` in Tables 3 and 5, where
    the paper has no such row. Δ is taken seed by seed, so its spread is that of the difference.
    """

    def table(methods: Sequence[str], scores: Sequence[str], average_only: bool = False) -> list[Row]:
        found: list[Row] = []
        for kind in ARCHITECTURES:
            names = [name for name, spec in generators.items() if adapter_of(spec.pipeline).architecture == kind]
            values = {
                (name, method): _by_seed(rows, name, method, scores, average_only)
                for name in names
                for method in methods
            }
            for (name, method), seeds in values.items():
                found += _mean({"type": kind, "generator": name, "method": method}, seeds)
            before, after = methods[-2], methods[-1]
            gains = [_less(values[name, after], values[name, before]) for name in names]
            label = {"type": kind, "generator": "mean" if len(names) > 1 else "", "method": f"Δ {after} - {before}"}
            found += _mean(
                label, {seed: _together(gains, seed) for seed in sorted({s for each in gains for s in each})}
            )
        return found

    means, ours, without = ("clip_i", "clip_t", "fid"), ("zero", "normal", "realrag"), ("none", "realrag")
    accuracies = ("accuracy", "zero_shot_accuracy")
    return {
        "realrag_table_1": table(without, means),
        "realrag_table_2": table(without, accuracies, average_only=True),
        "realrag_table_3": table(ours, means),
        "realrag_table_4": table(without, accuracies),
        "realrag_table_5": table(ours, accuracies),
    }


def _by_seed(
    rows: Sequence[Row], generator: str, method: str, scores: Sequence[str], average_only: bool
) -> dict[int, Row]:
    """Seed → scores of each data set, and the mean of the accuracies over data sets."""
    seeds: dict[int, Row] = {}
    totals: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if (row["generator"], row["method"]) != (generator, method) or row["accuracy"] is None:
            continue
        each = seeds.setdefault(row["seed"], {})
        for name in scores:
            if not average_only:
                each[f"{row['dataset']} {name}"] = row[name]
            totals.setdefault(row["seed"], {}).setdefault(name, []).append(row[name])
    for seed, by_name in totals.items():
        seeds[seed] |= {f"average {name}": fmean(by_name[name]) for name in scores if name.endswith("accuracy")}
    return seeds


def _less(after: Mapping[int, Row], before: Mapping[int, Row]) -> dict[int, Row]:
    """Seed → differences of the columns that both have."""
    return {
        seed: {name: row[name] - before[seed][name] for name in row if name in before[seed]}
        for seed, row in after.items()
        if seed in before
    }


def _together(gains: Sequence[Mapping[int, Row]], seed: int) -> Row:
    """Mean over generators of one seed's differences."""
    there = [each[seed] for each in gains if seed in each]
    return {name: fmean(each[name] for each in there) for name in there[0] if all(name in each for each in there)}


def _mean(label: Row, seeds: Mapping[int, Row]) -> list[Row]:
    return summary([label | row | {"seed": seed} for seed, row in seeds.items()], tuple(label))


def paired_tests(rows: Sequence[Row], retrieval: Sequence[Row]) -> list[Row]:
    """Differences of two methods on one data set: t-test over paired seeds, and for accuracy Wilcoxon's over paired classes.

    A seed's pair shares the noise of its images. p is None if all differences are equal or there is only one pair.
    """
    from scipy import stats

    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    classes: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for row in [*rows, *retrieval]:
        for name in (*SCORES, "precision_at_1", "precision_at_10"):
            if row.get(name) is not None:
                by_method = values.setdefault((row["generator"], row["dataset"], name), {})
                by_method.setdefault(row["method"], {})[row["seed"]] = row[name]
        for number, share in row.get("_by_class", {}).items():
            by_class = classes.setdefault((row["generator"], row["dataset"]), {}).setdefault(row["method"], {})
            by_class.setdefault(number, []).append(share)
    found = []
    for (generator, dataset, score), methods in values.items():
        for first, second in PAIRS:
            seeds = sorted(methods.get(first, {}).keys() & methods.get(second, {}).keys())
            if not seeds:
                continue
            before, after = (np.array([methods[name][seed] for seed in seeds]) for name in (first, second))
            compared: Row = {
                "generator": generator,
                "dataset": dataset,
                "score": score,
                "from": first,
                "to": second,
                "difference": float((after - before).mean()),
                "seeds": len(seeds),
                "p_seeds": _p_value(stats.ttest_rel, after, before),
            }
            if score == "accuracy":
                one, other = (classes[generator, dataset][name] for name in (first, second))
                both = sorted(one.keys() & other.keys())
                before, after = (np.array([fmean(each[number]) for number in both]) for each in (one, other))
                compared |= {"classes": len(both), "p_classes": _p_value(stats.wilcoxon, after, before)}
            found.append(compared)
    return found


def _p_value(test: Any, after: np.ndarray, before: np.ndarray) -> float | None:
    if len(after) < 2 or np.ptp(after - before) < 1e-12:  # equal differences have no variance to test against
        return None
    return float(test(after, before).pvalue)


ALONE, NOT_ALONE, BOTH = "drawn alone", "not drawn alone", "all"


def by_knowledge(rows: Sequence[Row], retrieval: Sequence[Row]) -> list[Row]:
    """Accuracy and P@10 of every method on the classes that the generator draws without a reference, on the others, and on all.

    A class is drawn alone if the judge recognises at least half of its images without a reference, over all seeds. Group means hide
    a gain of the one kind that the other pays for. Empty without the method `none`.
    """
    alone: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        if row["method"] == "none":
            of_class = alone.setdefault((row["generator"], row["dataset"]), {})
            for number, share in row["_by_class"].items():
                of_class.setdefault(number, []).append(share)
    precision = {
        (row["generator"], row["method"], row["dataset"], row["seed"]): row["_precision_by_class"] for row in retrieval
    }
    found: list[Row] = []
    for row in rows:
        known = {
            number: fmean(shares) >= 0.5 for number, shares in alone.get((row["generator"], row["dataset"]), {}).items()
        }
        retrieved = precision.get((row["generator"], row["method"], row["dataset"], row["seed"]), {})
        for kind, wanted in ((ALONE, (True,)), (NOT_ALONE, (False,)), (BOTH, (True, False))):
            classes = [number for number, is_known in known.items() if is_known in wanted]
            if classes:
                where = {name: row[name] for name in ("generator", "dataset", "group", "method", "seed")}
                judged = [row["_by_class"][number] for number in classes if number in row["_by_class"]]
                nearest = [retrieved[number] for number in classes if number in retrieved]
                scores = {
                    "accuracy": fmean(judged) if judged else None,
                    "precision_at_10": fmean(nearest) if nearest else None,
                }
                found.append(where | {"classes": kind, "num_classes": len(classes)} | scores)
    return summary(found, ("generator", "dataset", "group", "classes", "num_classes", "method"))


def held_out_rows(retrieval: Sequence[Row], held_out: Collection[tuple[str, int]]) -> list[Row]:
    """P@10 of every retriever on the names of the classes that heads were trained on, and of those that none has seen."""
    found = []
    for row in retrieval:
        for kind, wanted in (("trained", False), ("held out", True)):
            shares = [
                share
                for number, share in row["_precision_by_class"].items()
                if ((row["dataset"], number) in held_out) is wanted
            ]
            if shares:
                where = {name: row[name] for name in ("generator", "method", "dataset", "group", "seed")}
                found.append(where | {"classes": kind, "num_classes": len(shares), "precision_at_10": fmean(shares)})
    return summary(found, ("generator", "method", "dataset", "group", "classes", "num_classes"))
