"""`imagefoundry report`: one page of everything that was ever measured in a workspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.reports import ContactSheet, Report
    from engine.store import Workspace

SHEET_IMAGES = 12
"""Images of a contact sheet: one data set, source and strategy."""
MOST_SHEETS = 24


@dataclass(frozen=True, kw_only=True)
class WorkspaceReportConfig:
    """The workspace to report on."""

    workspace: str
    """Folder or s3://bucket/prefix of the workspace."""
    report: Path = Path("report")
    """Folder of report.json and index.html."""


def workspace_report(config: WorkspaceReportConfig) -> "Report":
    """Writes a page of the workspace: the results of its studies, images by class and source, ratings, heads, runs, dollars, errors.

    The newest result of each study is shown whole. Nothing is computed anew, and nothing is written into the workspace, but
    the empty tables that one of an older release lacks.
    Raises ValueError if there is no workspace at this place.
    """
    from engine.store import Workspace

    report = build(Workspace.open(config.workspace, create=False))
    report.write(config.report)
    return report


def build(workspace: "Workspace") -> "Report":
    """The report of a workspace."""
    from engine.export.audit import rating_rows
    from engine.reports import Report
    from engine.reports.comparisons import line_figure
    from engine.reports.figures import bar_figure
    from engine.studies.kept_reports import kept_reports
    from engine.studies.losses import group_errors
    from engine.studies.scoring import Bills, cost_tables

    images = _images(workspace)
    kinds = _by_kind(images)
    kept = kept_reports(workspace)
    newest = {one.study: one for one in reversed(kept) if one.report is not None}
    heads = workspace.heads().to_pylist()
    tables = {
        "kept_reports": [
            {"study": one.study, "created_at": one.created_at.isoformat(timespec="seconds")}
            | {"found": one.report.findings[0] if one.report and one.report.findings else _unread(one.report)}
            for one in kept
        ],
        "images_by_kind": kinds,
        "images_by_class": _by_class(images),
        "equal_pixels": _equal_pixels(workspace),
        "embeddings": [
            {"column": column, "dimension": size, "images": workspace.count(f"{column} IS NOT NULL")}
            for column, size in workspace.embedding_columns().items()
        ],
        "rating": rating_rows(workspace),
        "heads": [_head(row) for row in sorted(heads, key=lambda row: row["created_at"], reverse=True)],
        "requests": _requests(workspace),
        **cost_tables(workspace, Bills(workspace)),
        "errors": group_errors(workspace.errors().to_pylist()),
    }
    made = {_kind_name(row): float(row["images"]) for row in kinds if row["split"] != "test"}
    figures = {
        "Images that are not test images, by source, strategy and generator.": bar_figure(
            _summed(made), title="Images", label="images"
        ),
        "Precision on validation images of every trained head by epoch (the newest of each name).": line_figure(
            _curves(heads), title="Training of the heads", x="epoch", y="P@1 (%)"
        ),
    }
    name = workspace.uri.rstrip("/").rsplit("/", 1)[-1]
    return Report(
        title=f"Workspace {name}",
        findings=_findings(kinds, tables, newest),
        tables={name: rows for name, rows in tables.items() if rows},
        figures={caption: picture for caption, picture in figures.items() if picture},
        sheets=_sheets(workspace, images),
        parts=[one.report for one in newest.values() if one.report],
        notes=[]
        if kept
        else [
            "No study has kept a result here yet; run one again on this workspace, and it only scores what is there."
        ],
    )


def _images(workspace: "Workspace") -> Any:
    """A polars frame of the recipe's columns that images are counted by, in the table's order."""
    import polars as pl
    import pyarrow as pa

    columns = ["id", "split", "source", "dataset", "strategy", "generator", "class_index", "class_name", "reference_id"]
    schema = pa.schema([workspace.image_schema().field(name) for name in columns])
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches(workspace.scan(columns), schema)))


def _by_kind(images: Any) -> list[dict[str, Any]]:
    keys = ["source", "dataset", "split", "strategy", "generator"]
    counted = images.group_by(keys).len("images").sort(keys)
    return [dict(row) for row in counted.iter_rows(named=True)]


