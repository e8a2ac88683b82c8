"""Workspaces of older schemas: what changed between two schema versions, done once when such a workspace is opened.

A column that may be null needs no version: tables without it are read as they are, and the next run that writes adds it. A change
that older rows do not fit (another type, another name, a required column) raises `SCHEMA_VERSION` and adds one row to `MIGRATIONS`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.recipe import IMAGE_SCHEMA, SCHEMA_VERSION
from engine.store.checks import check_schema
from engine.store.lock import workspace_lock
from engine.store.schemas import VERSION_KEY

if TYPE_CHECKING:
    from engine.store.workspace import Workspace


@dataclass(frozen=True)
class Migration:
    """One step, from a schema version to the next."""

    summary: str
    """The change, as the user reads it: `column seed is 64 bits wide`."""
    apply: Callable[["Workspace"], None]
    """Changes the tables. It is run again if it was interrupted, so a change that is there already must not fail."""


MIGRATIONS: dict[int, Migration] = {}
"""Schema version → the step to the next one. A test needs one for every version from 1 on."""


def migrate(workspace: "Workspace") -> None:
    """Brings the tables to this release's schema under the workspace's lock, and says so in one line on stderr.

    Raises ValueError if the tables are not a workspace's or of a schema to which no steps lead, or if a run or a server writes to the
    workspace at the moment.
    """
    found = version_of(workspace)
    if found is not None and found < SCHEMA_VERSION and all(one in MIGRATIONS for one in range(found, SCHEMA_VERSION)):
        _upgrade(workspace, found)
    check_schema(workspace.uri, workspace.image_schema())
    say_what_is_new(workspace)


def _upgrade(workspace: "Workspace", found: int) -> None:
    with workspace_lock(workspace.uri, "migration"):
        for version in range(version_of(workspace) or found, SCHEMA_VERSION):
            MIGRATIONS[version].apply(workspace)
            key = VERSION_KEY.decode()
            workspace.dataset("images").update_schema_metadata({key: str(version + 1)})
    done = "; ".join(MIGRATIONS[version].summary for version in range(found, SCHEMA_VERSION))
    print(
        f"Workspace {workspace.uri} was upgraded from schema {found} to {SCHEMA_VERSION}: {done}. Older releases cannot open it any more.",
        file=sys.stderr,
        flush=True,
    )


def version_of(workspace: "Workspace") -> int | None:
    """The schema version of the table `images`; None if it does not say one."""
    text = (workspace.image_schema().metadata or {}).get(VERSION_KEY, b"").decode()
    return int(text) if text.isdigit() else None


def say_what_is_new(workspace: "Workspace") -> None:
    """Names the columns that an older release's table lacks, on stderr."""
    names = workspace.image_schema().names
    lacking = [field.name for field in IMAGE_SCHEMA if field.nullable and field.name not in names]
    if lacking:
        print(
            f"Workspace {workspace.uri} was made by an older release and has no {', '.join(lacking)}; they read as unknown, and the "
            "next run that writes adds them.",
            file=sys.stderr,
            flush=True,
        )
