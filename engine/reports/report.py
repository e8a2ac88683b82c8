"""A report: tables, contact sheets and notes, written as `report.json` and one HTML page, or printed."""

import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.reports.aggregate import Row, columns_of
from engine.reports.headings import heading
from engine.reports.tables import average_over_seeds, format_value, headlines

if TYPE_CHECKING:
    from rich.console import Console

PRINTED = {
    "tradeoff": ("group", "dataset", "source", "strategy", "shots", "zero_shot", "cler", "linear_probe", "usd_busy"),
    "realrag": ("dataset", "method", "seeds", "accuracy", "clip_i", "clip_t", "fid", "right_references"),
    "retrieval": ("dataset", "method", "precision_at_1", "precision_at_10", "recall_at_10", "index_recall"),
    "costs": ("source", "dataset", "generator", "images", "usd_busy", "usd_billed", "usd_per_image"),
    "ledger": ("stage", "source", "generator", "rows", "busy_seconds", "usd_compute", "usd_labels", "fetched_bytes"),
    "errors": ("stage", "reason", "count", "example_id", "examples"),
    "rating": (),
    "table_2": (),
    "table_3": (),
    "injection_by_knowledge": (),
    "figure_8": (),
    "choice": ("dataset", "strategy", "shots", "cler", "cler_ensemble", "linear_probe"),
    "figure_4": ("score", "group", "n", "pearson", "pearson_low", "pearson_high", "spearman"),
    "figure_5": ("shots", "metric", "seconds", "probe_ratio"),
    "figure_6": ("group", "n", "pearson", "pearson_low", "pearson_high", "spearman"),
    "figure_9": ("group", "n", "pearson", "pearson_low", "pearson_high", "spearman"),
    "figure_10": ("group", "n", "pearson", "pearson_low", "pearson_high", "spearman"),
    "section_12_2": ("score", "group", "n", "pearson", "pearson_low", "pearson_high", "spearman"),
    "allocation": (),
    "budget": ("dataset", "strategy", "cler", "linear_probe", "expected", "usd_busy"),
    "splits": (),
    "account": (),
    "broken": (),
    "duplicates": (),
    "budget_mean": ("strategy", "cler", "linear_probe", "expected", "usd_busy"),
}
"""Tables and columns that the terminal shows (all columns where none are named); the page shows everything."""


@dataclass(kw_only=True, slots=True)
class ContactSheet:
    """Some images of one source to look at."""

    title: str
    """Heading above the images."""
    group: str
    """Group of data sets: `common`, `fine-grained`, `rare`, …"""
    source: str
    """Name of the source (`engine.sources.kinds`), or of another kind of sheet."""
    images: list[bytes] = field(default_factory=list)
    """Encoded images: PNG, JPEG, WebP or GIF."""
    captions: list[str] = field(default_factory=list)
    """A caption for each image; may be shorter."""
    per_row: int = 0
    """Images of a row, so that what belongs together stands in one line; 0: as many as fit. An empty image leaves its place free."""
    ids: list[str] = field(default_factory=list)
    """Ids of the images in the workspace, by which a kept report shows them again; may be empty."""

    def show(self) -> None:
        """Shows the images in a notebook, as one picture with their captions."""
        from IPython.display import display

        from engine.reports.notebook import sheet_picture

        display(sheet_picture(self))


@dataclass(kw_only=True, slots=True)
class Report:
    """The results of a study.

    Tables with a place of their own on the page, each a list of rows; any may be missing, and others are shown as they are:

    - `tradeoff`: dataset, group, source, strategy, shots, seed, zero_shot, cler, cler_ensemble, linear_probe (shares
      from 0 to 1), images, usd_busy, usd_billed, usd_per_image.
    - `costs`: the rows of `engine.costs.summarise`.
    - `ledger`: the rows of `engine.costs.summarise_stages`.
    - `errors`: stage, reason, count, example_id, examples (files).
    - `files`: dataset, split, verdict (`used`, `ignored`, `refused`), reason, count, examples.
    - `runs`: the rows of the workspace's run table.
    - `genbench_table_1`, `genbench_table_5`: taken from the shipped price book if they are missing.
    """

    title: str = "Image Foundry report"
    """Heading of the page."""
    findings: list[str] = field(default_factory=list)
    """What was found, in one or two sentences with the spread, computed from the tables; the page begins with them."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """Rows by table name."""
    sheets: list[ContactSheet] = field(default_factory=list)
    """Images to look at."""
    figures: dict[str, str] = field(default_factory=dict)
    """Caption → picture as HTML with a text alternative (`engine.reports.figures`, `comparisons`, `maps`), beside Figure 3, which the
    page plots from `tradeoff`."""
    parts: list["Report"] = field(default_factory=list)
    """Reports that the page shows one after the other before its own tables, as those of all studies of a workspace."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a reader must know: how things were measured, and what does not follow from them."""

    def to_json(self) -> str:
        """`{"tables": {name: [rows]}, "title": …, "findings": […], "notes": […]}`; a NaN or infinite number is null."""
        return json.dumps(plain(self._as_dict()), indent=1, ensure_ascii=False, allow_nan=False)

    def _as_dict(self) -> dict[str, Any]:
        data = {"title": self.title, "findings": self.findings, "notes": self.notes, "tables": self.tables}
        return data | ({"parts": [part._as_dict() for part in self.parts]} if self.parts else {})

    def write(self, folder: str | Path) -> Path:
        """Writes `report.json` and `index.html` into `folder`, which is made if need be; returns the path of the page.

        Each file is replaced at once, so a reader never sees half of it. The page needs no other file and no network.
        """
        from engine.reports.page import render

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "report.json", self.to_json())
        _replace(folder / "index.html", render(self))
        return folder / "index.html"

    def show(self, *words: str) -> None:
        """Shows in a notebook the figures whose caption has one of these words; all of them without any words."""
        from IPython.display import display

        from engine.reports.notebook import figure_pictures

        display(*figure_pictures(self, words))

    def print(self, console: "Console | None" = None) -> None:
        """Prints the headlines and the tables of `PRINTED`."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        # a log file has no width of its own, and 80 columns would break every name
        console = console or Console(width=None if sys.stdout.isatty() else 140)
        console.print(Text(self.title, style="bold"))
        for line in (*self.findings, *headlines(self.tables)):
            console.print(Text(f"  {line}"))
        for name, columns in PRINTED.items():
            rows = self.tables.get(name, [])
            rows = average_over_seeds(rows) if name == "tradeoff" else rows
            present = [column for column in columns_of(rows) if not columns or column in columns]
            if not rows:
                continue
            table = Table(title=heading(name), title_justify="left", box=None, padding=(0, 1), header_style="dim")
            for column in present:
                is_number = any(isinstance(row.get(column), int | float) for row in rows)
                table.add_column(heading(column), justify="right" if is_number else "left", overflow="fold")
            for row in rows:
                # Text, so that a class name with brackets is not taken for markup
                table.add_row(*(Text(format_value(column, row.get(column), row)) for column in present))
            console.print(table)
        for note in self.notes:
            console.print(Text(f"Note: {note}", style="dim"))


def plain(value: Any) -> Any:
    """The value in the types of JSON."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item"):  # a NumPy scalar
        return plain(value.item())
    return str(value)


def _replace(path: Path, text: str) -> None:
    """Writes a file beside `path` and moves it over, so that `path` holds either the old text or the new."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the report from a web server
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
