"""Conditions on images that users write."""

import pyarrow as pa

from engine.store.checks import CONDITION_HINT
from engine.store.workspace import Workspace


def ids_where(workspace: Workspace, where: str) -> pa.ChunkedArray:
    """Ids of the images for which an SQL condition holds, all if it is empty. Raises ValueError, one sentence, if it is no condition."""
    try:
        return workspace.scan(["id"], where or None).read_all()["id"]
    except (ValueError, OSError) as error:
        if not where:
            raise
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"where {where!r} is no condition on the images ({reason}); {CONDITION_HINT}") from None
