"""Results of studies, kept in the workspace that they are about, so that a page of everything can be made at any time."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from engine.images import viewable
from engine.reports import ContactSheet, Report
from engine.reports.report import plain
from engine.store import Workspace

VERSION = 1
"""Of the layout of `content`; a reader takes its own and earlier ones."""
OF_WORKSPACE = (
    "costs",
    "ledger",
    "runs",
    "errors",
    "files",
    "genbench_table_1",
    "genbench_table_5",
    "genbench_figure_3",
)
"""Tables that are not kept: they follow from the workspace, the data sets or the price book."""
PICTURES = ("<svg ", '<img src="data:image/png;base64,')
"""Beginnings of figures that are shown again."""


@dataclass(frozen=True)
class KeptReport:
    """One result of a study."""

    report_id: str
    study: str
    """Name of the study, as that of its subcommand."""
    created_at: datetime
    config: dict[str, Any]
    report: Report | None
    """The report, with the images of its sheets from the workspace; None if a newer release kept it in a layout unknown to this one."""


def keep_report(workspace: Workspace, study: str, config: Any, report: Report) -> str:
    """Adds a report to the workspace, unless an equal one is there; returns its id.

    Args:
        study: name of the study.
        config: dataclass of its settings.
        report: what it found; of sheets the ids and captions are kept, not the pixels.
    """
    content = {
        "title": report.title,
        "findings": report.findings,
        "notes": report.notes,
        "tables": {name: rows for name, rows in report.tables.items() if rows and name not in OF_WORKSPACE},
        "figures": report.figures,
        "sheets": [
            {"title": one.title, "group": one.group, "source": one.source, "captions": one.captions}
            | {"ids": one.ids, "per_row": one.per_row}
            for one in report.sheets
            if one.ids
        ],
    }
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    settings = json.dumps(plain(asdict(config)), ensure_ascii=False, sort_keys=True)
    report_id = blake2b(b"\0".join([study.encode(), settings.encode(), text]), digest_size=16).hexdigest()
    known = workspace.dataset("reports").to_table(columns=["report_id"]).column("report_id").to_pylist()
    if report_id not in known:
        row = {
            "report_id": report_id,
            "study": study,
            "title": report.title,
            "config": settings,
            "created_at": datetime.now(UTC),
            "version": VERSION,
            "content": zlib.compress(text, 9),
        }
        workspace.add_rows("reports", pa.Table.from_pylist([row]))
    return report_id


def kept_reports(workspace: Workspace) -> list[KeptReport]:
    """All results of studies in a workspace, the newest first."""
    rows = sorted(workspace.read("reports").to_pylist(), key=lambda row: row["created_at"], reverse=True)
    return [
        KeptReport(
            row["report_id"],
            row["study"],
            row["created_at"],
            json.loads(row["config"]),
            _report(workspace, json.loads(zlib.decompress(row["content"]))) if row["version"] <= VERSION else None,
        )
        for row in rows
    ]


def _report(workspace: Workspace, content: dict[str, Any]) -> Report:
    return Report(
        title=content["title"],
        findings=content["findings"],
        notes=content["notes"],
        tables=content["tables"],
        # a workspace may come from anywhere, so nothing but a picture is shown as it is
        figures={name: one for name, one in content["figures"].items() if one.startswith(PICTURES)},
        sheets=[_sheet(workspace, one) for one in content["sheets"]],
    )


def _sheet(workspace: Workspace, kept: dict[str, Any]) -> ContactSheet:
    pictures = pictures_of(workspace, kept["ids"])
    return ContactSheet(
        title=kept["title"],
        group=kept["group"],
        source=kept["source"],
        images=[pictures.get(name, b"") for name in kept["ids"]],
        captions=kept["captions"],
        per_row=kept["per_row"],
        ids=kept["ids"],
    )


def pictures_of(workspace: Workspace, ids: Sequence[str]) -> dict[str, bytes]:
    """Id → encoded image, for the ids that are in the table."""
    table = workspace.fetch([name for name in dict.fromkeys(ids) if name], ["image"])
    images = table.column("image").to_pylist()
    return {name: viewable(image) for name, image in zip(table.column("id").to_pylist(), images, strict=True)}
