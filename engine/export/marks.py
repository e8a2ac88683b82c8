"""Marks of generated images, written on the way out: XMP always, a C2PA manifest where there is a key. Originals have none."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from engine.cpus import usable_cpus
from engine.export.credentials import Signer
from engine.export.xmp import COMPOSITE, GENERATED, Provenance, add_xmp, packet


def provenance_of(row: dict[str, str]) -> Provenance | None:
    """What the mark of a row says; None if a generator did not make the image."""
    if not row["generator"]:
        return None
    return Provenance(COMPOSITE if row["reference_id"] else GENERATED, row["generator"], row["revision"])


class Marker:
    """Marks the images of an export, batch by batch."""

    def __init__(self, signer: Signer | None = None) -> None:
        self._signer = signer
        self._pool = ThreadPoolExecutor(usable_cpus()) if signer else None
        self._packets: dict[Provenance, bytes] = {}
        self.num_marked = 0
        """Images that have marks now."""
        self.num_bytes = 0
        """Bytes that the marks added."""

    def mark(self, batch: pa.RecordBatch) -> list[bytes]:
        """Encoded images of a batch's rows, marked where a generator made them; the pixels are the stored ones.

        Raises ValueError if an image is of a format without marks, or cannot be signed.
        """
        names = ["id", "generator", "revision", "reference_id", "reference_mode"]
        rows = batch.select(names).to_pylist()
        stored: list[bytes] = batch.column("image").to_pylist()
        images = list(stored)
        wanted = [(place, found) for place, row in enumerate(rows) if (found := provenance_of(row))]
        for place, provenance in wanted:
            if provenance not in self._packets:
                self._packets[provenance] = packet(provenance)
            images[place] = add_xmp(images[place], self._packets[provenance])
        if self._signer is not None and wanted:
            assert self._pool is not None
            signed = self._pool.map(lambda one: self._sign(images[one[0]], one[1], rows[one[0]]), wanted)
            for (place, _), image in zip(wanted, list(signed), strict=True):
                images[place] = image
            self._signer.check(images[wanted[0][0]])
        self.num_marked += len(wanted)
        self.num_bytes += sum(map(len, images)) - sum(map(len, stored))
        return images

    def _sign(self, image: bytes, provenance: Provenance, row: dict[str, str]) -> bytes:
        assert self._signer is not None
        return self._signer.sign(image, provenance, {name: value for name, value in row.items() if value})

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
