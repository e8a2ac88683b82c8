import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.catalog import load_dataset
from engine.dataflow.stages import EmbedImages, MakeImages, Pricing, write_block
from engine.images import content_hash, decode_image
from engine.models import load_encoder
from engine.sources import CorpusMaker, OriginalPlan
from engine.store import Committer, Receipt, Workspace
from tests.dataflow.paint import PaintMaker, PaintPlan

PRICING = Pricing(usd_per_device_second=2.0, usd_per_label={"original": 0.012, "generative": 0.0})


def block(*indices: int) -> pa.Table:
    return pa.table({"index": pa.array(indices, pa.int64())})


def make(encoder: str, maker: object, plan: object, *indices: int) -> pa.Table:
    return MakeImages(plan, maker, encoder, "cpu", PRICING, "run-1")(block(*indices))


def test_what_is_stored_is_what_was_embedded(tiny_encoder: str):
    rows = make(tiny_encoder, PaintMaker(), PaintPlan(9), 0, 8, 3).to_pylist()
    encoder = load_encoder(tiny_encoder)
    for row, seed in zip(rows, (0, 8, 3), strict=True):
        assert row["id"] == PaintPlan(9)[seed].id
        pixels = decode_image(row["image"])
        assert (pixels == seed).all()
        assert row["content_hash"] == content_hash(pixels)
        vector = encoder.encode_images([torch.from_numpy(pixels.copy()).permute(2, 0, 1)])[0].numpy()
        stored = next(value for name, value in row.items() if name.startswith("embedding_"))
        assert np.array_equal(vector, np.array(stored, np.float32))
        assert row["usd_compute"] == pytest.approx(2.0 * row["device_seconds"])


def test_labels_are_paid_for_training_images_alone(tiny_encoder: str, tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    maker = CorpusMaker({dataset.name: dataset.location})
    bought = make(tiny_encoder, maker, OriginalPlan(dataset, 2), 0, 1)
    tested = make(tiny_encoder, maker, OriginalPlan(dataset, None, split="test"), 0, 1)
    assert bought.column("usd_labels").to_pylist() == [0.012, 0.012]
    assert tested.column("usd_labels").to_pylist() == [0.0, 0.0]


def test_search_time_is_part_of_a_retrieved_image(tiny_encoder: str, tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    maker = CorpusMaker({dataset.name: dataset.location}, {("original", dataset.name): 1000.0})
    rows = make(tiny_encoder, maker, OriginalPlan(dataset, 1), 0, 1)
    assert all(1000 <= seconds < 1100 for seconds in rows.column("device_seconds").to_pylist())


def test_an_embedding_that_is_not_finite_is_an_error(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch):
    actor = MakeImages(PaintPlan(5), PaintMaker(), tiny_encoder, "cpu", PRICING, "run-1")
    real = actor._encoder.encode_images

    def spoiled(images: list[torch.Tensor]) -> torch.Tensor:
        vectors = real(images).clone()
        vectors[1, 3] = float("nan")
        return vectors

    monkeypatch.setattr(actor._encoder, "encode_images", spoiled)
    table = actor(block(0, 1, 2))
    assert table.column("stage").to_pylist() == ["", "embed", ""]
    assert table.column("reason").to_pylist()[1] == "the embedding is not finite"


def test_a_block_is_written_as_images_and_errors(tiny_encoder: str, tmp_path: Path):
    workspace = Workspace.open(tmp_path / "workspace")
    encoder = load_encoder(tiny_encoder)
    workspace.ensure_encoder(encoder.name, encoder.dimension)
    table = make(tiny_encoder, PaintMaker(bad_seeds=(1, 4)), PaintPlan(9), *range(6))
    (row,) = write_block(table, workspace.uri).to_pylist()
    assert workspace.count() == 0
    with Committer(workspace) as committer:
        for values in json.loads(row["receipts"]):
            committer.add(Receipt.from_dict(values))
    assert workspace.count() == 4
    assert sorted(error["seed"] for error in workspace.errors().to_pylist()) == [1, 4]
    work = {entry["stage"]: entry for entry in json.loads(row["work"])}
    assert (work["make"]["rows"], work["embed"]["rows"]) == (4, 4)
    seconds = sum(table.column("device_seconds").to_pylist())
    assert work["make"]["busy_seconds"] + work["embed"]["busy_seconds"] == pytest.approx(seconds)
    assert work["make"]["usd_compute"] + work["embed"]["usd_compute"] == pytest.approx(2 * seconds)
    again = EmbedImages(workspace.uri, tiny_encoder, "cpu")(
        pa.table({"id": [PaintPlan(9)[index].id for index in (0, 1, 2)]})
    )
    assert again.column("id").to_pylist() == [PaintPlan(9)[index].id for index in (0, 2)]
    assert again.column("vector").to_pylist()[0] == next(
        v for n, v in table.to_pylist()[0].items() if n.startswith("embedding_")
    )
