"""Figures of a study as SVG files: RealRAG Figure 6 (ratings) and Figure 9 (share judged real), and how the answers spread."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.evaluation.rating import SCALES, RatingStudy, analyse, rating_matrix
from engine.reports.axes import GRID, INK, PALETTE, axes_of

MAX_CASES = 24
"""Up to so many images are shown one by one in Figure 9, as in the paper."""
_LOOK = """<style>svg { color: #1c1f23; --line: #d5d8dc; font-family: system-ui, sans-serif; }
svg text { font-family: system-ui, sans-serif !important; }
@media (prefers-color-scheme: dark) { svg { color: #e8eaed; --line: #3b4149; } }</style>"""
"""The colours of the page, which an image of its own does not inherit."""
_plotting = threading.Lock()  # matplotlib's settings belong to the process


def figures_of(study: RatingStudy) -> dict[str, str]:
    """Name → caption of the figures of a task."""
    if study.task == "matching":
        return {
            "mean": "Mean rating of each method with its 95 % interval over raters, and the variance (RealRAG Figure 6).",
            "spread": "Share of each answer, from 1 (not at all) to 7 (perfectly).",
        }
    shown = {
        "mean": "Share of each method's images judged real, with its 95 % interval over raters (RealRAG Figure 9)."
    }
    if study.items.num_rows <= MAX_CASES:
        shown["cases"] = "Share of raters who judged each image real, case by case (RealRAG Figure 9)."
    return shown


def figure(study: RatingStudy, answers: pa.Table, name: str) -> bytes:
    """The SVG file of one of `figures_of`."""
    plots: Mapping[str, Callable[[RatingStudy, pa.Table], str]] = {
        "mean": _means,
        "spread": _spread,
        "cases": _cases,
    }
    with _plotting:
        svg = plots[name](study, answers)
    inner = svg.index(">") + 1
    return (svg[:inner] + _LOOK + svg[inner:]).encode()


def _means(study: RatingStudy, answers: pa.Table) -> str:
    rows, names = analyse(study, answers).to_pylist(), []
    is_scale = study.task == "matching"
    factor, scale = (1, SCALES[study.task]) if is_scale else (100, (0, 100))
    with axes_of("mean", height=1.1 + 0.5 * len(rows)) as (axes, svg):
        for place, row in enumerate(rows):
            if not row["answers"]:
                names.append(row["method"])
                continue
            mean, low, high = (factor * row[key] for key in ("mean", "t_low", "t_high"))
            reach = [[max(0.0, mean - low)], [max(0.0, high - mean)]] if np.isfinite([low, high]).all() else None
            style = {"ecolor": INK, "elinewidth": 1.2, "capsize": 3}
            axes.barh(place, mean, xerr=reach, height=0.6, color=PALETTE[place % len(PALETTE)], error_kw=style)
            variance = f", variance {row['variance']:.2f}" if is_scale and np.isfinite(row["variance"]) else ""
            names.append(f"{row['method']}\n{mean:.2f}{variance}" if is_scale else f"{row['method']}\n{mean:.0f} %")
        _finish(axes, names)
        axes.set_xlim(scale[0], scale[-1])
        axes.set_xlabel("mean rating" if is_scale else "judged real (%)")
    return svg[0]


def _spread(study: RatingStudy, answers: pa.Table) -> str:
    methods, ratings = _by_method(study, answers)
    scale = SCALES[study.task]
    with axes_of("spread", height=1.3 + 0.5 * len(methods)) as (axes, svg):
        left = np.zeros(len(methods))
        for number, answer in enumerate(scale):
            share = np.array([100 * np.mean(one == answer) if len(one) else 0.0 for one in ratings])
            colour = _blend(number / (len(scale) - 1))
            axes.barh(range(len(methods)), share, left=left, height=0.6, color=colour, label=str(answer))
            left += share
        _finish(axes, methods)
        axes.set_xlim(0, 100)
        axes.set_xlabel("answers (%)")
        legend = {"frameon": False, "fontsize": 8, "labelcolor": INK, "handlelength": 1, "columnspacing": 1}
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(scale), **legend)
    return svg[0]


def _cases(study: RatingStudy, answers: pa.Table) -> str:
    _, ratings = rating_matrix(study, answers)
    methods = study.key["method"].to_pylist()
    names = sorted(set(methods))
    order = sorted(range(len(methods)), key=lambda number: (methods[number], number))
    with axes_of("cases", height=3.0) as (axes, svg):
        for place, number in enumerate(order):
            given = ratings[np.isfinite(ratings[:, number]), number]
            colour = PALETTE[names.index(methods[number]) % len(PALETTE)]
            axes.bar(place, 100 * given.mean() if len(given) else 0, color=colour, width=0.7)
        for place, name in enumerate(names):
            axes.bar([0], [0], color=PALETTE[place % len(PALETTE)], label=name)
        axes.set_xticks(range(len(order)), [str(number + 1) for number in range(len(order))], fontsize=8)
        axes.set_ylim(0, 100)
        axes.set_xlabel("case")
        axes.set_ylabel("judged real (%)")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    return svg[0]


def _by_method(study: RatingStudy, answers: pa.Table) -> tuple[list[str], list[np.ndarray]]:
    _, ratings = rating_matrix(study, answers)
    methods = np.asarray(study.key["method"].to_pylist())
    names = sorted(set(methods.tolist()))
    return names, [(own := ratings[:, methods == name])[np.isfinite(own)] for name in names]


def _finish(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _blend(share: float) -> tuple[float, float, float]:
    """From orange over grey to blue, which any colour vision tells apart."""
    ends = np.array([[0.76, 0.32, 0.0], [0.78, 0.78, 0.78], [0.0, 0.45, 0.70]])
    first = min(int(2 * share), 1)
    part = 2 * share - first
    red, green, blue = (1 - part) * ends[first] + part * ends[first + 1]
    return float(red), float(green), float(blue)
