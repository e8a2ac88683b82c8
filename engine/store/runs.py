"""Accounts of runs: their ledger, the rows of killed runs, and errors that a later run has resolved."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.store.ids import IdSet
from engine.store.rows import FEW_IDS, quote
from engine.store.schemas import TABLES, conform

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

KIND = ("source", "dataset", "strategy", "generator")
"""Columns that tell kinds of images apart."""
LEDGER_KEY = ["run_id", "stage", *KIND]
Sums = dict[tuple[str, ...], np.ndarray]
"""Kind of image → sums."""


def put_run(workspace: "Workspace", row: dict[str, Any]) -> None:
    """Sets a row of `runs`; see `Workspace.put_run`."""
    table = conform(pa.table({name: [value] for name, value in row.items()}), TABLES["runs"])
    with workspace.writing("runs") as log:
        merge = log.merge_insert("run_id").when_matched_update_all().when_not_matched_insert_all()
        # a retry would go through after another run's barrier
        merge.conflict_retries(0).execute(table)


def put_ledger(workspace: "Workspace", run_id: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the ledger of a run with `rows`; see `Workspace.put_ledger`."""
    values = [{**row, "run_id": run_id} for row in rows]
    names = dict.fromkeys(key for row in values for key in row)
    columns = {key: [row.get(key) for row in values] for key in names}
    table = conform(pa.table(columns), TABLES["ledger"]) if rows else TABLES["ledger"].empty_table()
    with workspace.writing("ledger") as ledger:
        merge = ledger.merge_insert(LEDGER_KEY).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(f"run_id = {quote(run_id)}").conflict_retries(0).execute(table)


def settle(workspace: "Workspace", statuses: Mapping[str, str] | None = None) -> list[str]:
    """Closes the rows of killed runs; see `Workspace.settle_runs`."""
    killed = [row for row in workspace.runs().to_pylist() if row["status"] == "running"]
    if statuses is not None:
        killed = [row for row in killed if row["run_id"] in statuses]
    if not killed:
        return []
    where = f"run_id IN ({', '.join(quote(row['run_id']) for row in killed)})"
    made = _sums(workspace, "images", ["device_seconds", "usd_compute", "usd_labels"], where)
    failed = _sums(workspace, "errors", ["device_seconds"], where)
    for row in killed:
        run_id = row["run_id"]
        of_run, errors = made.get(run_id, {}), failed.get(run_id, {})
        images, seconds, usd, _ = np.sum([(0, 0.0, 0.0, 0.0), *of_run.values()], axis=0).tolist()
        num_errors, wasted = np.sum([(0, 0.0), *errors.values()], axis=0).tolist()
        # an error has no price of its own: the price of the images' seconds, or of the last reported seconds
        base_usd, base_seconds = (usd, seconds) if seconds else (row["usd_busy"], row["busy_seconds"])
        price = base_usd / base_seconds if base_seconds else 0.0
        status = "killed" if statuses is None else statuses[run_id]
        counts = {"images": int(images), "errors": int(num_errors), "status": status}
        # the status last: a run whose ledger could not be written is settled again
        put_ledger(workspace, run_id, _ledger(workspace, run_id, of_run, errors, price))
        workspace.put_run(row | counts | {"busy_seconds": seconds + wasted, "usd_busy": usd + wasted * price})
    return [row["run_id"] for row in killed]


def _ledger(
    workspace: "Workspace", run_id: str, made: Sums, failed: Sums, usd_per_second: float
) -> list[dict[str, Any]]:
    """The ledger of a run as its rows in the tables say; seconds are spread over the stages as in its last report."""
    rows = workspace.read("ledger", f"run_id = {quote(run_id)}").to_pylist()
    makes = {tuple(row[name] for name in KIND): row for row in rows if row["stage"] == "make"}
    of_images: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    others = []
    for row in rows:
        kind = tuple(row[name] for name in KIND)
        if kind in makes and row["rows"] == makes[kind]["rows"]:
            of_images.setdefault(kind, []).append(row)
        else:  # its seconds are not those of the run's images
            others.append(row)
    found = []
    for kind in {**made, **failed}:
        num, seconds, usd, labels = made.get(kind, np.zeros(4)).tolist()
        wasted = failed.get(kind, np.zeros(2)).tolist()[1]
        stages = of_images.get(kind) or [{"stage": "make", "busy_seconds": 1.0, "rows": 0}]
        total = sum(row["busy_seconds"] for row in stages)
        for row in stages:
            share = row["busy_seconds"] / total if total else 1 / len(stages)
            values = (int(num), share * (seconds + wasted), share * (usd + wasted * usd_per_second))
            sums: dict[str, Any] = dict(zip(("rows", "busy_seconds", "usd_compute"), values, strict=True))
            sums["usd_labels"] = labels if row["stage"] == "make" else 0.0
            sums["fetched_bytes"] = int((row.get("fetched_bytes") or 0) * num / max(1, row["rows"]))
            found.append(dict(zip(KIND, kind, strict=True)) | {"stage": row["stage"]} | sums)
    return others + found


def _sums(workspace: "Workspace", name: str, columns: list[str], where: str) -> dict[str, Sums]:
    """run_id → kind of image → number of rows and the sum of each column."""
    sums: dict[str, Sums] = {}
    for batch in workspace.dataset(name).scanner(columns=["run_id", *KIND, *columns], filter=where).to_batches():
        table = pa.Table.from_batches([batch]).group_by(["run_id", *KIND])
        for row in table.aggregate([([], "count_all"), *((column, "sum") for column in columns)]).to_pylist():
            values = np.array([row["count_all"], *(row[f"{column}_sum"] for column in columns)], np.float64)
            of_run, kind = sums.setdefault(row["run_id"], {}), tuple(row[one] for one in KIND)
            of_run[kind] = of_run.get(kind, 0.0) + values
    return sums


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
            # `delete` would go through although another run has taken over since: a barrier does not stop it
            merge = errors.merge_insert("id").when_not_matched_by_source_delete(f"{others} AND id IN ({names})")
            merge.conflict_retries(0).execute(errors.schema.empty_table())
    return len(old)
