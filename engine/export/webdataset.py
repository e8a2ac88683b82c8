"""Tar shards: `SPLIT/0.tar …` with `ID.SUFFIX`, `ID.cls` and `ID.json` in every sample, and `SPLIT/nshards.txt`.

Where images have several labels, `ID.npy` has one 0 or 1 per class in the place of `ID.cls`, and `labels` in the JSON has the names.

`webdataset`, `datasets` and our own `engine.catalog.layouts.webdataset` read them. A reader takes the keys from the first
samples, so all images have one suffix, whatever format each of them has: decoders go by content.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.export.rows import COLUMNS, Rows, Written, to_json

BLOCK = 512
"""Bytes that a member's header takes, and that its content is padded to."""


@dataclass
class _Shard:
    folder: Path
    tar: tarfile.TarFile | None = None
    names: list[str] = field(default_factory=list)
    tar_bytes: int = 0
    num_rows: int = 0
    num_bytes: int = 0


class WebDatasetWriter:
    """Writes shards of at most `shard_bytes`."""

    def __init__(self, folder: Path, shard_bytes: int, several: Sequence[str] = ()) -> None:
        """`several`: names of the labels, where an image has several of them."""
        self._folder, self._shard_bytes, self._several = folder, shard_bytes, several
        self._shards: dict[str, _Shard] = {}
        self.suffix = ""
        """Suffix of all images: that of most of the first ones."""

    def add(self, rows: Rows) -> None:
        """Adds rows of one split."""
        self.suffix = self.suffix or Counter(rows.suffixes).most_common(1)[0][0]
        shard = self._shards.get(rows.split)
        if shard is None:
            shard = self._shards[rows.split] = _Shard(self._folder / rows.split)
            shard.folder.mkdir()
        columns = rows.table.select(COLUMNS.names).to_pylist()
        for one, image, labels, row in zip(rows.ids, rows.images, rows.labels, columns, strict=True):
            self._add(shard, one, {self.suffix: image} | self._texts(labels, row))

    def _texts(self, labels: list[int], row: dict[str, Any]) -> dict[str, bytes]:
        """The members beside an image."""
        if not self._several:
            return {"cls": str(labels[0]).encode(), "json": to_json(row)}
        multi_hot = np.zeros(len(self._several), np.int8)
        multi_hot[labels] = 1
        file = io.BytesIO()
        np.save(file, multi_hot)
        names = [self._several[label] for label in labels]
        return {"npy": file.getvalue(), "json": to_json(row | {"labels": names})}

    def _add(self, shard: _Shard, key: str, members: dict[str, bytes]) -> None:
        size = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for content in members.values())
        if shard.tar is not None and shard.tar_bytes + size > self._shard_bytes:
            shard.tar.close()
            shard.tar = None
        if shard.tar is None:
            name = f"{len(shard.names)}.tar"
            shard.tar = tarfile.open(shard.folder / name, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115  (closed when full)
            shard.tar_bytes = 0
            shard.names.append(f"{shard.folder.name}/{name}")
        for suffix, content in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mode = len(content), 0o644
            shard.tar.addfile(member, io.BytesIO(content))
        shard.tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all members in memory otherwise
        shard.tar_bytes += size
        shard.num_bytes += sum(map(len, members.values()))
        shard.num_rows += 1

    def finish(self) -> list[Written]:
        """Closes the shards and writes their number."""
        found = []
        for split, shard in self._shards.items():
            assert shard.tar is not None, "a split begins with a row"
            shard.tar.close()
            (shard.folder / "nshards.txt").write_text(f"{len(shard.names)}\n")
            found.append(Written(split, shard.num_rows, shard.num_bytes, tuple(shard.names)))
        return found
