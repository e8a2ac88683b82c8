"""The report of the metric study: correlations with intervals, times and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from engine.catalog.datasets import genbench_datasets
from engine.evaluation import correlation_rows
from engine.evaluation.metrics import CLER, LINEAR_PROBE, PRECISION_AT_5, RECALL_AT_5, Metric, proxy_metrics
from engine.reports import Report
from engine.reports.aggregate import Row, mean_and_sd, standard_error
from engine.reports.figures import bar_figure, scatter_figure
from engine.reports.headings import heading, name_of
from engine.studies.scoring import is_generated


@dataclass
class MetricFindings:
    """Rows that the figures and correlations are computed from."""

    compare_shots: int
    """Shots of Figures 9 and 10."""
    points: list[Row] = field(default_factory=list)
    """One per data set, variant, number of shots and seed: every metric and its seconds."""
    architectures: list[Row] = field(default_factory=list)
    """CLER and linear probe at `compare_shots`, one per encoder and point."""
    sets: list[Row] = field(default_factory=list)
    """Mean text similarity and change of CLER, one per data set."""
    classes: list[Row] = field(default_factory=list)
    """The same, one per class."""
    captions: str = "captions of the pool"
    """Captions that the mean text similarity averages over."""


def metric_report(found: MetricFindings, errors: Sequence[Row] = ()) -> Report:
    """Every correlation with its interval, and the figures."""
    points, shots = found.points, found.compare_shots
    names = [metric.name for metric in proxy_metrics()]
    retrieval = [PRECISION_AT_5.name, RECALL_AT_5.name]
    generated = [row for row in points if is_generated(row)]
    others = [row for row in points if row["shots"] == shots and not is_generated(row)]
    probe = LINEAR_PROBE.name
    most = [row for row in generated if row["shots"] == max(row["shots"] for row in generated)]
    larger = [row for row in most if row["dataset"] not in small_sets()]
    tables: dict[str, list[Row]] = {
        "figure_4": _correlate(generated, names, probe, "group"),
        "figure_4_at_equal_shots": [
            {"shots": num} | row
            for num in sorted({row["shots"] for row in generated})
            for row in _correlate([r for r in generated if r["shots"] == num], names, probe, "group")
        ],
        "figure_4_without_small_sets": _correlate(larger, names, probe, None) if len(larger) < len(most) else [],
        "figure_5": times(points),
        "figure_6": _correlate(found.classes, ["mts"], "cler_change", "group")
        + [row | {"group": "data sets"} for row in _correlate(found.sets, ["mts"], "cler_change", None)],
        "figure_6_data_sets": list(found.sets),
        "figure_9": _correlate(found.architectures, [CLER.name], probe, "encoder"),
        "figure_10": _correlate(others, [CLER.name], probe, "source"),
        "section_12_2": _correlate(points, retrieval, CLER.name, "source"),
    }
    figures = _figures(found, tables, generated, others)
    tables |= {
        "points": list(points),
        "figure_6_classes": list(found.classes),
        "figure_9_points": list(found.architectures),
        "errors": list(errors),
    }
    falling = " and ".join(metric.heading for metric in proxy_metrics() if not metric.higher_is_better)
    return Report(
        title="GenBench: which metric predicts the linear probe?",
        findings=_findings(tables),
        tables={name: rows for name, rows in tables.items() if rows},
        figures={caption: svg for caption, svg in figures.items() if svg},
        notes=[
            "A point is one data set, source, strategy, number of shots and seed; intervals are 95 % by bootstrap over points. "
            "Points of one data set depend on each other, so the intervals are narrower than those of as many data sets would be.",
            "FID and CLIP score: points of different numbers of shots are not comparable (the FID of few images is too large); "
            "see the table at equal shots."
            + " Figure 4 of the paper is of 18 data sets at 100 shots, without those of two categories: that is the table without small "
            "sets, at the most shots, if there is such a set. FID in the features of the study's own CLIP is the authors' "
            "choice (their code takes ViT-B/32's embeddings of unit norm), not the Inception FID of the literature."
            + (f" {falling} should fall as accuracy rises, so a negative correlation is good." if falling else ""),
        ],
    )


@cache
def small_sets() -> frozenset[str]:
    """GenBench's data sets of two categories by its Table 4, FER 2013 among them: the four that its Figure 4 leaves out."""
    return frozenset(
        name for name, facts in genbench_datasets().items() if (facts.paper_classes or facts.num_classes) <= 2
    )


