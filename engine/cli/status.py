"""`imagefoundry status`: the contents of a workspace in five tables, read without its pixels."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from engine.store import Workspace

KINDS = ("split", "source", "dataset", "strategy", "generator")
"""Columns whose combinations `status` counts."""


@dataclass(frozen=True)
class StatusConfig:
    """The workspace to summarise."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    json: bool = False
    """Print JSON instead of tables."""
    runs: int = 10
    """Newest runs to list."""


@dataclass
class Status:
    """Summary of a workspace."""

    workspace: str
    images: list[dict[str, Any]] = field(default_factory=list)
    """One row per split, source, data set, strategy and generator: images, device seconds, dollars."""
    embeddings: list[dict[str, Any]] = field(default_factory=list)
    """One row per embedding column: dimension, images embedded."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """One row per stage and reason: count and one id."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """The newest runs, newest first. `running` is also the state of a run that was killed and not yet followed by another: its
    `last_report` is then more than a minute old. `images_per_second` is the mean since its start, errors included."""
    tables: list[dict[str, Any]] = field(default_factory=list)
    """One row per table: rows, files, bytes of the newest version, and its version number."""

    def to_json(self) -> str:
        """The summary as JSON."""
        return json.dumps(self.__dict__, indent=1, default=str)

    def print(self) -> None:
        """Prints one table per field; empty ones are left out."""
        from rich.console import Console

        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(f"Workspace {self.workspace}", markup=False, highlight=False)
        for name in ("images", "embeddings", "errors", "runs", "tables"):
            if rows := getattr(self, name):
                console.print(_rich_table(name, rows))
        if not self.images:
            console.print("No images yet.")


def status(config: StatusConfig) -> Status:
    """Summarises a workspace. Raises ValueError if there is none at this place, or if `runs` is negative."""
    from engine.store import Workspace

    if config.runs < 0:
        raise ValueError(f"runs is {config.runs}; give 0 or more")
    workspace = Workspace.open(config.workspace, create=False)
    runs = sorted(workspace.runs().to_pylist(), key=lambda row: row["started_at"], reverse=True)
    return Status(
        workspace.uri,
        _images(workspace),
        _embeddings(workspace),
        _errors(workspace),
        [_run(row) for row in runs[: config.runs]],
        [_table(workspace, name) for name in _table_names()],
    )


def _run(row: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a row of `runs`."""
    seconds = row["wall_seconds"]
    return {
        **{name: row[name] for name in ("run_id", "started_at", "status", "images", "errors")},
        "planned": row.get("planned"),  # a table of an older release lacks it
        "images_per_second": (row["images"] + row["errors"]) / seconds if seconds else 0.0,
        "last_report": row["started_at"] + timedelta(seconds=seconds),
        **{name: row[name] for name in ("nodes", "instance", "wall_seconds", "usd_busy", "usd_billed")},
    }


def _images(workspace: "Workspace") -> list[dict[str, Any]]:
    sums = ("device_seconds", "usd_compute", "usd_labels")
    totals = _group(workspace.scan([*KINDS, *sums]), KINDS, sums)
    rows = [dict(zip((*KINDS, "images", *sums), (*key, *values), strict=True)) for key, values in totals.items()]
    return sorted(rows, key=lambda row: tuple(row[name] for name in KINDS))


def _group(
    batches: Iterable[Any], keys: tuple[str, ...], sums: tuple[str, ...]
) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Values of `keys` → number of rows and the sum of each of `sums`, batch by batch."""
    import pyarrow as pa

    totals: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for batch in batches:
        grouped = pa.Table.from_batches([batch]).group_by(list(keys))
        for row in grouped.aggregate([([], "count_all"), *((name, "sum") for name in sums)]).to_pylist():
            key = tuple(row[name] for name in keys)
            values = (row["count_all"], *(row[f"{name}_sum"] for name in sums))
            before = totals.get(key, (0,) * len(values))
            totals[key] = tuple(a + b for a, b in zip(before, values, strict=True))
    return totals


def _embeddings(workspace: "Workspace") -> list[dict[str, Any]]:
    return [
        {"column": column, "dimension": dimension, "images": workspace.count(f"{column} IS NOT NULL")}
        for column, dimension in workspace.embedding_columns().items()
    ]


def _errors(workspace: "Workspace") -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in workspace.errors().select(["stage", "reason", "id"]).to_pylist():
        key = row["stage"], row["reason"]
        entry = found.setdefault(key, {"stage": key[0], "reason": key[1], "count": 0, "example_id": row["id"]})
        entry["count"] += 1
    return sorted(found.values(), key=lambda row: -row["count"])


def _table_names() -> list[str]:
    from engine.store import TABLES

    return sorted(TABLES)


def _table(workspace: "Workspace", name: str) -> dict[str, Any]:
    dataset = workspace.dataset(name)
    files = [file for fragment in dataset.get_fragments() for file in fragment.metadata.files]
    num_bytes = sum(file.file_size_bytes or 0 for file in files)
    return {
        "table": name,
        "rows": dataset.count_rows(),
        "files": len(files),
        "bytes": num_bytes,
        "version": dataset.version,
    }


def _rich_table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from engine.reports.headings import heading
    from engine.reports.tables import format_value

    table = Table(title=heading(title), title_justify="left", box=None, padding=(0, 1), header_style="dim")
    for name, value in rows[0].items():
        table.add_column(heading(name), justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        # Text, so that a reason with brackets is not taken for markup
        table.add_row(*(Text(_text(name, value) or format_value(name, value)) for name, value in row.items()))
    return table


def _text(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:%Y-%m-%d %H:%M:%S}" if name in ("started_at", "last_report") else ""
