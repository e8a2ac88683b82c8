"""The contents of an export, counted in one pass that reads no pixels."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from engine.export.several_labels import INDICES, NAMES, ListedLabels, label_columns, one_row_per_label
from engine.models.inversion.tokens import MARK
from engine.store.snapshot import Snapshot

KIND_COLUMNS = ("split", "source", "dataset", "strategy", "generator", "revision", "reference_mode", "corpus")
SUMS = ("device_seconds", "usd_compute", "usd_labels")


class Kind(NamedTuple):
    """One kind of image: the columns that all its images share."""

    split: str
    source: str
    dataset: str
    strategy: str
    generator: str
    revision: str
    reference_mode: str
    corpus: str


@dataclass
class Totals:
    """Sums over the images of a kind."""

    images: int = 0
    device_seconds: float = 0.0
    usd_compute: float = 0.0
    usd_labels: float = 0.0


class ClassKey(NamedTuple):
    """A class of a data set; names alone may be shared by several."""

    dataset: str
    class_index: int
    class_name: str


@dataclass
class Contents:
    """Counts of the rows that are exported."""

    kinds: dict[Kind, Totals] = field(default_factory=dict)
    """Sorted by split, source, data set …"""
    classes: dict[ClassKey, Counter[str]] = field(default_factory=dict)
    """Class → images per split; sorted by data set and class index, which is the order of the labels. An image with several labels
    counts for each."""
    has_several: bool = False
    """Whether an image has several labels, or a list of none."""
    reference_datasets: Counter[str] = field(default_factory=Counter)
    """Data set that reference images come from → number of distinct ones."""

    @property
    def splits(self) -> dict[str, int]:
        """Split → images, `train` first."""
        found: Counter[str] = Counter()
        for kind, totals in self.kinds.items():
            found[kind.split] += totals.images
        return {name: found[name] for name in sorted(found, key=lambda name: (name != "train", name))}

    @property
    def num_images(self) -> int:
        """All images."""
        return sum(totals.images for totals in self.kinds.values())


def count_contents(snapshot: Snapshot) -> Contents:
    """Counts the rows of a snapshot."""
    kinds: dict[Kind, Totals] = {}
    classes: dict[ClassKey, Counter[str]] = {}
    references = pa.array([], pa.string())
    labels = label_columns(snapshot)
    lists = ListedLabels()
    for batch in snapshot.scan([*KIND_COLUMNS, "class_index", "class_name", "reference_id", *SUMS, *labels]):
        table = pa.Table.from_batches([batch])
        grouped = table.group_by(list(KIND_COLUMNS)).aggregate([([], "count_all"), *((name, "sum") for name in SUMS)])
        for row in grouped.to_pylist():
            # each learned token is named in a revision, and is no kind of its own
            row["revision"] = row["revision"].partition(MARK)[0]
            totals = kinds.setdefault(Kind(*(row[name] for name in KIND_COLUMNS)), Totals())
            totals.images += row["count_all"]
            for name in SUMS:
                setattr(totals, name, getattr(totals, name) + row[f"{name}_sum"])
        if labels:
            lists.count(table)
            table = one_row_per_label(table)
        for row in table.group_by([*ClassKey._fields, "split"]).aggregate([([], "count_all")]).to_pylist():
            key = ClassKey(*(row[name] for name in ClassKey._fields))
            classes.setdefault(key, Counter())[row["split"]] += row["count_all"]
        references = pa.concat_arrays([references, batch.column("reference_id")]).unique()
    lists.check({kind.dataset for kind in kinds if kind.source == "original"})
    return Contents(
        {kind: kinds[kind] for kind in sorted(kinds)},
        {key: classes[key] for key in sorted(classes)},
        bool(lists.listed),
        _reference_datasets(snapshot, references),
    )


def labels_of(batch: pa.RecordBatch, label_of: Mapping[ClassKey, int]) -> list[list[int]]:
    """The labels of each row: those of its list, in ascending order, or the one of its recipe."""
    keys = zip(*(batch.column(name).to_pylist() for name in ClassKey._fields), strict=True)
    lists: list[Any] = [None] * batch.num_rows
    if INDICES in batch.schema.names:
        lists = list(zip(batch.column(INDICES).to_pylist(), batch.column(NAMES).to_pylist(), strict=True))
    found = []
    for (dataset, index, name), listed in zip(keys, lists, strict=True):
        own = [(index, name)] if listed is None or listed[0] is None else zip(*listed, strict=True)
        found.append(sorted(label_of[ClassKey(dataset, *one)] for one in own))
    return found


def _reference_datasets(snapshot: Snapshot, references: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    if len(references) - pc.sum(pc.equal(references, "")).as_py() if len(references) else 0:
        for batch in snapshot.scan_all(["id", "dataset"]):
            hits = batch.column("dataset").filter(pc.is_in(batch.column("id"), value_set=references))
            found.update(hits.to_pylist())
    return found
