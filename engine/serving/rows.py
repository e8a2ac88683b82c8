"""Rows that a replica hands to the writer, as Arrow IPC streams."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from engine.dataflow.rows import Pricing, Row, to_tables
from engine.serving.orders import Order
from engine.store.vectors import from_matrix


@dataclass
class Rows:
    """Images or errors, their embeddings, who may see them, and the requests that asked for them."""

    rows: Sequence[Row]
    columns: dict[str, np.ndarray]
    """Embedding column → `[N, D] float32`; empty for errors and for images without embeddings."""
    owners: Sequence[str | None]
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `requests`."""

    def to_bytes(self, pricing: Pricing, run_id: str, device: str) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
        """Table → its rows, and the ledger's rows of the work."""
        tables = to_tables(self.rows, pricing, run_id, device, pa.schema([]))
        found: dict[str, bytes] = {}
        if tables.images.num_rows:
            images = tables.images.append_column("owner", pa.array(list(self.owners), pa.string()))
            for name, matrix in self.columns.items():
                images = images.append_column(name, from_matrix(matrix))
            found["images"] = to_bytes(images)
        if tables.errors.num_rows:
            found["errors"] = to_bytes(tables.errors)
        if self.requests:
            found["requests"] = to_bytes(pa.Table.from_pylist(self.requests))
        return found, tables.work


def to_bytes(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def request_row(order: Order, image_id: str, is_new: bool, wait: float, seconds: float, usd: float) -> dict[str, Any]:
    """A row of `requests`: an image that an order was answered with."""
    return {
        "request_id": order.request_id,
        "key_id": order.caller.key_id,
        "image_id": image_id,
        "endpoint": order.endpoint,
        "requested_at": datetime.now(UTC),
        "is_new": is_new,
        "wait_seconds": wait,
        "device_seconds": seconds,
        "usd": usd,
        "end_user": order.end_user,
    }
