"""One version of the table of images, for work that reads it more than once while others may write."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.store import rows
from engine.store.checks import CONDITION_HINT
from engine.store.workspace import Workspace

PIXEL_ROWS, PIXEL_BYTES, READAHEAD = 256, 32 * 2**20, 2
"""Where the encoded images are read: rows and bytes per batch, at most, and batches that are read ahead."""
ROWS = 8_192
"""Rows per batch otherwise."""


class Snapshot:
    """The images of a workspace as they are now, all or those for which the SQL condition `where` holds.

    Raises ValueError, one sentence, if `where` is no condition on the images.
    """

    def __init__(self, workspace: Workspace, where: str | None = None) -> None:
        self._images = workspace.dataset("images")
        self.where = where
        self.schema: pa.Schema = self._images.schema
        try:
            self.num_rows: int = self._images.count_rows(where)
        except (ValueError, OSError) as error:
            if not where:
                raise
            reason = str(error).splitlines()[0][:200]
            raise ValueError(f"where {where!r} is no condition on the images ({reason}); {CONDITION_HINT}") from None
        self.num_left_out: int = self._images.count_rows() - self.num_rows
        """Images for which `where` does not hold."""

    def count(self, where: str) -> int:
        """Number of its images for which `where` holds too."""
        return int(self._images.count_rows(self._narrowed(where)))

    def count_all(self, where: str) -> int:
        """Number of images of the workspace for which `where` holds, whatever the snapshot's own condition."""
        return int(self._images.count_rows(where))

    def scan(self, columns: Sequence[str], where: str = "") -> Iterator[pa.RecordBatch]:
        """The rows, batch by batch, in the order of the table; `where` narrows them further."""
        yield from self._scan(columns, self._narrowed(where))

    def _narrowed(self, where: str) -> str | None:
        return " AND ".join(f"({one})" for one in (self.where, where) if one) or None

    def scan_all(self, columns: Sequence[str], where: str = "") -> Iterator[pa.RecordBatch]:
        """As `scan`, over all images of the workspace, whatever the snapshot's own condition."""
        yield from self._scan(columns, where or None)

    def _scan(self, columns: Sequence[str], where: str | None) -> Iterator[pa.RecordBatch]:
        options: dict[str, int] = {"batch_size": ROWS}
        if "image" in columns:
            options = {"batch_size": self._pixel_rows, "batch_readahead": READAHEAD, "io_buffer_size": 2 * PIXEL_BYTES}
        yield from self._images.scanner(columns=list(columns), filter=where, **options).to_batches()

    @cached_property
    def _pixel_rows(self) -> int:
        """Rows per batch, by the mean size of a row on disk."""
        fragments = self._images.get_fragments()
        num_bytes = sum(file.file_size_bytes or 0 for one in fragments for file in one.metadata.files)
        mean = num_bytes / max(self._images.count_rows(), 1)
        return max(1, min(PIXEL_ROWS, int(PIXEL_BYTES / max(mean, 1))))

    def fetch(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """`id` and `columns` of these images, in the order of `ids`; ids that are not in the table are left out."""
        return rows.fetch(self._images, ids, columns)

    def fetch_parts(
        self, ids: Sequence[str], columns: Sequence[str], num_rows: int
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Parts of at most `num_rows` of these images: positions in `ids` `[N] int64` and `columns`, in the order of the table.

        The column of ids is read once for all of them, where each `fetch` reads it again.
        """
        found, positions, _ = rows.locate(self._images, pa.array(ids, pa.string()))
        places = pc.index_in(found, value_set=pa.array(ids, pa.string())).to_numpy().astype(np.int64)
        for start in range(0, len(positions), num_rows):
            part = slice(start, start + num_rows)
            yield places[part], self._images.take(positions[part], columns=list(columns))
