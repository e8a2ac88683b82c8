import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.catalog import load_dataset
from engine.dataflow import worker as worker_module
from engine.dataflow.leases import Lease
from engine.dataflow.rows import Pricing
from engine.dataflow.stages import Embed
from engine.dataflow.worker import Report, Worker, WorkerJob, read_block
from engine.images import PNG, ImageFormat, content_hash, decode_image
from engine.models import load_encoder
from engine.models.faults import DeviceFault
from engine.sources import CorpusMaker, OriginalPlan
from engine.store import Committer, Workspace
from engine.testing.makers import PaintMaker, PaintPlan

PRICING = Pricing(usd_per_device_second=2.0, usd_per_label={"original": 0.012, "generative": 0.0})


class Bench:
    """A worker without Ray, and the workspace that it writes to."""

    def __init__(
        self, folder: Path, encoder: str, maker: object, plan: object, flush_seconds: float = 1e9, **settings: Any
    ):
        self.workspace = Workspace.open(folder / "workspace")
        self.embed = Embed.of(load_encoder(encoder))
        self.workspace.ensure_columns(self.embed.columns)
        self.plan = plan
        job = WorkerJob(maker, (self.embed,), self.workspace.uri, "run-1", "cpu", flush_seconds, **settings)
        self.worker = Worker(plan, job)
        (self.preprocessing,) = self.worker.load(PRICING)

    def make(self, *indices: int, reads: bool = False, care: int = 0) -> Report:
        return self.worker.make(Lease(np.array(indices, np.int64), reads, care), "token", None)

    def commit(self, *reports: Report) -> None:
        with Committer(self.workspace, len(self.plan)) as committer:
            for report in reports:
                for receipt in report.receipts:
                    assert committer.add(receipt) == []

    def rows(self) -> dict[int, dict]:
        """Seed → row."""
        return {
            row["seed"]: row for row in self.workspace.scan(self.workspace.image_schema().names).read_all().to_pylist()
        }


@pytest.fixture
def bench(tmp_path: Path, tiny_encoder: str):
    return partial(Bench, tmp_path, tiny_encoder)


@pytest.mark.parametrize("num_read", [0, 9])
def test_what_is_stored_is_what_was_embedded(bench, tiny_encoder: str, num_read: int):
    bench = bench(PaintMaker(), PaintPlan(9, num_read))
    report = bench.make(0, 8, 3, reads=bool(num_read))
    bench.commit(report)
    encoder = load_encoder(tiny_encoder)
    rows = bench.rows()
    assert set(rows) == {0, 3, 8}
    for seed, row in rows.items():
        assert row["id"] == bench.plan[seed].id
        pixels = decode_image(row["image"])
        assert (pixels == seed).all()
        assert row["content_hash"] == content_hash(pixels)
        vector = encoder.encode_images([torch.from_numpy(pixels.copy()).permute(2, 0, 1)])[0].numpy()
        stored = next(value for name, value in row.items() if name.startswith("embedding_"))
        assert np.array_equal(vector, np.array(stored, np.float32))
        assert row["usd_compute"] == pytest.approx(2.0 * row["device_seconds"])
        assert row["device_seconds"] > 0


def test_receipts_name_plan_indices_and_errors_are_rows_of_their_own(bench):
    bench = bench(PaintMaker(bad_seeds=(1, 4)), PaintPlan(9))
    report = bench.make(*range(6))
    named = {receipt.table_name: receipt.indices for receipt in report.receipts}
    assert named == {"images": [0, 2, 3, 5], "errors": [1, 4]}
    assert bench.workspace.count() == 0
    bench.commit(report)
    assert bench.workspace.count() == 4
    assert sorted(error["seed"] for error in bench.workspace.errors().to_pylist()) == [1, 4]
    work = {entry["stage"]: entry for entry in report.work}
    assert (work["make"]["rows"], work["embed"]["rows"]) == (4, 4)
    seconds = sum(row["device_seconds"] for row in bench.rows().values())
    seconds += sum(error["device_seconds"] for error in bench.workspace.errors().to_pylist())
    assert work["make"]["busy_seconds"] + work["embed"]["busy_seconds"] == pytest.approx(seconds)
    assert work["make"]["usd_compute"] + work["embed"]["usd_compute"] == pytest.approx(2 * seconds)


