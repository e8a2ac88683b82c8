"""What all figures share: axes in the page's own colours, the colours and markers of sources, text alternatives, and the cache."""

import html
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from engine.cache import cached_value
from engine.evaluation.metrics import is_share
from engine.reports.aggregate import Row, is_number
from engine.reports.headings import heading
from engine.sources import kinds
from engine.sources.kinds import find_source

OTHER, OTHER_MARKER = "#999999", "D"
"""Colour and marker of rows that belong to no source."""
INK, GRID = "#010203", "#0a0b0c"
"""Placeholders that the SVG replaces by the page's own colours, so that a figure follows light and dark mode."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
"""Markers of series in their order, so that they differ without colours."""
STYLES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
"""Line styles of a source's strategies in their order."""
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#949494", "#d55e00", "#56b4e9", "#7f6f00")
"""seaborn's `colorblind`, for groups in their order."""


def kept_figure(name: str, plot: Callable[[], str], **shown: Any) -> str:
    """The figure that `plot` makes of what is `shown`, made once and kept in the cache, since importing matplotlib takes a second."""
    look = [(kind.name, kind.label, kind.colour, kind.marker) for kind in kinds.SOURCE_KINDS]
    inputs = {"figure": name, "matplotlib": version("matplotlib"), "sources": look} | shown
    packages = ("engine.reports", "engine.evaluation.metrics")
    return str(cached_value("figures", inputs, plot, packages=packages, edition=1))


def values_of(rows: Sequence[Row], *columns: str) -> list[list[Any]]:
    """Values of these columns, row by row; anything but a number or None counts by its text."""
    return [
        [value if is_number(value := row.get(name)) or value is None else str(value) for name in columns]
        for row in rows
    ]


@contextmanager
def axes_of(salt: str, height: float = 3.2) -> Iterator[tuple[Any, list[str]]]:
    """Axes to plot on; when the block ends the list holds the figure as SVG, its text and lines in the page's colours."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: it scales, and takes the page's font and colour
        "svg.hashsalt": salt,  # ids differ between panels and stay the same between runs
        "text.parse_math": False,  # a group or strategy name may hold dollar signs
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 10,
    }
    finished: list[str] = []
    with rc_context(settings):
        figure = Figure(figsize=(4.4, height))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        yield axes, finished
        file = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}  # they name sites on the network
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(GRID, "var(--line)")
    for kind in kinds.SOURCE_KINDS:
        svg = svg.replace(kind.colour, f"var(--{kind.name})")
    finished.append(svg)


def log_axis(axes: Any) -> None:
    """A logarithmic horizontal axis whose labels need no mathematical type, which is off here."""
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def described(svg: str, text: str) -> str:
    """The figure with a text that says the same in words, for people who cannot see it."""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(text, quote=True)}" ', 1)


def in_words(values: Iterable[float], digits: int = 1) -> str:
    """`0.5 to 12.0`: the range of some numbers."""
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def colour_of(source: Any) -> str:
    """Colour of a source on a light page; the page's own stands for it in the SVG."""
    kind = find_source(source)
    return kind.colour if kind else OTHER


def marker_of(source: Any, other: str = OTHER_MARKER) -> str:
    """matplotlib marker of a source; `other` for what is none."""
    kind = find_source(source)
    return kind.marker if kind else other


def in_units(column: str, value: float) -> float:
    """The value as its column shows it: a share in percent."""
    return 100 * value if is_share(column) else value


def axis_of(column: str) -> str:
    """Label of an axis that shows a column."""
    return heading(column) + (" (%)" if is_share(column) else "")
