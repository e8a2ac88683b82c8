"""The writer: what it acknowledges is in the table, once; it keeps the table small and the accounts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.images import content_hash, encode_png
from engine.recipe import IMAGE_SCHEMA, Recipe
from engine.serving import writer as module
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.orders import Order
from engine.serving.rows import request_row as a_row
from engine.serving.rows import to_bytes
from engine.serving.writer import TableWriter
from engine.store import Workspace
from engine.testing.data import class_image

PIXELS = class_image(0, 0)


def images(*seeds: int, **more: Any) -> bytes:
    rows = []
    for seed in seeds:
        recipe = Recipe(source="generative", dataset="served", class_index=0, class_name="", prompt="a", seed=seed)
        facts = {
            "image": encode_png(PIXELS),
            "content_hash": content_hash(PIXELS),
            "image_height": 32,
            "image_width": 32,
        }
        costs = {"device_seconds": 2.0, "usd_compute": 0.5, "usd_labels": 0.0, "run_id": "", "batch_size": 1}
        row = {
            **recipe.as_dict(),
            "id": recipe.id,
            **facts,
            **costs,
            "dtype": "float32",
            "device": "cpu",
            "owner": "ann",
        }
        rows.append(row | more)
    schema = IMAGE_SCHEMA.append(pa.field("owner", pa.string()))
    for name in more:
        schema = schema if name in schema.names else schema.append(pa.field(name, pa.list_(pa.float32(), 2)))
    return to_bytes(pa.Table.from_pylist(rows, schema=schema))


def request_row(usd: float, key_id: str = "ann") -> bytes:
    order = Order(Caller(key_id, key_id), "r", "/v1", ())
    return to_bytes(pa.Table.from_pylist([a_row(order, "i", True, 0.0, 0.0, usd)]))


WORK = {
    "stage": "make",
    "source": "generative",
    "dataset": "served",
    "strategy": "",
    "generator": "mini",
    "rows": 1,
    "busy_seconds": 2.0,
    "usd_compute": 0.5,
    "usd_labels": 0.0,
    "fetched_bytes": 0,
}


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    return ServeConfig(workspace=str(tmp_path / "workspace"))


@pytest.fixture
def writer(config: ServeConfig) -> Iterator[TableWriter]:
    found = TableWriter(config)
    yield found
    found.close()


def test_what_is_acknowledged_is_in_the_table(writer: TableWriter, config: ServeConfig):
    assert writer.put({"images": images(1, 2)}).result(60) == []
    workspace = Workspace.open(config.workspace)
    rows = workspace.scan(["id", "run_id", "owner"]).read_all().to_pylist()
    assert {(row["run_id"], row["owner"]) for row in rows} == {(writer.run_id, "ann")}
    assert len(rows) == 2


def test_an_image_is_written_once_however_often_it_is_sent(writer: TableWriter, config: ServeConfig):
    sent = [writer.put({"images": images(number % 3, 7)}) for number in range(12)]
    answers = [one.result(60) for one in sent]
    workspace = Workspace.open(config.workspace)
    assert workspace.count() == 4
    assert workspace.verify().sound
    assert all(len(answer) == 2 for answer in answers[6:])  # both were there


def test_new_embedding_columns_are_added(writer: TableWriter, config: ServeConfig):
    writer.put({"images": images(1)}).result(60)
    writer.put({"images": images(2, embedding_clip=[0.6, 0.8])}).result(60)
    rows = Workspace.open(config.workspace).scan(["seed", "embedding_clip"]).read_all().to_pylist()
    found = {row["seed"]: row["embedding_clip"] for row in rows}
    assert found[1] is None
    assert found[2] == pytest.approx([0.6, 0.8])


def test_a_run_is_refused_while_the_server_lives_and_goes_on_after_it(config: ServeConfig):
    writer = TableWriter(config)
    with pytest.raises(ValueError, match="is writing to workspace"), Workspace.open(config.workspace).lock("run"):
        pass
    writer.close()
    with Workspace.open(config.workspace).lock("run"):
        pass


def test_the_server_is_a_run_with_its_bill(config: ServeConfig):
    writer = TableWriter(config)
    writer.put({"images": images(1), "requests": request_row(0.5)}, [WORK]).result(60)
    writer.close()
    (row,) = Workspace.open(config.workspace).runs().to_pylist()
    assert (row["run_id"], row["status"], row["images"], row["usd_busy"]) == (writer.run_id, "finished", 1, 0.5)
    assert Workspace.open(config.workspace).ledger().to_pylist()[0]["busy_seconds"] == 2.0


def test_a_budget_is_spent_by_what_was_served_and_stays_spent(config: ServeConfig):
    writer = TableWriter(config)
    ann = Caller("ann", "Ann", budget_usd=1.0)
    writer.admit(ann, 1)
    writer.put({"requests": request_row(1.5)}).result(60)
    with pytest.raises(ApiError) as caught:
        writer.admit(ann, 1)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    writer.admit(Caller("bob", "Bob", budget_usd=1.0), 1)
    writer.close()
    again = TableWriter(config)
    with pytest.raises(ApiError):
        again.admit(ann, 1)
    again.close()


def test_a_failing_store_is_an_answer_and_no_end(
    writer: TableWriter, config: ServeConfig, monkeypatch: pytest.MonkeyPatch
):
    real = module.write_fragments

    def broken(*arguments: Any, **named: Any) -> Any:
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "write_fragments", broken)
    with pytest.raises(ApiError) as caught:
        writer.put({"images": images(1)}).result(60)
    assert (caught.value.status, caught.value.code) == (503, "store_failed")
    assert "No space left" in str(caught.value)
    monkeypatch.setattr(module, "write_fragments", real)
    assert writer.put({"images": images(1)}).result(60) == []
    assert Workspace.open(config.workspace).count() == 1


def test_versions_and_fragments_stay_few(config: ServeConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "COMMITS_PER_CLEANING", 10)
    monkeypatch.setattr(module, "KEEP_VERSIONS_FOR", module.timedelta(0))
    writer = TableWriter(config)
    for number in range(60):
        writer.put({"images": images(number), "requests": request_row(0.0)}).result(60)
    writer.close()
    workspace = Workspace.open(config.workspace)
    assert workspace.count() == 60
    for name in ("images", "requests"):
        assert len(workspace.dataset(name).versions()) <= 25
    assert workspace.verify().sound


def test_an_image_whose_commit_landed_although_it_failed_is_not_written_again(
    writer: TableWriter, config: ServeConfig, monkeypatch: pytest.MonkeyPatch
):
    class Broken(module.Committer):
        def __exit__(self, *arguments: Any) -> None:
            super().__exit__(*arguments)
            raise OSError("the answer is lost")

    monkeypatch.setattr(module, "Committer", Broken)
    with pytest.raises(ApiError):
        writer.put({"images": images(1)}).result(60)
    monkeypatch.undo()
    assert writer.put({"images": images(1)}).result(60)
    assert Workspace.open(config.workspace).count() == 1


def test_images_of_an_earlier_server_are_known(config: ServeConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "COMMITS_PER_MERGE", 3)
    monkeypatch.setattr(module, "COMMITS_PER_CLEANING", 7)
    for _ in range(2):
        writer = TableWriter(config)
        for number in range(20):
            writer.put({"images": images(number % 12)}).result(60)
        writer.close()
    assert Workspace.open(config.workspace).count() == 12


def test_rows_that_a_dead_writer_has_written_are_not_doubled_by_a_repeated_put(config: ServeConfig):
    first, second = request_row(1.0), request_row(2.0, "bob")
    writer = TableWriter(config)
    writer.put({"images": images(1), "requests": first}).result(60)
    writer.close()
    writer = TableWriter(config)
    assert len(writer.put({"images": images(1), "requests": first}, is_repeated=True).result(60)) == 1
    writer.put({"images": images(2), "requests": second}, is_repeated=True).result(60)
    ann, bob = Caller("ann", "Ann", budget_usd=1.5), Caller("bob", "Bob", budget_usd=2.5)
    writer.admit(ann, 1)  # a second dollar would have used up the budget
    writer.admit(bob, 1)
    writer.close()
    workspace = Workspace.open(config.workspace)
    assert workspace.count() == 2
    assert sorted(workspace.read("requests")["usd"].to_pylist()) == [1.0, 2.0]
