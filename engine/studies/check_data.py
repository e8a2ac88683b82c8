"""Account of a data set or pool before use: layout, splits, classes, skipped files, broken images, duplicates."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from engine.cache import check_writable
from engine.catalog import Dataset, load_dataset
from engine.catalog.account import NAMES, Account
from engine.catalog.corpus import key_name, open_layout, read_each
from engine.catalog.index import SplitIndex
from engine.catalog.splits import candidates
from engine.catalog.worlds import resolve_location
from engine.cpus import usable_cpus
from engine.images import content_hash, decode_image
from engine.names import unknown_name
from engine.reports import ContactSheet, Report
from engine.sources.retrieval import pool_account, read_pool
from engine.studies.config import check_place, expanded

KEYS_PER_READ = 64
SHEET_IMAGES = 24
MOST_SIZES = 10
"""Number of image sizes that are listed, the most frequent first."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """The data to check."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder, URL or catalog name of a data set, NAME=PATH, or folder or URL of a captioned pool."""
    report: Path = Path("report-check")
    """Folder for report.json and index.html."""
    images: bool = True
    """Read and decode every image to find broken ones and duplicates; otherwise only the file lists are checked."""

    def __post_init__(self) -> None:
        """Expands `~`."""
        object.__setattr__(self, "path", expanded(self.path))
        object.__setattr__(self, "report", expanded(self.report))

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        if not self.path.strip():
            raise ValueError("the path is empty; give a folder, a URL or the name of a data set")
        check_place("report", self.report)
        check_writable(self.report, "the report's folder", "give another one with --report")


@dataclass
class _Found:
    """Decoded images of all splits."""

    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    by_hash: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Hash of the pixels → (split, name) of the images with these pixels."""
    sizes: Counter[str] = field(default_factory=Counter)
    """`WIDTHxHEIGHT` in pixels → number of images."""


def check_data(config: CheckConfig) -> Report:
    """Accounts for every file of a data set or a pool, reads its images, and writes the report.

    Tables: `splits` (layout, images and classes of each), `classes` (images per class and split), `account` (files and
    items: used, ignored or refused), `broken` (images that cannot be decoded, by reason), `duplicates` (equal pictures
    within and across splits).

    Raises:
        ValueError: there is no such data, or it is refused as a whole.
    """
    config.check()
    dataset = _dataset(config.path)
    if dataset is None:
        location = resolve_location(config.path)
        splits, accounts = {"train": read_pool(location)}, pool_account(location)
        name = location.rstrip("/").rsplit("/", 1)[-1]
    else:
        location, name = dataset.location, dataset.name
        wanted = _splits(dataset)
        splits = {index.split: index for index in map(dataset.index, wanted)}
        accounts = dataset.accounts(wanted)
    found = _read(location, splits) if config.images else _Found()
    tables = {
        "splits": _splits_rows(location, dataset, splits),
        "classes": _classes(dataset, splits) if dataset else [],
        "account": [{"split": split, **row} for split, account in accounts.items() for row in account.rows()],
        "sizes": [{"pixels": size, "count": count} for size, count in found.sizes.most_common(MOST_SIZES)],
        "broken": [
            {"reason": reason, "count": count, "examples": ", ".join(found.examples[reason])}
            for reason, count in found.reasons.most_common()
        ],
        "duplicates": _duplicates(found),
    }
    report = Report(
        title=f"Data check: {name}",
        tables={key: rows for key, rows in tables.items() if rows},
        sheets=[_sheet(name, dataset, location, split, index) for split, index in splits.items()],
        notes=_notes(accounts, splits, found, dataset),
    )
    report.write(config.report)
    return report


def _dataset(path: str) -> Dataset | None:
    """The data set, or None for a pool: shards with captions and without class names."""
    try:
        return load_dataset(path)
    except ValueError:
        try:
            location = resolve_location(path)
            if ("://" in location or Path(location).is_dir()) and len(read_pool(location).keys):
                return None
        except ValueError:
            pass  # not a pool either: report the first error
        raise


def _splits(dataset: Dataset) -> list[str]:
    """`train` and `test`, or the one that exists."""
    there = open_layout(dataset.location).splits()
    found = [split for split in ("train", "test") if there == ("",) or any(each in there for each in candidates(split))]
    if not found:
        raise ValueError(unknown_name("split", "train", there, f"{dataset.location} has neither train nor test"))
    return found


def _splits_rows(location: str, dataset: Dataset | None, splits: dict[str, SplitIndex]) -> list[dict[str, Any]]:
    """One row per split: its layout, its number of images, and the number of images per class."""
    layout = open_layout(location)
    rows = []
    for split, index in splits.items():
        row: dict[str, Any] = {"split": split, "layout": layout.title, "images": len(index.keys)}
        if layout.splits() == ("",) and dataset:
            row["split"] = f"{split} (a fifth of each class is held out)"
        if dataset:
            counts = _counts(dataset, index)
            row |= {"task": dataset.task, "metric": dataset.metric, "num_classes": len(counts)}
            for name, number in (("fewest", int(counts.argmin())), ("most", int(counts.argmax()))):
                row |= {f"{name}_images": int(counts[number]), f"{name}_class": dataset.class_names[number]}
        rows.append(row)
    return rows


def _classes(dataset: Dataset, splits: dict[str, SplitIndex]) -> list[dict[str, Any]]:
    counts = {f"{split}_images": _counts(dataset, index).tolist() for split, index in splits.items()}
    return [
        {"class": name, **{column: several[number] for column, several in counts.items()}}
        for number, name in enumerate(dataset.class_names)
    ]


def _counts(dataset: Dataset, index: SplitIndex) -> np.ndarray:
    """`[C] int64` images per class."""
    labels = index.labels(dataset.class_names, dataset.location)
    return labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(dataset.class_names))


def _read(location: str, splits: dict[str, SplitIndex]) -> _Found:
    found = _Found()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for split, index in splits.items():
            jobs = pool.map(lambda keys: _decode(location, keys), _chunks(index.keys.tolist()))
            for name, digest, size, reason in (each for several in jobs for each in several):
                if reason:
                    found.reasons[reason] += 1
                    examples = found.examples.setdefault(reason, [])
                    if len(examples) < NAMES:
                        examples.append(name)
                else:
                    found.by_hash.setdefault(digest, []).append((split, name))
                    found.sizes[size] += 1
    return found


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_PER_READ] for start in range(0, len(keys), KEYS_PER_READ))


def _decode(location: str, keys: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Name, hash of the pixels, size and reason of each image."""
    found = []
    for key, data in zip(keys, read_each(location, keys), strict=True):
        digest, size, reason = "", "", ""
        try:
            if isinstance(data, ValueError):
                raise data
            pixels = decode_image(data)
            digest, size = content_hash(pixels), f"{pixels.shape[1]}x{pixels.shape[0]}"
        except ValueError as error:
            reason = str(error)
        found.append((key_name(key), digest, size, reason))
    return found


