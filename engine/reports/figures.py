"""Inline SVG figures: accuracy against shots and dollars (GenBench Fig. 3), scatters (Fig. 4, 6, 9, 10) and bars (Fig. 2, 5)."""

import statistics
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from engine.evaluation.metrics import LINEAR_PROBE
from engine.reports.aggregate import Row, is_number, mean_and_sd
from engine.reports.axes import (
    GRID,
    INK,
    PALETTE,
    STYLES,
    axes_of,
    axis_of,
    colour_of,
    described,
    in_units,
    in_words,
    kept_figure,
    log_axis,
    marker_of,
    values_of,
)
from engine.reports.headings import source_name, strategy_words
from engine.reports.tables import average_over_seeds, format_usd
from engine.sources.kinds import source_order

FIGURE_3 = "GenBench Figure 3: accuracy against shots"
"""Beginning of the captions of the trade-off's panels."""
LABEL_WIDTH = 26
"""Characters of a line of a bar's name."""


def tradeoff_figures(rows: Sequence[Row], metric: str = LINEAR_PROBE.name) -> dict[str, str]:
    """Figure 3 as one inline SVG per group: `metric` (%) against shots, one line per source and strategy, zero-shot dashed.

    Means are over the group's data sets; bars are the standard deviation of that mean over seeds. Below each number of
    shots stand the busy dollars of each source for all data sets of the group, averaged over its strategies.
    """
    rows = [row for row in rows if is_number(row.get(metric)) and is_number(row.get("shots"))]
    groups = dict.fromkeys(row.get("group") for row in rows)
    return {str(group): _panel(str(group), [r for r in rows if r.get("group") == group], metric) for group in groups}


def _panel(group: str, rows: list[Row], metric: str) -> str:
    columns = ("group", "dataset", "source", "strategy", "shots", "seed", "zero_shot", "usd_busy", metric)
    return kept_figure(
        "panel",
        lambda: _plot_panel(group, rows, metric),
        group=group,
        metric=metric,
        rows=values_of(rows, *columns),
    )


def _plot_panel(group: str, rows: list[Row], metric: str) -> str:
    curves = _curves(rows, metric)
    shots = sorted({row["shots"] for row in rows})
    priced = [source for source in _sources(rows) if any(curve["source"] == source for curve in curves)]
    with axes_of(group) as (axes, svg):
        axes.set_xscale("symlog" if shots[0] <= 0 else "log")
        axes.set_xticks(shots, [f"{count:g}" for count in shots])
        axes.minorticks_off()
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        for curve in curves:
            axes.errorbar(
                curve["shots"],
                curve["mean"],
                yerr=curve["sd"],
                color=colour_of(curve["source"]),
                linestyle=STYLES[curve["style"] % len(STYLES)],
                marker=marker_of(curve["source"]),
                markersize=5,
                linewidth=1.8,
                elinewidth=1,
                capsize=2.5,
                label=curve["label"],
            )
        zero_shot = _mean_over_datasets(rows, "zero_shot")
        if zero_shot is not None:
            axes.axhline(100 * zero_shot, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label="zero-shot")
        axes.set_title(group, loc="left", fontweight="bold", fontsize=11)
        axes.set_ylabel(axis_of(metric))
        axes.margins(x=0.09)
        axes.set_xlabel("shots per class, and USD by source", fontsize=9)
        for line, source in enumerate(priced):
            below: dict[str, Any] = {
                "xytext": (0, -36 - 12 * line),
                "textcoords": "offset points",
                "ha": "center",
                "va": "top",
            }
            for count in shots:
                axes.annotate(
                    _usd_of_each(curves, source, count),
                    (count, 0),
                    xycoords=axes.get_xaxis_transform(),
                    fontsize=8,
                    color=colour_of(source),
                    annotation_clip=False,
                    **below,
                )
        axes.legend(frameon=False, fontsize=9, loc="best", labelcolor=INK)
    parts = [
        f"{curve['label']} {', '.join(f'{mean:.1f} at {num:g}' for num, mean in zip(curve['shots'], curve['mean'], strict=True))}"
        for curve in curves
    ]
    without = "" if zero_shot is None else f"; zero-shot {100 * zero_shot:.1f}"
    return described(svg[0], f"{axis_of(metric)} against shots per class, {group}: {'; '.join(parts)}{without}.")


def scatter_figure(
    rows: Sequence[Row], x: str, y: str, *, title: str = "", colour: str = "group", note: str = ""
) -> str:
    """One point per row that has both columns, shares in percent; its colour by `colour`, its marker by the source.

    `note` stands below the title. An empty string if no row has both.
    """
    rows = [row for row in rows if is_number(row.get(x)) and is_number(row.get(y))]
    if not rows:
        return ""
    texts = {"title": title, "colour": colour, "note": note, "x": x, "y": y}
    return kept_figure(
        "scatter",
        lambda: _plot_scatter(rows, **texts),
        rows=values_of(rows, x, y, colour, "source"),
        **texts,
    )


