"""Accounts of runs: their ledger, the rows of killed runs, and errors that a later run has resolved."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.store.ids import IdSet
from engine.store.rows import FEW_IDS, quote
from engine.store.schemas import TABLES, conform

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

LEDGER_KEY = ["run_id", "stage", "source", "dataset", "strategy", "generator"]


def put_ledger(workspace: "Workspace", run_id: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the ledger of a run with `rows`; see `Workspace.put_ledger`."""
    values = [{**row, "run_id": run_id} for row in rows]
    names = dict.fromkeys(key for row in values for key in row)
    table = conform(pa.table({key: [row.get(key) for row in values] for key in names}), TABLES["ledger"])
    with workspace.writing("ledger") as ledger:
        merge = ledger.merge_insert(LEDGER_KEY).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(f"run_id = {quote(run_id)}").execute(table)


def settle(workspace: "Workspace") -> list[str]:
    """Closes the rows of killed runs; see `Workspace.settle_runs`."""
    killed = [row for row in workspace.runs().to_pylist() if row["status"] == "running"]
    if not killed:
        return []
    where = f"run_id IN ({', '.join(quote(row['run_id']) for row in killed)})"
    made, failed = (
        _sums(workspace, "images", ["device_seconds", "usd_compute"], where),
        _sums(workspace, "errors", ["device_seconds"], where),
    )
    for row in killed:
        images, seconds, usd = made.get(row["run_id"], (0, 0.0, 0.0))
        errors, wasted = failed.get(row["run_id"], (0, 0.0))
        # an error has no price of its own: the price of the images' seconds, or of the last reported seconds
        base_usd, base_seconds = (usd, seconds) if seconds else (row["usd_busy"], row["busy_seconds"])
        price = base_usd / base_seconds if base_seconds else 0.0
        counts = {"images": images, "errors": errors, "status": "killed"}
        workspace.put_run(row | counts | {"busy_seconds": seconds + wasted, "usd_busy": usd + wasted * price})
    return [row["run_id"] for row in killed]


def _sums(workspace: "Workspace", name: str, columns: list[str], where: str) -> dict[str, tuple[Any, ...]]:
    """run_id → number of rows and the sum of each column."""
    sums: dict[str, np.ndarray] = {}
    for batch in workspace.dataset(name).scanner(columns=["run_id", *columns], filter=where).to_batches():
        table = pa.Table.from_batches([batch]).group_by("run_id")
        for row in table.aggregate([([], "count_all"), *((column, "sum") for column in columns)]).to_pylist():
            values = np.array([row["count_all"], *(row[f"{column}_sum"] for column in columns)], np.float64)
            sums[row["run_id"]] = sums.get(row["run_id"], 0.0) + values
    return {run: (int(values[0]), *(float(value) for value in values[1:])) for run, values in sums.items()}


def drop_old_errors(workspace: "Workspace", ids: IdSet, run_id: str) -> int:
    """Removes error rows of other runs; see `Workspace.drop_old_errors`."""
    others = f"run_id <> {quote(run_id)}"
    old: list[str] = []
    for batch in workspace.dataset("errors").scanner(columns=["id"], filter=others).to_batches():
        column = batch.column("id")
        old += pc.filter(column, pa.array(ids.contains(column))).to_pylist()
    for start in range(0, len(old), FEW_IDS):
        names = ", ".join(quote(one) for one in old[start : start + FEW_IDS])
        with workspace.writing("errors") as errors:
            errors.delete(f"{others} AND id IN ({names})")
    return len(old)