def test_several_leases_share_a_fragment_once_the_first_rows_are_visible(bench):
    bench = bench(PaintMaker(), PaintPlan(100))
    first, second, third = bench.make(0, 1), bench.make(2, 3), bench.make(4, 5)
    assert [len(report.receipts) for report in (first, second, third)] == [1, 0, 0]
    last = bench.worker.flush()
    assert [receipt.indices for receipt in last.receipts] == [[2, 3, 4, 5]]
    bench.commit(first, last)
    assert bench.workspace.count() == 6


def test_encoded_images_are_held_no_longer_than_their_rows(bench):
    bench = bench(PaintMaker(), PaintPlan(100))
    for start in range(0, 60, 6):
        bench.make(*range(start, start + 6))
        bench.worker.flush()
    bench.worker.flush()
    assert not bench.worker._encodes  # small images never reach PIXEL_BYTES


def test_a_fragment_is_written_when_its_bytes_or_its_age_are_due(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(), PaintPlan(100), flush_seconds=15.0)
    clock = iter(np.arange(0, 1e9, 10.0))
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: float(next(clock)))
    bench.make(0, 1, 2, 3)
    reports = [bench.make(*range(start, start + 4)) for start in range(4, 40, 4)] + [bench.worker.flush()]
    assert sum(len(report.receipts) for report in reports) > 2
    monkeypatch.setattr(worker_module, "FRAGMENT_BYTES", 1)
    bench.worker._oldest = 1e12
    bench.make(50, 51)
    assert not bench.worker._rows


