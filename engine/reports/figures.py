"""Inline SVG figures: accuracy against shots with its dollars (GenBench Fig. 3), scatters (4, 6, 9, 10) and bars (2, 5)."""

import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from engine.cache import cached_value
from engine.reports.tables import SHARES, SOURCES, Row, average_over_seeds, format_usd, heading, is_number

COLOURS = {"generative": "#0072b2", "retrieval": "#d55e00", "original": "#009e73"}
"""Okabe and Ito's palette: told apart with any colour vision. A source has its colour everywhere."""
OTHER = "#999999"
_INK, _GRID = "#010203", "#0a0b0c"
"""Drawn in these, then replaced by the page's own colours, so that a figure follows light and dark."""
_STYLES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
_MARKERS = {"generative": "o", "retrieval": "s", "original": "^"}
_PALETTE = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#949494")
"""seaborn's `colorblind`: groups of a scatter, in their order."""


def tradeoff_figures(rows: Sequence[Row], metric: str = "linear_probe") -> dict[str, str]:
    """Figure 3 as one inline SVG a group: `metric` (%) against shots, a line a source and strategy, zero-shot dashed.

    Means are over the group's data sets; bars are the standard deviation over seeds of that mean. Under each number of
    shots stand the dollars (busy, all data sets of the group) that a strategy of each source has cost in the mean.
    """
    rows = [row for row in rows if is_number(row.get(metric)) and is_number(row.get("shots"))]
    groups = dict.fromkeys(row.get("group") for row in rows)
    return {str(group): _panel(str(group), [r for r in rows if r.get("group") == group], metric) for group in groups}


def _kept(name: str, plot: Callable[[], str], **shown: Any) -> str:
    """The figure that `plot` draws of what is `shown`, drawn once and kept in the cache: importing matplotlib takes a second."""
    inputs = {"figure": name, "matplotlib": version("matplotlib")} | shown
    return str(cached_value("figures", inputs, plot, packages=("engine.reports",), edition=1))


def _columns(rows: Sequence[Row], *columns: str) -> list[list[Any]]:
    """Values of these columns, row by row; what is neither a number nor nothing counts by its text."""
    return [
        [value if is_number(value := row.get(name)) or value is None else str(value) for name in columns]
        for row in rows
    ]


def _panel(group: str, rows: list[Row], metric: str) -> str:
    columns = ("group", "dataset", "source", "strategy", "shots", "seed", "zero_shot", "usd_busy", metric)
    return _kept(
        "panel",
        lambda: _plot_panel(group, rows, metric),
        group=group,
        metric=metric,
        rows=_columns(rows, *columns),
    )


def _plot_panel(group: str, rows: list[Row], metric: str) -> str:
    curves = _curves(rows, metric)
    shots = sorted({row["shots"] for row in rows})
    priced = [source for source in _sources(rows) if any(curve["source"] == source for curve in curves)]
    with _drawing(group) as (axes, svg):
        axes.set_xscale("symlog" if shots[0] <= 0 else "log")
        axes.set_xticks(shots, [f"{count:g}" for count in shots])
        axes.minorticks_off()
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        for curve in curves:
            colour = COLOURS.get(curve["source"], OTHER)
            axes.errorbar(
                curve["shots"],
                curve["mean"],
                yerr=curve["sd"],
                color=colour,
                linestyle=_STYLES[curve["style"] % len(_STYLES)],
                marker=_MARKERS.get(curve["source"], "D"),
                markersize=5,
                linewidth=1.8,
                elinewidth=1,
                capsize=2.5,
                label=curve["label"],
            )
        zero_shot = _mean_over_datasets(rows, "zero_shot")
        if zero_shot is not None:
            axes.axhline(100 * zero_shot, color=_INK, linestyle=(0, (4, 3)), linewidth=1.2, label="zero-shot")
        axes.set_title(group, loc="left", fontweight="bold", fontsize=11)
        axes.set_ylabel(f"{metric.replace('_', ' ')} (%)")
        axes.margins(x=0.09)
        axes.set_xlabel("shots a class, and USD of each source", fontsize=9)
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
                    color=COLOURS.get(source, OTHER),
                    annotation_clip=False,
                    **below,
                )
        axes.legend(frameon=False, fontsize=9, loc="best", labelcolor=_INK)
    return svg[0]


def scatter_figure(
    rows: Sequence[Row], x: str, y: str, *, title: str = "", colour: str = "group", note: str = ""
) -> str:
    """A point for each row with both columns, shares in percent; coloured by `colour`, its marker by the source.

    `note` stands below the title. An empty string where no row has both.
    """
    rows = [row for row in rows if is_number(row.get(x)) and is_number(row.get(y))]
    if not rows:
        return ""
    texts = {"title": title, "colour": colour, "note": note, "x": x, "y": y}
    return _kept(
        "scatter",
        lambda: _plot_scatter(rows, **texts),
        rows=_columns(rows, x, y, colour, "source"),
        **texts,
    )


