"""A report as one HTML file that loads nothing else."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.costs import TABLE_5_NOTE, genbench_table_1, genbench_table_5
from engine.reports.aggregate import columns_of, is_number
from engine.reports.figures import tradeoff_figures
from engine.reports.tables import (
    average_over_seeds,
    best_cells,
    format_usd,
    format_value,
    heading,
    headlines,
    made_and_spent,
)
from engine.sources import kinds

if TYPE_CHECKING:
    from engine.reports.report import Report

KNOWN_TABLES = ("tradeoff", "costs", "ledger", "errors", "runs", "genbench_table_1", "genbench_table_5")
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


def render(report: "Report") -> str:
    """The report as HTML. Text is escaped, images are data URIs, figures are inline SVG, nothing is loaded."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"heading": heading, "usd": format_usd}
    environment.globals |= {
        "best_cells": best_cells,
        "columns_of": columns_of,
        "format_value": format_value,
        "is_number": is_number,
        "sources": kinds.SOURCE_KINDS,
        "source_names": [kind.name for kind in kinds.SOURCE_KINDS],
    }
    tables = report.tables
    others = {name: rows for name, rows in tables.items() if name not in KNOWN_TABLES}
    # matplotlib escapes the text of its figures, so its SVG is safe as it is
    figures = {group: Markup(svg) for group, svg in tradeoff_figures(tables.get("tradeoff", [])).items()}
    return environment.get_template("page.html.jinja").render(
        title=report.title,
        notes=report.notes,
        headlines=headlines(tables),
        made=made_and_spent(tables),
        tradeoff=average_over_seeds(tables.get("tradeoff", [])),
        figures=figures,
        more_figures={caption: Markup(svg) for caption, svg in report.figures.items() if svg},
        costs=tables.get("costs", []),
        ledger=tables.get("ledger", []),
        table_1=tables.get("genbench_table_1") or genbench_table_1(),
        table_5=tables.get("genbench_table_5") or genbench_table_5(),
        table_5_note=TABLE_5_NOTE,
        sheets=[_sheet(sheet) for sheet in sorted(report.sheets, key=lambda sheet: (sheet.group, sheet.source))],
        errors=tables.get("errors", []),
        runs=tables.get("runs", []),
        others=others,
        # other studies have their own tables and figures
        genbench=bool(tables.get("tradeoff")) or not (others or report.figures),
    )


def data_uri(image: bytes) -> str | None:
    """The encoded image as a `data:` URI; None if it is not PNG, JPEG, WebP or GIF."""
    kind = next((kind for magic, kind in _KINDS if image.startswith(magic)), None)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}" if kind else None


def _sheet(sheet: Any) -> dict[str, Any]:
    captions = list(sheet.captions) + [""] * (len(sheet.images) - len(sheet.captions))
    images = [
        {"uri": data_uri(image), "caption": caption} for image, caption in zip(sheet.images, captions, strict=False)
    ]
    return {"title": sheet.title, "group": sheet.group, "source": sheet.source, "images": images, "wide": sheet.wide}
