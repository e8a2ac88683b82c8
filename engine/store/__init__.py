"""The one table of images and its companions, on a disk or an object store: opened, committed to, locked, searched, kept small."""

import os

# its warnings (an index partition that is empty, a new default) are no matter of the user's
os.environ.setdefault("LANCE_LOG", "error")

from engine.store.commit import CommitFailed, Committer
from engine.store.fence import WorkspaceLost
from engine.store.ids import IdSet
from engine.store.receipts import Receipt, write_fragments
from engine.store.schemas import LEDGER_SCHEMA, NEGATIVE_SCHEMA, RUN_SCHEMA, TABLES
from engine.store.verify import VerifyReport
from engine.store.workspace import Workspace

__all__ = [
    "LEDGER_SCHEMA",
    "NEGATIVE_SCHEMA",
    "RUN_SCHEMA",
    "TABLES",
    "CommitFailed",
    "Committer",
    "IdSet",
    "Receipt",
    "VerifyReport",
    "Workspace",
    "WorkspaceLost",
    "write_fragments",
]
