"""A worker that decodes on its GPU: leases side by side, one call of the stage at a time, shared seconds counted once."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from engine.dataflow import apply
from engine.models.preprocessing import Preprocessing
from engine.store import Workspace

LEASES = 3


@dataclass
class Alone:
    """A stage that fails if two threads are in it."""

    name: str = "alone"
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("level", pa.int64())]))
    inputs: tuple[str, ...] = ()
    num_gpus: float = 1.0
    needs_gpu: bool = False
    rejects: bool = False
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing((8, 8), "squash", "bilinear"))

    def load(self, device: str) -> None:
        self._inside = threading.Lock()

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        assert self._inside.acquire(blocking=False), "two leases are in the stage"
        levels = [int(image.float().mean()) for image in pixels]
        self._inside.release()
        return pa.RecordBatch.from_pydict({"level": levels}, schema=self.columns)


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_leases_are_decoded_side_by_side_and_their_seconds_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = Workspace.open(tmp_path / "workspace").uri
    worker = apply._Apply(uri, Alone(), "cpu")
    together, decode = threading.Barrier(LEASES, timeout=60), apply.decode_on_gpu

    def wait_and_decode(data: list[bytes], size: Preprocessing, device: str) -> torch.Tensor:
        together.wait()  # broken after a minute if leases come one after another
        return decode(data, size, device)

    monkeypatch.setattr(apply, "decode_on_gpu", wait_and_decode)
    leases = [{"ids": [str(level)], "at": [0], "encoded": [png(level)]} for level in range(LEASES)]
    started = time.perf_counter()
    with ThreadPoolExecutor(LEASES) as threads:
        found = list(threads.map(worker, leases))
    passed = time.perf_counter() - started
    assert [apply._read_ipc(one["table"]).to_pydict() for one in found] == [
        {"id": [str(level)], "level": [level]} for level in range(LEASES)
    ]
    seconds = [one["seconds"] for one in found]
    assert min(seconds) > 0
    assert sum(seconds) <= passed