def _by_class(images: Any) -> list[dict[str, Any]]:
    """One row per class, one column per source and strategy."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    keys = ["dataset", "class_index", "class_name", "split", "source", "strategy"]
    for row in images.group_by(keys).len("images").sort(keys).iter_rows(named=True):
        found = rows.setdefault(
            (row["dataset"], row["class_index"]), {"class_name": row["class_name"], "dataset": row["dataset"]}
        )
        column = "test images" if row["split"] == "test" else _kind_name(row | {"generator": ""})
        found[column] = found.get(column, 0) + row["images"]
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    return [{name: row.get(name, 0) for name in columns} for row in rows.values()]


def _kind_name(row: dict[str, Any]) -> str:
    from engine.reports.headings import source_name, strategy_words

    parts = [source_name(row["source"]), strategy_words(row["strategy"]), row["generator"]]
    return ", ".join(part for part in parts if part)


def _summed(counts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(counts.items(), key=lambda one: -one[1]))


def _equal_pixels(workspace: "Workspace") -> list[dict[str, Any]]:
    """Images of equal pixels, by the splits that they are in; near-duplicates are looked for by `imagefoundry audit`."""
    import polars as pl
    import pyarrow as pa

    columns = ["split", "content_hash"]
    schema = pa.schema([workspace.image_schema().field(name) for name in columns])
    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(workspace.scan(columns), schema)))
    groups = frame.group_by("content_hash").agg(pl.len().alias("n"), pl.col("split").unique().sort().str.join(" and "))
    repeated = groups.filter(pl.col("n") > 1).group_by("split").agg(pl.len().alias("distinct"), pl.col("n").sum())
    return [
        {"equal images in": row["split"], "distinct images": row["distinct"], "rows": row["n"]}
        for row in repeated.sort("split").iter_rows(named=True)
    ]


def _head(row: dict[str, Any]) -> dict[str, Any]:
    import json

    curves = json.loads(row["curves"])
    best = max((one["precision_at_1"] for one in curves), default=None)
    return {
        "head": row["name"],
        "method": row["label"],
        "encoder": row["encoder"],
        "epoch": row["epoch"],
        "precision_at_1": best,
        "created_at": row["created_at"].isoformat(timespec="seconds"),
    }


def _curves(heads: list[dict[str, Any]]) -> dict[str, list[tuple[float, float, float | None]]]:
    import json

    from engine.reports.headings import method_name

    found: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in sorted(heads, key=lambda row: row["created_at"]):
        if not row["kept"] and row["label"] != "option":
            curve = json.loads(row["curves"])
            found[method_name(row["label"])] = [(one["epoch"], 100 * one["precision_at_1"], None) for one in curve]
    return found


def _requests(workspace: "Workspace") -> list[dict[str, Any]]:
    """One row per endpoint of the server."""
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(workspace.read("requests")))
    if frame.is_empty():
        return []
    sums = [pl.len().alias("images"), pl.col("is_new").sum().alias("made"), pl.col("usd").sum().alias("usd_busy")]
    counted = frame.group_by("endpoint").agg(*sums, pl.col("wait_seconds").median().alias("median_wait_seconds"))
    return [dict(row) for row in counted.sort("endpoint").iter_rows(named=True)]


def _sheets(workspace: "Workspace", images: Any) -> "list[ContactSheet]":
    """One sheet per data set, source and strategy: the first image of some classes, after its reference where it has one."""
    import polars as pl

    from engine.reports import ContactSheet
    from engine.reports.headings import strategy_words
    from engine.studies.kept_reports import pictures_of

    sheets = []
    made = images.filter(pl.col("split") != "test")
    for keys, members in list(made.group_by(["dataset", "source", "strategy"], maintain_order=True))[:MOST_SHEETS]:
        firsts = members.unique("class_index", keep="first", maintain_order=True).sort("class_index")
        firsts = firsts.gather_every(max(1, len(firsts) // SHEET_IMAGES)).head(SHEET_IMAGES)
        cells: list[tuple[str, str]] = []
        for row in firsts.iter_rows(named=True):
            if row["reference_id"]:
                cells.append((row["reference_id"], f"{row['class_name']}: reference"))
            cells.append((row["id"], row["class_name"]))
        pictures = pictures_of(workspace, [name for name, _ in cells])
        cells = [(name, text) for name, text in cells if name in pictures]
        dataset, source, strategy = keys
        sheets.append(
            ContactSheet(
                title=f"{dataset}: {strategy_words(strategy)}" if strategy else str(dataset),
                group="",
                source=str(source),
                images=[pictures[name] for name, _ in cells],
                captions=[text for _, text in cells],
                ids=[name for name, _ in cells],
            )
        )
    return sheets


def _findings(kinds: list[dict[str, Any]], tables: dict[str, Any], newest: dict[str, Any]) -> list[str]:
    from engine.reports.headings import source_name
    from engine.reports.tables import format_usd, made_and_spent
    from engine.studies.findings import counted

    if not kinds:
        return ["The workspace has no images yet."]
    counts: dict[str, int] = {}
    for row in kinds:
        name = "test" if row["split"] == "test" else source_name(row["source"])
        counts[name] = counts.get(name, 0) + row["images"]
    spent = made_and_spent(tables)
    parts = ", ".join(f"{num:,} {name}" for name, num in counts.items())
    classes = len(tables["images_by_class"])
    datasets = len({row["dataset"] for row in kinds})
    studies = ", ".join(newest) or "none"
    return [
        f"{sum(counts.values()):,} images ({parts}) of {counted(classes, 'class', 'classes')} in "
        f"{counted(datasets, 'data set')}, for {format_usd(spent['usd_busy'])} busy, "
        f"made by {counted(spent['runs'], 'run')}; {spent['errors']:,} failed.",
        f"Studies with results below: {studies}.",
    ]


def _unread(report: "Report | None") -> str:
    return "no finding" if report else "kept by a newer release, which can show it"
