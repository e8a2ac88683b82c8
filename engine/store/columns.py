"""Columns that are added to a table: to `images` by encoders and stages, to others by a new release."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.recipe import embedding_column
from engine.store.ids import IdSet
from engine.store.schemas import TABLES

if TYPE_CHECKING:
    from engine.store.workspace import Workspace


def ensure(workspace: "Workspace", added: pa.Schema, name: str = "images") -> None:
    """Adds the missing columns to a table; see `Workspace.ensure_columns`."""
    schema = workspace.dataset(name).schema
    missing = [field for field in added if field.name not in schema.names]
    for field in added:
        if field.name in schema.names and schema.field(field.name).type != field.type:
            found = f"column {field.name} of type {schema.field(field.name).type}, not {field.type}"
            fix = "give the encoder or the stage's column another name, or use another workspace"
            raise ValueError(f"workspace {workspace.uri} has a {found}; {fix}")
    if missing:
        with workspace.writing(name) as table:
            table.add_columns(missing)


def ensure_of_release(workspace: "Workspace") -> None:
    """Adds the columns that are new since the tables were made."""
    for name in ("images", "runs", "ledger"):
        ensure(workspace, TABLES[name], name)


def ensure_encoder(workspace: "Workspace", encoder: str, dimension: int) -> None:
    """Adds an encoder's column if it is missing; see `Workspace.ensure_encoder`."""
    column = embedding_column(encoder)
    existing = workspace.embedding_columns().get(column, dimension)
    if existing != dimension:
        fix = "give the encoder another name or use another workspace"
        found = f"embeddings of {encoder} with {existing} numbers, not {dimension}"
        raise ValueError(f"workspace {workspace.uri} holds {found}; {fix}")
    ensure(workspace, pa.schema([pa.field(column, pa.list_(pa.float32(), dimension))]))


def ids_lacking(workspace: "Workspace", names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Committed ids that are null in one of the columns; see `Workspace.ids_lacking`."""
    if not names:
        return []
    condition = " OR ".join(f"{name} IS NULL" for name in names)
    empty = IdSet(batch.column("id") for batch in workspace.scan(["id"], condition))
    return [one for one, missing in zip(ids, empty.contains(ids), strict=True) if missing]