def test_labels_are_paid_for_training_images_alone(bench, tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    for plan, paid in ((OriginalPlan(dataset, 2), 0.012), (OriginalPlan(dataset, None, split="test"), 0.0)):
        one = bench(CorpusMaker({dataset.name: dataset.location}), plan)
        one.commit(one.make(0, 1, reads=True))
        ids = [plan[0].id, plan[1].id]
        assert one.workspace.fetch(ids, ["usd_labels"]).column("usd_labels").to_pylist() == [paid, paid]


def test_search_time_is_part_of_a_retrieved_image(bench, tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    maker = CorpusMaker({dataset.name: dataset.location}, {("original", dataset.name): 1000.0})
    bench = bench(maker, OriginalPlan(dataset, 1))
    bench.commit(bench.make(0, 1, reads=True))
    assert all(1000 <= row["device_seconds"] < 1100 for row in bench.rows().values())


def test_an_embedding_that_is_not_finite_is_an_error(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(), PaintPlan(5))
    encoder = bench.embed._loaded
    real = encoder.encode_images

    def spoiled(images: list[torch.Tensor]) -> torch.Tensor:
        vectors = real(images).clone()
        vectors[1, 3] = float("nan")
        return vectors

    monkeypatch.setattr(encoder, "encode_images", spoiled)
    bench.commit(bench.make(0, 1, 2))
    assert bench.workspace.count() == 2
    (error,) = bench.workspace.errors().to_pylist()
    assert (error["stage"], error["reason"]) == ("embed", "the embedding is not finite")


def test_a_device_fault_while_embedding_is_no_error_row(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(), PaintPlan(5))

    def broken(images: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(bench.embed._loaded, "encode_images", broken)
    with pytest.raises(DeviceFault):
        bench.make(0, 1, 2)


def test_with_care_each_batch_and_then_each_recipe_is_noted_before_it_begins(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(rows_per_call=2), PaintPlan(5))
    noted: list[list[int]] = []
    monkeypatch.setattr(worker_module, "_noting", lambda token, notes: lambda part: noted.append(part.tolist()))
    bench.make(0, 1, 2, care=1)
    bench.make(3, 4, care=2)
    assert noted == [[0, 1], [2], [3], [4]]


def test_a_block_of_read_images_is_bounded_in_bytes_and_the_rest_is_leased_anew(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(rows_per_call=2), PaintPlan(8, num_read=8))
    monkeypatch.setattr(worker_module, "READ_BYTES", 2 * 3 * 32 * 32)
    report = bench.make(*range(8), reads=True)
    assert (report.rows, report.rest.tolist()) == (2, [2, 3, 4, 5, 6, 7])


def test_reading_keeps_no_full_size_pixels(tiny_dataset: Path, tiny_encoder: str):
    dataset = load_dataset(str(tiny_dataset))
    preprocessing = load_encoder(tiny_encoder).preprocessing
    plan = OriginalPlan(dataset, 2)
    maker = CorpusMaker({dataset.name: dataset.location})
    block = read_block(plan, maker, Lease(np.arange(6), True), [preprocessing], lambda part: None)
    assert block.views[preprocessing].shape == (6, 3, *preprocessing.size)
    assert all(one.pixels is None and not one.views and one.stored for one in block.made)


def test_pixels_that_wait_for_their_encoding_are_bounded_over_batches(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(rows_per_call=1), PaintPlan(20))
    monkeypatch.setattr(worker_module, "PIXEL_BYTES", 5 * 3 * 32 * 32)
    waits: list[int] = []
    monkeypatch.setattr(worker_module, "wait", lambda encodes: waits.append(len(encodes)))
    bench.make(*range(20))
    assert waits == [6, 6, 6]


WEBP = ImageFormat("webp")


def watched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order in which the bench makes and embeds batches, filled in as it does."""
    order: list[str] = []
    maker, encoder = bench.worker._job.maker, bench.embed._loaded
    make, encode_images = maker.make, encoder.encode_images

    def made(recipes: Any) -> Any:
        order.append(f"make {recipes[0].seed}")
        return make(recipes)

    def embedded(images: Any) -> Any:
        order.append(f"embed {len(images)}")
        return encode_images(images)

    monkeypatch.setattr(maker, "make", made)
    monkeypatch.setattr(encoder, "encode_images", embedded)
    return order


def test_a_lossy_batch_is_encoded_while_the_device_makes_the_next(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(rows_per_call=2), PaintPlan(6), image_format=WEBP)
    order = watched(bench, monkeypatch)
    encode, next_is_made, maker = worker_module._store, threading.Event(), bench.worker._job.maker
    make = maker.make

    def made(recipes: Any) -> Any:
        if recipes[0].seed == 2:
            next_is_made.set()
        return make(recipes)

    def late(*arguments: Any) -> None:
        assert next_is_made.wait(30), "the device waited for the encoding"
        encode(*arguments)

    monkeypatch.setattr(maker, "make", made)
    monkeypatch.setattr(worker_module, "_store", late)
    report = bench.make(*range(6))
    assert order == ["make 0", "make 2", "embed 2", "make 4", "embed 2", "embed 2"]
    bench.commit(report)
    assert {seed: row["image_format"] for seed, row in bench.rows().items()} == dict.fromkeys(range(6), "webp-90")


@pytest.mark.parametrize(("image_format", "care"), [(PNG, 0), (WEBP, 1), (ImageFormat("webp", 100), 0)], ids=str)
def test_a_lossless_batch_and_one_made_with_care_are_embedded_before_the_next_begins(
    bench, monkeypatch: pytest.MonkeyPatch, image_format: ImageFormat, care: int
):
    bench = bench(PaintMaker(rows_per_call=2), PaintPlan(4), image_format=image_format)
    order = watched(bench, monkeypatch)
    bench.make(*range(4), care=care)
    assert order == ["make 0", "embed 2", "make 2", "embed 2"]


def test_a_recipe_that_fails_beside_lossy_images_is_an_error(bench):
    bench = bench(PaintMaker(rows_per_call=3, bad_seeds=(1,)), PaintPlan(6), image_format=WEBP)
    report = bench.make(*range(6))
    assert report.failed == 1
    bench.commit(report)
    rows = bench.rows()
    assert set(rows) == {0, 2, 3, 4, 5}
    assert all(abs(decode_image(row["image"]).astype(int) - seed).max() <= 2 for seed, row in rows.items())
    assert [error["seed"] for error in bench.workspace.errors().to_pylist()] == [1]


def test_images_that_are_read_keep_their_bytes(bench, tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    maker, plan = CorpusMaker({dataset.name: dataset.location}), OriginalPlan(dataset, 1)
    bench = bench(maker, plan, image_format=ImageFormat("jpeg", 10))
    bench.commit(bench.make(0, 1, reads=True))
    files = {plan[index].id: maker.read([plan[index]])[0].stored.encoded for index in (0, 1)}
    rows = bench.workspace.scan(["id", "image", "image_format"]).read_all().to_pylist()
    assert {row["id"]: row["image"] for row in rows} == files
    assert [row["image_format"] for row in rows] == [None, None]


def test_a_device_fault_while_encoding_is_no_error_row(bench, monkeypatch: pytest.MonkeyPatch):
    bench = bench(PaintMaker(), PaintPlan(5), image_format=WEBP)

    def broken(*arguments: Any) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(worker_module, "_store", broken)
    with pytest.raises(DeviceFault):
        bench.make(0, 1, 2)
