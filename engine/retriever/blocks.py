"""Blocks of a database on their way to a search, and to its device."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Block:
    """Some rows of a database."""

    rows: np.ndarray
    """`[B]` int64 row numbers."""
    vectors: np.ndarray
    """`[B, D]` float32."""
    classes: np.ndarray | None = None
    """`[B]` int64 class codes, `NO_CLASS` for rows that are never masked; None if nothing is masked."""


def cut_blocks(vectors: np.ndarray, classes: np.ndarray | None = None, num_rows: int = 65_536) -> Iterator[Block]:
    """A database in memory, `[N, D]` float32 with its class codes `[N]`, as blocks."""
    for start in range(0, len(vectors), num_rows):
        part = slice(start, start + num_rows)
        rows = np.arange(start, min(start + num_rows, len(vectors)))
        yield Block(rows, vectors[part], None if classes is None else classes[part])


def checked(blocks: Iterable[Block], dimension: int, masked: bool) -> Iterator[Block]:
    """The blocks that have rows."""
    for block in blocks:
        vectors = block.vectors
        if vectors.ndim != 2 or vectors.shape[1] != dimension:
            found = f"the queries have {dimension} numbers and the database's vectors have shape {vectors.shape}"
            raise ValueError(f"{found}; embed both with the same encoder")
        if masked and block.classes is None:
            raise ValueError("the database says no classes, so none can be masked; give them, or do not mask")
        if len(block.rows):
            yield block


def uploaded(blocks: Iterator[Block], device: torch.device) -> Iterator[tuple[Block, torch.Tensor]]:
    """Blocks with their vectors on the device. On a GPU, the next block is read and copied while one is searched."""
    if device.type != "cuda":
        for block in blocks:
            yield block, torch.from_numpy(np.ascontiguousarray(block.vectors, np.float32)).to(device)
        return
    stream = torch.cuda.Stream(device)

    def upload() -> tuple[Block, torch.Tensor] | None:
        block = next(blocks, None)
        if block is None:
            return None
        pinned = torch.empty(block.vectors.shape, pin_memory=True)
        pinned.copy_(torch.from_numpy(np.ascontiguousarray(block.vectors, np.float32)))
        with torch.cuda.stream(stream):
            vectors = pinned.to(device, non_blocking=True)
        stream.synchronize()
        return block, vectors

    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(upload)
        while (found := coming.result()) is not None:
            coming = beside.submit(upload)
            found[1].record_stream(torch.cuda.current_stream(device))
            yield found
