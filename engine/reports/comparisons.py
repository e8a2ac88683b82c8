"""Inline SVG figures that compare series: points with error bars by group, and lines over epochs or dollars."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, TypeAlias

from engine.reports.aggregate import Row, mean_and_sd
from engine.reports.axes import GRID, INK, MARKERS, PALETTE, axes_of, described, in_words, kept_figure, log_axis
from engine.reports.headings import METHODS

Measured: TypeAlias = tuple[float, float | None]
"""Mean, and standard deviation if there is one."""
Point: TypeAlias = tuple[float, float, float | None]
"""Place on the horizontal axis, mean and standard deviation."""
MOST_MARKED = 15
"""Points of a line that are marked; longer lines have no markers."""


def dot_figure(groups: Mapping[str, Mapping[str, Measured]], *, title: str = "", label: str = "") -> str:
    """One row per group and in it one point with its error bar per series: accuracy by data set and method.

    Args:
        groups: group → series → mean and standard deviation; series keep their colour and marker in all groups.

    Returns:
        SVG; an empty string without points.
    """
    groups = {name: series for name, series in groups.items() if series}
    if not groups:
        return ""
    plain = [(name, list(series.items())) for name, series in groups.items()]
    return kept_figure("dots", lambda: _plot_dots(groups, title, label), groups=plain, title=title, label=label)


def _plot_dots(groups: Mapping[str, Mapping[str, Measured]], title: str, label: str) -> str:
    names = list(dict.fromkeys(name for series in groups.values() for name in series))
    step = 1 / (len(names) + 1.5)
    with axes_of(title + label, height=1.3 + 0.16 * len(groups) * (len(names) + 1)) as (axes, svg):
        for number, name in enumerate(names):
            at = [row for row, series in enumerate(groups.values()) if name in series]
            found = [series[name] for series in groups.values() if name in series]
            axes.errorbar(
                [mean for mean, _ in found],
                [row + (number - (len(names) - 1) / 2) * step for row in at],
                xerr=[sd or 0.0 for _, sd in found],
                fmt=_marker(name, number),
                color=_colour(name, number),
                markersize=5,
                elinewidth=1.4,
                capsize=2,
                label=name,
            )
        for row in range(1, len(groups)):
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
        axes.set_yticks(range(len(groups)), [fill(name, 18) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(label)
        if len(names) > 1:
            _legend_below(axes, names)
    digits = _digits(mean for series in groups.values() for mean, _ in series.values())
    parts = [
        f"{group}: {', '.join(f'{name} {_number(*one, digits)}' for name, one in series.items())}"
        for group, series in groups.items()
    ]
    return described(svg[0], f"{title or 'Comparison'}, {label}. {'; '.join(parts)}.")


def line_figure(
    lines: Mapping[str, Sequence[Point]], *, title: str = "", x: str = "", y: str = "", log: bool = False
) -> str:
    """One line per series over epochs, shots or dollars, with bars of the standard deviation where there is one.

    `log`: a logarithmic horizontal axis. An empty string without points.
    """
    lines = {name: sorted(points) for name, points in lines.items() if points}
    if not lines:
        return ""
    texts: dict[str, Any] = {"title": title, "x": x, "y": y, "log": log}
    return kept_figure("lines", lambda: _plot_lines(lines, **texts), lines=list(lines.items()), **texts)


def _plot_lines(lines: Mapping[str, Sequence[Point]], title: str, x: str, y: str, log: bool) -> str:
    with axes_of(f"{title}/{x}/{y}") as (axes, svg):
        for number, (name, points) in enumerate(lines.items()):
            few = len(points) <= MOST_MARKED
            look: dict[str, Any] = {"color": _colour(name, number), "linewidth": 1.8 if few else 1.3}
            places, means = [one[0] for one in points], [one[1] for one in points]
            if few:
                look |= {"marker": _marker(name, number), "markersize": 5, "capsize": 2, "elinewidth": 1}
                axes.errorbar(places, means, yerr=[one[2] or 0.0 for one in points], **look)
            else:
                axes.plot(places, means, **look)
        for number, name in enumerate(lines):
            axes.plot([], [], color=_colour(name, number), marker=_marker(name, number), label=name)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if log:
            log_axis(axes)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(lines) > 1:
            _legend_below(axes, list(lines))
    digits = _digits(one[1] for points in lines.values() for one in points)
    parts = [
        f"{name} from {points[0][1]:.{digits}f} at {points[0][0]:g} to {points[-1][1]:.{digits}f} at {points[-1][0]:g}, "
        f"range {in_words((one[1] for one in points), digits)}"
        for name, points in lines.items()
    ]
    return described(svg[0], f"{title or 'Line chart'}, {y} against {x}. {'; '.join(parts)}.")


def by_series(
    rows: Iterable[Row], group: str, series: str, value: str, scale: float = 1.0
) -> dict[str, dict[str, Measured]]:
    """Group → series → mean and standard deviation of a column over the rows (usually seeds); rows without a value are left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.get(value) is not None:
            values.setdefault(str(row[group]), {}).setdefault(str(row[series]), []).append(scale * row[value])
    found: dict[str, dict[str, Measured]] = {}
    for name, each in values.items():
        for one, numbers in each.items():
            mean, sd = mean_and_sd(numbers)
            assert mean is not None
            found.setdefault(name, {})[one] = (mean, sd)
    return found


def _legend_below(axes: Any, names: Sequence[str]) -> None:
    """A legend outside of the plot, where it hides nothing."""
    columns = 2 if max(map(len, names)) > 14 else 3
    look = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handletextpad": 0.4, "columnspacing": 1.2}
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.5 / axes.figure.get_figheight()), ncols=columns, **look)


_ORDER = list(METHODS.values())
"""Methods keep their colour and marker in all figures, whichever of them a figure shows."""


def _colour(name: str, number: int) -> str:
    return PALETTE[(_ORDER.index(name) if name in _ORDER else number) % len(PALETTE)]


def _marker(name: str, number: int) -> str:
    return MARKERS[(_ORDER.index(name) if name in _ORDER else number) % len(MARKERS)]


def _number(mean: float, sd: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _digits(values: Iterable[float]) -> int:
    return 3 if max(map(abs, values)) < 1.5 else 1
