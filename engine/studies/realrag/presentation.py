"""The finding and the figures of RealRAG's report, from the rows of its tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from engine.reports.aggregate import Row, group_rows, is_number, mean_and_sd, with_sd
from engine.reports.axes import axis_of
from engine.reports.comparisons import Measured, Point, by_series, dot_figure, line_figure
from engine.reports.headings import heading, method_name
from engine.studies.findings import counted, how_clear, over_seeds, paired, seed_means
from engine.studies.realrag.tables import ALONE, NOT_ALONE

COMPARED = ("accuracy", "clip_i", "clip_t", "fid")
"""Scores of Tables 1 to 5 that are plotted by data set and method."""
RETRIEVED = ("precision_at_1", "precision_at_10")


def findings(whole: Sequence[Row], retrieval: Sequence[Row]) -> list[str]:
    """Two sentences per generator: what references do to the accuracy of its images, and what reflective negatives add.

    Args:
        whole: scores of each generator, method, data set and seed.
        retrieval: precision of each retriever, data set and seed.
    """
    found = []
    generators = list(dict.fromkeys(row["generator"] for row in whole))
    for generator in generators:
        rows = [row for row in whole if row["generator"] == generator]
        by_method = {method: each for (method,), each in group_rows(rows, ("method",)).items()}
        of = f" of {generator}" if len(generators) > 1 else ""
        found += _of_references(by_method, of)
        found += _of_negatives(by_method, [row for row in retrieval if row["generator"] == generator])
    return found


def _of_references(by_method: Mapping[str, Sequence[Row]], of: str) -> list[str]:
    last = next((name for name in ("realrag", "normal", "zero") if name in by_method), "")
    before, after = (seed_means(by_method.get(name, ()), "accuracy") for name in ("none", last))
    gain = paired(after, before)
    if not gain:
        return []
    datasets = list(dict.fromkeys(row["dataset"] for row in by_method["none"]))
    gaps = {}
    for dataset in datasets:
        one, other = (
            seed_means([row for row in by_method[name] if row["dataset"] == dataset], "accuracy")
            for name in (last, "none")
        )
        if each := paired(one, other):
            gaps[dataset] = each
    most, least = (choose(gaps, key=lambda name: statistics.fmean(gaps[name])) for choose in (max, min))
    spread = (
        f"; most on {most} ({with_sd(gaps[most], 1, '+')}), least on {least} ({with_sd(gaps[least], 1, '+')})"
        if len(gaps) > 1
        else ""
    )
    mean = statistics.fmean(gain)
    verb = "raise" if mean > 0 else "lower" if mean < 0 else "do not change"
    return [
        f"References retrieved by {method_name(last)} {verb} the judged accuracy{of} from {with_sd(list(before.values()), 1)} to "
        f"{with_sd(list(after.values()), 1)} % ({with_sd(gain, 1, '+')} points), mean over {counted(len(datasets), 'data set')} "
        f"({over_seeds(len(gain))}){spread}."
    ]


def _of_negatives(by_method: Mapping[str, Sequence[Row]], retrieval: Sequence[Row]) -> list[str]:
    gain = paired(*(seed_means(by_method.get(name, ()), "accuracy") for name in ("realrag", "normal")))
    if not gain:
        return []
    retrieved = {
        method: seed_means(each, "precision_at_1") for (method,), each in group_rows(retrieval, ("method",)).items()
    }
    nearest = paired(retrieved.get("realrag", {}), retrieved.get("normal", {}))
    precision = f", and of P@1 by {with_sd(nearest, 1, '+')} points" if nearest else ""
    return [
        f"Reflective negatives change accuracy by {with_sd(gain, 1, '+')} points against normal training, which is "
        f"{how_clear(gain)}{precision}."
    ]


def retrieval_findings(retrieval: Sequence[Row]) -> list[str]:
    """Precision of every retriever, mean over data sets, and the lead of the best over plain CLIP."""
    means = {
        method: seed_means(each, "precision_at_1") for (method,), each in group_rows(retrieval, ("method",)).items()
    }
    means = {method: each for method, each in means.items() if each}
    if not means:
        return []
    best = max(means, key=lambda method: statistics.fmean(means[method].values()))
    parts = ", ".join(f"{method_name(method)} {with_sd(list(each.values()), 1)} %" for method, each in means.items())
    datasets = len({row["dataset"] for row in retrieval})
    sentences = [
        f"The first retrieved image shows the class that was asked for in (P@1, mean over {datasets} data sets): {parts} "
        f"({over_seeds(len(means[best]))})."
    ]
    if best != "zero" and (lead := paired(means[best], means.get("zero", {}))):
        sentences.append(
            f"The best, {method_name(best)}, is {with_sd(lead, 1, '+')} points from plain CLIP, {how_clear(lead)}."
        )
    return sentences


def figures(
    whole: Sequence[Row],
    retrieval: Sequence[Row],
    knowledge: Sequence[Row],
    epochs: Sequence[Row],
    curves: Sequence[Row],
) -> dict[str, str]:
    """Caption → SVG, generator by generator.

    Args:
        whole, retrieval: rows of each seed, as for `findings`.
        knowledge: rows of `by_knowledge`.
        epochs: rows of Figure 7.
        curves: rows of the training curves.
    """
    found: dict[str, str] = {}
    generators = list(dict.fromkeys(row["generator"] for row in [*whole, *retrieval]))
    for generator in generators:
        of = f" {generator}." if len(generators) > 1 else ""
        mine = [
            [row for row in rows if row["generator"] == generator]
            for rows in (whole, retrieval, knowledge, epochs, curves)
        ]
        found |= {caption + of: picture for caption, picture in _of_generator(*mine).items() if picture}
    return found


def _of_generator(
    whole: list[Row], retrieval: list[Row], knowledge: list[Row], epochs: list[Row], curves: list[Row]
) -> dict[str, str]:
    bars = "bars are one standard deviation over seeds."
    found = {
        f"RealRAG Tables 1 to 5: {heading(score)} by data set and method; {bars}": dots(whole, score)
        for score in COMPARED
    }
    found[
        "Accuracy on classes that the generator draws without a reference (the judge recognises at least half of its images), and on "
        f"the others; {bars}"
    ] = _knowledge_figure(knowledge)
    found |= {
        f"{heading(score)} of the retrieved images by data set and retriever; {bars}": dots(retrieval, score)
        for score in RETRIEVED
    }
    found |= {
        f"RealRAG Figure 7: {heading(score)} of the heads of some epochs, mean over data sets (one seed, so without bars).": line_figure(
            epoch_lines(epochs, score), title=heading(score), x="epoch", y=axis_of(score)
        )
        for score in ("accuracy", "clip_i", "fid", "precision_at_1")
    }
    return found | curve_figures(curves)


def dots(rows: Sequence[Row], score: str) -> str:
    """A score by data set and method."""
    percent = axis_of(score).endswith("(%)")
    named = [row | {"_method": method_name(row["method"])} for row in rows]
    groups = by_series(named, "dataset", "_method", score, 100.0 if percent else 1.0)
    return dot_figure(groups, title=f"{heading(score)} by method", label=axis_of(score))


def curve_figures(curves: Sequence[Row]) -> dict[str, str]:
    """Caption → training curves of the heads: loss and precision on validation images by epoch, mean over seeds."""
    return {
        f"Training curves: {text} by epoch, mean over seeds.": line_figure(
            _over_seeds(curves, column, scale), title=text.capitalize(), x="epoch", y=label
        )
        for column, text, label, scale in (
            ("loss", "loss", "loss", 1.0),
            ("precision_at_1", "precision at 1 on validation images", "P@1 (%)", 100.0),
        )
    }


def _knowledge_figure(knowledge: Sequence[Row]) -> str:
    groups: dict[str, dict[str, Measured]] = {}
    for row in knowledge:
        if row["classes"] in (ALONE, NOT_ALONE) and is_number(row["accuracy"]):
            sd: Any = row.get("accuracy_sd")
            group = f"{row['dataset']}: {row['num_classes']} {row['classes']}"
            groups.setdefault(group, {})[method_name(row["method"])] = (
                100 * row["accuracy"],
                100 * sd if is_number(sd) else None,
            )
    return dot_figure(groups, title="Classes that the generator knows, and others", label="accuracy (%)")


def epoch_lines(epochs: Sequence[Row], score: str) -> dict[str, list[Point]]:
    """Method → points by epoch, mean over data sets (RealRAG Fig. 7)."""
    scale = 100.0 if axis_of(score).endswith("(%)") else 1.0
    return {
        method_name(method): [
            (epoch, scale * statistics.fmean(row[score] for row in each), None)
            for (epoch,), each in group_rows(members, ("epoch",)).items()
        ]
        for (method,), members in group_rows([row for row in epochs if is_number(row.get(score))], ("method",)).items()
    }


def _over_seeds(curves: Sequence[Row], column: str, scale: float) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for (method, epoch), members in group_rows(curves, ("method", "epoch")).items():
        mean, sd = mean_and_sd(scale * row[column] for row in members if is_number(row.get(column)))
        if mean is not None:
            found.setdefault(method_name(method), []).append((epoch, mean, sd))
    return found
