"""Figures and contact sheets in a notebook, as pictures that any viewer of notebooks shows."""

import io
from typing import TYPE_CHECKING, Any

from engine.images import decode_image
from engine.sources import kinds

if TYPE_CHECKING:
    from engine.reports.report import ContactSheet, Report

INK, LINE = "#1c1f23", "#d5d8dc"
"""Text and lines of a figure outside of a page."""
CELL_INCHES = 1.05
MOST_PER_ROW = 12


class Picture:
    """A picture of a notebook's cell."""

    def __init__(self, data: Any, kind: str, caption: str = ""):
        self.data, self.kind, self.caption = data, kind, caption

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {self.kind: self.data, "text/plain": self.caption or "a picture"}


def figure_pictures(report: "Report", words: tuple[str, ...] = ()) -> list[Picture]:
    """The SVG figures of a report, Figure 3 included, whose caption has one of the words; all without any words."""
    from engine.reports.figures import FIGURE_3, tradeoff_figures

    figures = {
        f"{FIGURE_3}, {group}.": svg for group, svg in tradeoff_figures(report.tables.get("tradeoff", [])).items()
    }
    figures |= report.figures
    return [
        Picture(standalone(svg), "image/svg+xml", caption)
        for caption, svg in figures.items()
        if svg.startswith("<svg") and (not words or any(word.lower() in caption.lower() for word in words))
    ]


def standalone(svg: str) -> str:
    """A page's SVG with colours of its own."""
    svg = svg.replace("currentColor", INK).replace("var(--line)", LINE)
    for kind in kinds.SOURCE_KINDS:
        svg = svg.replace(f"var(--{kind.name})", kind.colour)
    return svg


def sheet_picture(sheet: "ContactSheet") -> Picture:
    """A contact sheet as one JPEG, with its captions: a PNG would be five times as large."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = sheet.per_row or min(MOST_PER_ROW, max(1, len(sheet.images)))
    lines = max(1, -(-len(sheet.images) // columns))
    figure = Figure(figsize=(CELL_INCHES * columns, 1.25 * CELL_INCHES * lines), dpi=88, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(sheet.title, fontsize=10, parse_math=False)
    captions = [*sheet.captions, *[""] * (len(sheet.images) - len(sheet.captions))]
    for number in range(lines * columns):
        axes = figure.add_subplot(lines, columns, number + 1)
        axes.axis("off")
        if number < len(sheet.images) and sheet.images[number]:
            axes.imshow(decode_image(sheet.images[number]))
            axes.set_title(_two_lines(captions[number]), fontsize=6.5, parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="jpg", pil_kwargs={"quality": 85})
    return Picture(file.getvalue(), "image/jpeg", sheet.title)


def _two_lines(caption: str) -> str:
    from textwrap import wrap

    return "\n".join(wrap(caption, 20)[:3])
