"""The labels of images that have several: columns of the table, set by the run that reads the images.

A recipe names one class, the one that the image was sampled for. The other labels belong to the data set, so the driver, which has
the data set's index, writes them beside the rows: no worker needs the index, and a table of an older release gets them at its next run.
"""

import pyarrow as pa

from engine.sources import Plan
from engine.sources.plan import several_labels
from engine.store import Workspace
from engine.store.labels import LABEL_COLUMNS


def store_labels(workspace: Workspace, plan: Plan) -> int:
    """Sets the labels of a plan's committed images that lack them; returns their number."""
    found = several_labels(plan)
    if not found:
        return 0
    workspace.ensure_columns(LABEL_COLUMNS)
    missing = set(workspace.ids_lacking(LABEL_COLUMNS.names, list(found)))
    if missing:
        rows = [
            {"id": one, **dict(zip(LABEL_COLUMNS.names, found[one], strict=True))} for one in found if one in missing
        ]
        workspace.fill_columns(pa.Table.from_pylist(rows, pa.schema([pa.field("id", pa.string()), *LABEL_COLUMNS])))
    return len(missing)