def _findings(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """The metric with the strongest correlation in its direction and the next one, and the seconds that it takes."""
    directions = {metric.name: 1 if metric.higher_is_better else -1 for metric in proxy_metrics()}
    rows = [row for row in tables["figure_4"] if row["group"] == "all" and row["pearson"] is not None]
    ranked = sorted(rows, key=lambda row: -directions[row["score"]] * row["pearson"])
    if not ranked:
        return []
    parts = [
        f"{heading(row['score'])} r = {row['pearson']:.2f} [{row['pearson_low']:.2f}, {row['pearson_high']:.2f}]"
        for row in ranked[:3]
    ]
    falls = any(directions[row["score"]] < 0 for row in ranked[:3])
    falling = "; a metric that should fall is best at -1" if falls else ""
    sentences = [
        f"Of {len(ranked)} metrics, {heading(ranked[0]['score'])} predicts the linear probe best, over {ranked[0]['n']} sets of "
        f"generated images: {', '.join(parts)} (Pearson, 95 % intervals{falling})."
    ]
    seconds = {row["metric"]: row for row in tables["figure_5"] if row["shots"] == "all"}
    times = [
        f"{name_of('metric', name)} {row['seconds']:.3g} ± {row['standard_error']:.1g}" for name, row in seconds.items()
    ]
    return (
        [*sentences, f"Seconds per set of images, mean ± standard error: {', '.join(times)}."] if times else sentences
    )


def _figures(
    found: MetricFindings, tables: Mapping[str, Sequence[Row]], generated: Sequence[Row], others: Sequence[Row]
) -> dict[str, str]:
    """Caption → SVG."""
    shots, probe, cler = found.compare_shots, LINEAR_PROBE.name, CLER.name
    seconds = {row["metric"]: row for row in tables["figure_5"] if row["shots"] == "all"}
    figures = {
        f"GenBench Figure 4: {metric.heading} against the linear probe, generated images.": scatter_figure(
            generated, metric.name, probe, note=_correlation(tables["figure_4"], metric)
        )
        for metric in proxy_metrics()
    }
    return figures | {
        "GenBench Figure 5: processor seconds per data set, on ready features; bars are one standard error over points.": bar_figure(
            {name_of("metric", name): row["seconds"] for name, row in seconds.items()},
            spread={name_of("metric", name): row["standard_error"] for name, row in seconds.items()},
            title="Evaluation time",
            label="seconds",
            log=True,
        ),
        f"GenBench Figure 6: mean text similarity of a class ({found.captions}) against the change of its CLER by generated images.": scatter_figure(
            found.classes, "mts", "cler_change", note=_correlation(tables["figure_6"], "mts")
        ),
        f"GenBench Figure 9: CLER against the linear probe at {shots} generated shots, encoder by encoder.": scatter_figure(
            found.architectures, cler, probe, colour="encoder", note=_correlation(tables["figure_9"], cler)
        ),
        f"GenBench Figure 10: CLER against the linear probe at {shots} retrieved or original shots.": scatter_figure(
            others, cler, probe, colour="source", note=_correlation(tables["figure_10"], cler)
        ),
        "GenBench section 12.2: image-to-image precision@5 against CLER, all sources.": scatter_figure(
            found.points,
            PRECISION_AT_5.name,
            cler,
            colour="source",
            note=_correlation(tables["section_12_2"], PRECISION_AT_5),
        ),
    }


def times(points: Sequence[Row]) -> list[Row]:
    """Mean seconds of each metric with its standard error, at each number of shots and at all; `probe_ratio`: the probe's ÷ its own.

    Points that were timed on a GPU add `gpu_seconds` and `gpu_probe_ratio`.
    """
    metrics = [metric for metric in (*proxy_metrics(), LINEAR_PROBE) if metric.compute]
    rows = []
    for shots in [*sorted({row["shots"] for row in points}), "all"]:
        part = [row for row in points if shots in (row["shots"], "all")]
        means = {}
        for name in dict.fromkeys(metric.timed_as for metric in metrics):
            seconds = [row[f"seconds_{name}"] for row in part]
            means[name] = (mean_and_sd(seconds)[0] or 0.0, standard_error(seconds))
        probe = means[LINEAR_PROBE.timed_as][0]
        on_gpu = {
            name: mean_and_sd(row[f"gpu_seconds_{name}"] for row in part if f"gpu_seconds_{name}" in row)[0]
            for name in means
        }
        probe_on_gpu = on_gpu[LINEAR_PROBE.timed_as]
        rows += [
            {
                "shots": shots,
                "metric": name,
                "seconds": mean,
                "standard_error": error,
                "probe_ratio": probe / mean if mean else None,
            }
            | (
                {"gpu_seconds": gpu, "gpu_probe_ratio": probe_on_gpu / gpu}
                if (gpu := on_gpu[name]) and probe_on_gpu
                else {}
            )
            for name, (mean, error) in means.items()
        ]
    return rows


def _correlate(rows: Sequence[Row], scores: Sequence[str], against: str, group: str | None) -> list[Row]:
    import polars as pl

    return correlation_rows(pl.DataFrame(rows), scores, against=against, group=group) if rows else []


def _correlation(rows: Sequence[Row], metric: Metric | str) -> str:
    """Pearson's r over all rows, with its interval."""
    name = metric if isinstance(metric, str) else metric.name
    row = next((row for row in rows if row["score"] == name and row["group"] == "all"), None)
    if row is None or row["pearson"] is None:
        return ""
    return f"r = {row['pearson']:.2f} [{row['pearson_low']:.2f}, {row['pearson_high']:.2f}], n = {row['n']}"