def _plot_scatter(rows: Sequence[Row], x: str, y: str, title: str, colour: str, note: str) -> str:
    names = list(dict.fromkeys(str(row.get(colour)) for row in rows))
    with _drawing(f"{title}/{x}/{y}") as (axes, svg):
        axes.grid(color=_GRID, linewidth=0.8)
        for number, name in enumerate(names):
            for source in dict.fromkeys(row.get("source") for row in rows):
                part = [row for row in rows if str(row.get(colour)) == name and row.get("source") == source]
                axes.scatter(
                    [_in_units(x, row[x]) for row in part],
                    [_in_units(y, row[y]) for row in part],
                    s=20,
                    alpha=0.75,
                    linewidths=0,
                    color=_PALETTE[number % len(_PALETTE)],
                    marker=_MARKERS.get(str(source), "o"),
                )
            axes.scatter([], [], s=20, linewidths=0, color=_PALETTE[number % len(_PALETTE)], label=name)
        axes.set_title("\n".join(filter(None, (title, note))), loc="left", fontsize=10)
        axes.set_xlabel(_axis(x))
        axes.set_ylabel(_axis(y))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=_INK, handletextpad=0.2)
    return svg[0]


def bar_figure(
    bars: Mapping[str, float],
    *,
    spread: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    title: str = "",
    label: str = "",
    log: bool = False,
) -> str:
    """A horizontal bar for each name, from above in the order given; `spread` is the half length of its error bar.

    `colours`: name → source or group that its bar is coloured by. An empty string without bars.
    """
    if not bars:
        return ""
    return _kept(
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
    with _drawing(title + label, height=1.1 + 0.26 * len(bars)) as (axes, svg):
        places = range(len(bars))
        errors = [(spread or {}).get(name) or 0.0 for name in bars]
        drawn = [_PALETTE[kinds.index(colours[name]) % len(_PALETTE)] if colours else _PALETTE[0] for name in bars]
        axes.barh(
            list(places),
            list(bars.values()),
            xerr=errors if any(errors) else None,
            color=drawn,
            height=0.7,
            error_kw={"ecolor": _INK, "elinewidth": 1},
        )
        axes.set_yticks(list(places), list(bars))
        axes.invert_yaxis()
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")  # matplotlib's own is in mathematical type, which is off here
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if not log:
            axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(label)
        if len(kinds) > 1:
            from matplotlib.patches import Patch

            shown = [Patch(color=_PALETTE[number % len(_PALETTE)], label=kind) for number, kind in enumerate(kinds)]
            axes.legend(handles=shown, frameon=False, fontsize=8, loc="best", labelcolor=_INK)
    return svg[0]


@contextmanager
def _drawing(salt: str, height: float = 3.2) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; when the block ends the list holds the figure as SVG, its text and lines in the page's colours."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: it scales, and takes the page's font and colour
        "svg.hashsalt": salt,  # ids differ from panel to panel and not from run to run
        "text.parse_math": False,  # a group or strategy name may hold dollar signs
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _GRID,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "font.size": 10,
    }
    drawn: list[str] = []
    with rc_context(settings):
        figure = Figure(figsize=(4.4, height))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        yield axes, drawn
        file = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}  # they name sites on the network
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    for source, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{source})")
    drawn.append(svg)


def _in_units(column: str, value: float) -> float:
    return 100 * value if column in SHARES else value


def _axis(column: str) -> str:
    return heading(column) + (" (%)" if column in SHARES else "")


def _curves(rows: list[Row], metric: str) -> list[dict[str, Any]]:
    """A curve for each source and strategy: shots, mean (%), sd over seeds (%), and busy USD over all data sets."""
    curves = []
    for source in _sources(rows):
        of_source = [row for row in rows if row.get("source") == source]
        strategies = list(dict.fromkeys(row.get("strategy") or "" for row in of_source))
        for style, strategy in enumerate(strategies):
            of_strategy = [row for row in of_source if (row.get("strategy") or "") == strategy]
            curve: dict[str, Any] = {
                "source": source,
                "style": style,
                "label": f"{source}, {strategy}" if len(strategies) > 1 and strategy else str(source),
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
                curve["mean"].append(100 * statistics.fmean(seeds))
                curve["sd"].append(100 * statistics.stdev(seeds) if len(seeds) > 1 else 0.0)
                spent = [row["usd_busy"] for row in average_over_seeds(at) if is_number(row.get("usd_busy"))]
                curve["usd"].append(sum(spent) if spent else None)
            curves.append(curve)
    return curves


def _usd_of_each(curves: list[dict[str, Any]], source: str, count: float) -> str:
    """Dollars of the source's curves at that many shots, in the mean."""
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
    return [source for source in SOURCES if source in present] + [s for s in present if s not in SOURCES]


def _mean_over_datasets(rows: Sequence[Row], column: str) -> float | None:
    """Mean over data sets of each one's mean, so that a data set with more rows does not count more."""
    datasets: dict[Any, list[float]] = {}
    for row in rows:
        if is_number(row.get(column)):
            datasets.setdefault(row.get("dataset"), []).append(row[column])
    return statistics.fmean(statistics.fmean(values) for values in datasets.values()) if datasets else None
