"""Images with several labels: their lists in the table, counted and checked for those that are missing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from engine.catalog import published_datasets
from engine.store.labels import LABEL_COLUMNS
from engine.store.snapshot import Snapshot

INDICES, NAMES = LABEL_COLUMNS.names


def label_columns(snapshot: Snapshot) -> list[str]:
    """The columns with lists of labels, if the table has them."""
    return [name for name in LABEL_COLUMNS.names if name in snapshot.schema.names]


def one_row_per_label(table: pa.Table) -> pa.Table:
    """`dataset`, `split`, `class_index` and `class_name` of each label; of the recipe where an image has no list."""
    columns = ["dataset", "split", "class_index", "class_name"]
    has_list = pc.is_valid(table.column(INDICES))
    listed = table.filter(has_list).combine_chunks()
    owners = pc.list_parent_indices(listed.column(INDICES))
    labels = {
        "class_index": pc.list_flatten(listed.column(INDICES)).cast(pa.int64()),
        "class_name": pc.list_flatten(listed.column(NAMES)),
    }
    own = pa.table({name: labels.get(name, listed.column(name).take(owners)) for name in columns})
    rest = table.filter(pc.invert(has_list)).select(columns)
    return pa.concat_tables([pa.table(rest.columns, names=columns), own])  # of a schema where all may be null


@dataclass
class ListedLabels:
    """Original images with and without a list of labels, by data set."""

    listed: Counter[str] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)

    def count(self, table: pa.Table) -> None:
        """Counts rows."""
        originals = table.filter(pc.equal(table.column("source"), "original"))
        has_list = pc.is_valid(originals.column(INDICES))
        self.listed.update(originals.filter(has_list).column("dataset").to_pylist())
        self.lacking.update(originals.filter(pc.invert(has_list)).column("dataset").to_pylist())

    def check(self, originals: Iterable[str]) -> None:
        """Raises ValueError if one of the data sets whose original images are exported has several labels and lacks lists."""
        several = {facts.name for facts in published_datasets().values() if facts.task == "multilabel"}
        for name in sorted(originals):
            without = name in several and not self.listed[name]
            if without or (self.listed[name] and self.lacking[name]):
                raise ValueError(
                    f"images of {name} have several labels each, and some rows of this workspace were written without them; run "
                    f"the study that made them once more, which adds them, or leave them out with --where \"dataset != '{name}'\""
                )