def _duplicates(found: _Found) -> list[dict[str, Any]]:
    """One row per combination of splits that share pictures."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for several in found.by_hash.values():
        if len(several) > 1:
            groups.setdefault(tuple(sorted({split for split, _ in several})), []).append([name for _, name in several])
    return [
        {
            "splits": " + ".join(splits),
            "pictures": len(names),
            "images": sum(map(len, names)),
            "examples": "; ".join(" = ".join(each[:NAMES]) for each in names[:NAMES]),
        }
        for splits, names in sorted(groups.items(), key=lambda item: -len(item[0]))
    ]


def _sheet(name: str, dataset: Dataset | None, location: str, split: str, index: SplitIndex) -> ContactSheet:
    """The first images of a pool, or of classes spread evenly over the split."""
    if dataset:
        labels = index.labels(dataset.class_names, dataset.location)
        labels = labels.argmax(1) if labels.ndim == 2 else labels
        first: dict[int, list[int]] = {}
        for position, label in enumerate(labels.tolist()):
            first.setdefault(label, []).append(position)
        classes = sorted(first)[:: max(1, len(first) // SHEET_IMAGES)]
        rounds = range(max(map(len, first.values()), default=0))
        order = ((number, label) for number in rounds for label in classes if number < len(first[label]))
        chosen = sorted(islice(order, SHEET_IMAGES), key=lambda each: each[::-1])
        positions = [first[label][number] for number, label in chosen]
        captions = [dataset.class_names[label] for _, label in chosen]
    else:
        positions = list(range(min(SHEET_IMAGES, len(index.keys))))
        captions = [str(index.texts[position])[:200] for position in positions]
    images = read_each(location, [str(index.keys[position]) for position in positions])
    return ContactSheet(
        title=f"{name}: {split}",
        group=dataset.group if dataset else "pool",
        source=split,
        images=[_shown(image) for image in images],
        captions=captions,
    )


def _shown(image: bytes | ValueError) -> bytes:
    """PNG of at most 256 pixels per side, which every browser shows; empty for a broken image."""
    import io

    from PIL import Image

    try:
        if isinstance(image, ValueError):
            return b""
        picture = Image.fromarray(decode_image(image))
    except ValueError:
        return b""
    picture.thumbnail((256, 256))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _notes(
    accounts: dict[str, Account], splits: dict[str, SplitIndex], found: _Found, dataset: Dataset | None
) -> list[str]:
    whole = Account()
    for account in accounts.values():
        whole.merge(account)
    notes = [f"Files: {whole.line()}."]
    if "validation" in splits:
        notes.append("The split validation stands in for test, which is not there or has no labels.")
    if broken := sum(found.reasons.values()):
        notes.append(f"{broken:,} images cannot be decoded; a run has a row of errors for each that it asks for.")
    across = sum(len({split for split, _ in several}) > 1 for several in found.by_hash.values())
    if across:
        notes.append(f"{across:,} pictures are in several splits, so scores on them are no measure.")
    if dataset and (missing := _missing(dataset, splits)):
        notes.append(missing)
    return notes


def _missing(dataset: Dataset, splits: dict[str, SplitIndex]) -> str:
    for split, index in splits.items():
        try:
            index.by_class(dataset.class_names, dataset.location)
        except ValueError as error:
            return f"A run that reads split {split} refuses this data set: {error}."
    return ""
