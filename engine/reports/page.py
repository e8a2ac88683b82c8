"""A report as one HTML file that loads nothing else."""

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.costs import TABLE_5_NOTE, genbench_table_1, genbench_table_5
from engine.reports.aggregate import Row, columns_of, is_number
from engine.reports.figures import FIGURE_3, tradeoff_figures
from engine.reports.headings import heading, source_name
from engine.reports.tables import (
    average_over_seeds,
    best_cells,
    format_usd,
    format_value,
    headlines,
    made_and_spent,
)
from engine.sources import kinds

if TYPE_CHECKING:
    from engine.reports.report import ContactSheet, Report

SHOWN_ROWS = 200
"""Rows of a table on the page; report.json has all."""
SHEETS_OF_PART = 4
"""Contact sheets of a report inside a page, where none compares images line by line."""
SHOWN_PIXELS = 192
"""Longest side of an image on the page."""
KNOWN_TABLES = ("tradeoff", "costs", "ledger", "errors", "runs", "genbench_table_1", "genbench_table_5")
UNSHOWN = (*KNOWN_TABLES[1:], "files", "genbench_figure_3")
"""Tables that a report inside a page leaves to the page."""
_PLACES = re.compile(r'((?<=\s)id="|(?<=\s)(?:xlink:)?href="#|url\(#)')
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
        "columns_of": shown_columns,
        "format_value": format_value,
        "is_number": is_number,
        "shown_rows": SHOWN_ROWS,
        "sources": kinds.SOURCE_KINDS,
        "source_names": [kind.name for kind in kinds.SOURCE_KINDS],
    }
    tables, made = report.tables, made_and_spent(report.tables)
    others = {name: rows for name, rows in tables.items() if rows and name not in KNOWN_TABLES}
    # matplotlib escapes the text of its figures, so its SVG is safe as it is
    figures = _figures(report)
    # other studies have their own tables and figures
    genbench = bool(tables.get("tradeoff")) or not (others or report.figures or report.findings)
    return environment.get_template("page.html.jinja").render(
        title=report.title,
        findings=report.findings,
        notes=report.notes,
        headlines=headlines(tables)[bool(made["images"]) :],  # the cards say the first one
        made=made,
        tradeoff=average_over_seeds(tables.get("tradeoff", [])),
        figures={caption: Markup(picture) for caption, picture in figures.items()},
        figure_3=any(caption.startswith(FIGURE_3) for caption in figures),
        parts=[_part(part, number) for number, part in enumerate(report.parts)],
        costs=tables.get("costs", []),
        ledger=tables.get("ledger", []),
        table_1=tables.get("genbench_table_1") or genbench_table_1(),
        table_5=tables.get("genbench_table_5") or genbench_table_5(),
        table_5_note=TABLE_5_NOTE,
        sheets=[_sheet(sheet) for sheet in sorted(report.sheets, key=lambda sheet: (sheet.group, sheet.source))],
        errors=tables.get("errors", []),
        runs=tables.get("runs", []),
        others=others,
        genbench=genbench,
        priced=genbench or any(tables.get(name) for name in ("costs", "ledger", "errors", "runs")),
    )


def shown_columns(rows: list[Row]) -> list[str]:
    """All columns; leading ones that are equal in all rows come last, so that the column that stays in view tells rows apart."""
    columns = columns_of(rows)
    if len(rows) < 2:
        return columns
    varied = next((place for place, name in enumerate(columns) if len({str(row.get(name)) for row in rows}) > 1), 0)
    return [*columns[varied:], *columns[:varied]]


def data_uri(image: bytes) -> str | None:
    """The encoded image as a `data:` URI; None if it is not PNG, JPEG, WebP or GIF."""
    kind = next((kind for magic, kind in _KINDS if image.startswith(magic)), None)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}" if kind else None


def _figures(report: "Report") -> dict[str, str]:
    """Caption → figure: the panels of the trade-off, if it has several numbers of shots or nothing else is plotted, and the report's own."""
    rows = report.tables.get("tradeoff", [])
    own = {caption: picture for caption, picture in report.figures.items() if picture}
    if own and len({row.get("shots") for row in rows}) < 2:
        return own
    return {f"{FIGURE_3}, {group}.": svg for group, svg in tradeoff_figures(rows).items()} | own


def _part(part: "Report", number: int) -> dict[str, Any]:
    """A report inside a page, its figures' ids made its own."""
    from markupsafe import Markup

    compared = [sheet for sheet in part.sheets if sheet.per_row]
    tables = {name: rows for name, rows in part.tables.items() if rows and name not in UNSHOWN}
    if "tradeoff" in tables:
        tables["tradeoff"] = average_over_seeds(tables["tradeoff"])
    return {
        "title": part.title,
        "findings": part.findings,
        "notes": part.notes,
        "figures": {caption: Markup(own_ids(picture, f"p{number}-")) for caption, picture in _figures(part).items()},
        "sheets": [_sheet(sheet) for sheet in compared or part.sheets[:SHEETS_OF_PART]],
        "tables": tables,
    }


def own_ids(svg: str, prefix: str) -> str:
    """The SVG with `prefix` before its ids, so that two of one page do not share one."""
    return _PLACES.sub(rf"\g<1>{prefix}", svg)


def _sheet(sheet: "ContactSheet") -> dict[str, Any]:
    captions = list(sheet.captions) + [""] * (len(sheet.images) - len(sheet.captions))
    images = [
        {"uri": data_uri(thumbnail(image)), "caption": caption, "empty": not image}
        for image, caption in zip(sheet.images, captions, strict=False)
    ]
    about = ", ".join(dict.fromkeys(filter(None, (sheet.group, source_name(sheet.source)))))
    return {"title": sheet.title, "about": about, "source": sheet.source, "images": images, "per_row": sheet.per_row}


def thumbnail(image: bytes) -> bytes:
    """The encoded image, scaled down if it is larger than the page shows it; bytes that are no image stay as they are."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(image)) as picture:
            if max(picture.size) <= SHOWN_PIXELS:
                return image
            picture = picture.convert("RGB")
            picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=80)
            return file.getvalue()
    except (OSError, ValueError, PIL.Image.DecompressionBombError):
        return image
