"""What one worker of a stage over committed images holds at once, and what it counts."""

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
from tests.store.helpers import add, recipe_ids, sound_rows

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


@dataclass
class Whole:
    """A stage for images of their original size that notes how many it gets, and refuses one of them."""

    refused: str
    name: str = "whole"
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("level", pa.float64())]))
    inputs: tuple[str, ...] = ("seed",)
    num_gpus: float = 0.0
    needs_gpu: bool = False
    rejects: bool = False
    preprocessing: None = None
    calls: list[list[int]] = field(default_factory=list)

    def load(self, device: str) -> None:
        """Loads nothing."""

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        self.calls.append(block.column("seed").to_pylist())
        reasons = ["refused" if one == self.refused else None for one in block.column("id").to_pylist()]
        levels = [float(image.float().mean()) for image in pixels]
        schema = self.columns.append(pa.field("reason", pa.string()))
        return pa.RecordBatch.from_pydict({"level": levels, "reason": reasons}, schema=schema)


def test_large_images_reach_a_stage_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    add(workspace, sound_rows(range(7)))
    ids = recipe_ids(range(7))
    at_once = Whole(refused=ids[3])
    lease = {"ids": ids, "at": list(range(7))}
    expected = apply._Apply(workspace.uri, at_once, "cpu")(lease)
    assert at_once.calls == [list(range(7))]
    monkeypatch.setattr(apply, "WHOLE_BYTES", 3 * 3 * 8 * 8)
    few = Whole(refused=ids[3])
    found = apply._Apply(workspace.uri, few, "cpu")(lease)
    assert few.calls == [[0, 1, 2], [3, 4, 5], [6]]
    table = apply._read_ipc(found["table"])
    assert table.equals(apply._read_ipc(expected["table"]))
    assert table["id"].to_pylist() == ids[:3] + ids[4:]
    assert (found["num_images"], found["reason"]) == (7, "refused")
    assert found["seconds"] > 0


def test_images_that_were_deleted_meanwhile_are_no_rows(tmp_path: Path):
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    add(workspace, sound_rows(range(2)))
    found = apply._Apply(workspace.uri, Whole(refused=""), "cpu")({"ids": ["gone"], "at": [0]})
    assert (apply._read_ipc(found["table"]).num_rows, found["num_images"]) == (0, 0)


def test_a_lease_of_large_images_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    assert apply.rows_per_lease(workspace.dataset("images")) == apply.ROWS_PER_LEASE, "of an empty table"
    add(workspace, sound_rows(range(40)))
    images = workspace.dataset("images")
    assert apply.rows_per_lease(images) == apply.ROWS_PER_LEASE
    weight = sum(path.stat().st_size for path in (tmp_path / "workspace" / "images.lance" / "data").iterdir()) / 40
    monkeypatch.setattr(apply, "LEASE_BYTES", int(10.5 * weight))
    assert apply.rows_per_lease(images) == 10
    monkeypatch.setattr(apply, "LEASE_BYTES", 1)
    assert apply.rows_per_lease(images) == 1