def _plot_scatter(rows: Sequence[Row], x: str, y: str, title: str, colour: str, note: str) -> str:
    names = list(dict.fromkeys(str(row.get(colour)) for row in rows))
    with axes_of(f"{title}/{x}/{y}") as (axes, svg):
        axes.grid(color=GRID, linewidth=0.8)
        for number, name in enumerate(names):
            for source in dict.fromkeys(row.get("source") for row in rows):
                part = [row for row in rows if str(row.get(colour)) == name and row.get("source") == source]
                axes.scatter(
                    [in_units(x, row[x]) for row in part],
                    [in_units(y, row[y]) for row in part],
                    s=20,
                    alpha=0.75,
                    linewidths=0,
                    color=PALETTE[number % len(PALETTE)],
                    marker=marker_of(source, "o"),
                )
            axes.scatter([], [], s=20, linewidths=0, color=PALETTE[number % len(PALETTE)], label=name)
        axes.set_title("\n".join(filter(None, (title, note))), loc="left", fontsize=10)
        axes.set_xlabel(axis_of(x))
        axes.set_ylabel(axis_of(y))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=INK, handletextpad=0.2)
    ranges = [f"{axis_of(name)} {in_words(in_units(name, row[name]) for row in rows)}" for name in (x, y)]
    text = f"{title or 'Scatter plot'}: {len(rows)} points, {ranges[0]}, {ranges[1]}"
    return described(svg[0], f"{text}; {note}." if note else f"{text}.")


def bar_figure(
    bars: Mapping[str, float],
    *,
    spread: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    title: str = "",
    label: str = "",
    log: bool = False,
) -> str:
    """One horizontal bar per name, from the top in the order given; `spread` is half the length of its error bar.

    `colours`: name → group that decides the colour of its bar. An empty string without bars.
    """
    if not bars:
        return ""
    return kept_figure(
        "bars",
        lambda: _plot_bars(bars, spread, colours, title, label, log),
        bars=list(bars.items()),
        spread=spread,
        colours=list((colours or {}).items()),  # in their order, which the colours follow
        title=title,
        label=label,
        log=log,
    )


def _plot_bars(
    bars: Mapping[str, float],
    spread: Mapping[str, float] | None,
    colours: Mapping[str, str] | None,
    title: str,
    label: str,
    log: bool,
) -> str:
    kinds = list(dict.fromkeys((colours or {}).values()))
    with axes_of(
        title + label, height=1.1 + sum(0.12 + 0.14 * (1 + fill(name, LABEL_WIDTH).count(chr(10))) for name in bars)
    ) as (axes, svg):
        places = range(len(bars))
        errors = [(spread or {}).get(name) or 0.0 for name in bars]
        filled = [PALETTE[kinds.index(colours[name]) % len(PALETTE)] if colours else PALETTE[0] for name in bars]
        axes.barh(
            list(places),
            list(bars.values()),
            xerr=errors if any(errors) else None,
            color=filled,
            height=0.7,
            error_kw={"ecolor": INK, "elinewidth": 1},
        )
        axes.set_yticks(list(places), [fill(name, LABEL_WIDTH) for name in bars])
        axes.invert_yaxis()
        if log:
            log_axis(axes)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if not log:
            axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(label)
        if len(kinds) > 1:
            from matplotlib.patches import Patch

            shown = [Patch(color=PALETTE[number % len(PALETTE)], label=kind) for number, kind in enumerate(kinds)]
            axes.legend(handles=shown, frameon=False, fontsize=8, loc="best", labelcolor=INK)
    digits = 2 if log else 1
    parts = [
        f"{name} {value:.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")
        for (name, value), error in zip(bars.items(), errors, strict=True)
    ]
    return described(svg[0], f"{title or 'Bar chart'}, {label}: {'; '.join(parts)}.")


def _curves(rows: list[Row], metric: str) -> list[dict[str, Any]]:
    """One curve per source and strategy: shots, mean (%), sd over seeds (%), and busy USD over all data sets."""
    curves = []
    for source in _sources(rows):
        of_source = [row for row in rows if row.get("source") == source]
        strategies = list(dict.fromkeys(row.get("strategy") or "" for row in of_source))
        for style, strategy in enumerate(strategies):
            of_strategy = [row for row in of_source if (row.get("strategy") or "") == strategy]
            curve: dict[str, Any] = {
                "source": source,
                "style": style,
                "label": f"{source_name(source)}, {strategy_words(strategy)}"
                if len(strategies) > 1 and strategy
                else source_name(source),
                "shots": sorted({row["shots"] for row in of_strategy}),
                "mean": [],
                "sd": [],
                "usd": [],
            }
            for count in curve["shots"]:
                at = [row for row in of_strategy if row["shots"] == count]
                seeds = [
                    mean
                    for seed in dict.fromkeys(row.get("seed") for row in at)
                    if (mean := _mean_over_datasets([r for r in at if r.get("seed") == seed], metric)) is not None
                ]
                mean, sd = mean_and_sd(seeds)
                curve["mean"].append(100 * (mean or 0.0))
                curve["sd"].append(100 * (sd or 0.0))
                spent = [row["usd_busy"] for row in average_over_seeds(at) if is_number(row.get("usd_busy"))]
                curve["usd"].append(sum(spent) if spent else None)
            curves.append(curve)
    return curves


def _usd_of_each(curves: list[dict[str, Any]], source: str, count: float) -> str:
    """Mean dollars of the source's curves at that many shots."""
    spent = [
        usd
        for curve in curves
        if curve["source"] == source
        for shots, usd in zip(curve["shots"], curve["usd"], strict=True)
        if shots == count and usd is not None
    ]
    return format_usd(statistics.fmean(spent)) if spent else "–"


def _sources(rows: Sequence[Row]) -> list[str]:
    present = dict.fromkeys(str(row.get("source")) for row in rows)
    return sorted(present, key=source_order)


def _mean_over_datasets(rows: Sequence[Row], column: str) -> float | None:
    """Mean over data sets of each one's mean, so that a data set with more rows does not count more."""
    datasets: dict[Any, list[float]] = {}
    for row in rows:
        if is_number(row.get(column)):
            datasets.setdefault(row.get("dataset"), []).append(row[column])
    return statistics.fmean(statistics.fmean(values) for values in datasets.values()) if datasets else None
