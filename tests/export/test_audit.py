"""The audit counts what was planted, and says what it could not check."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.cli.main import main
from engine.export.audit import AuditConfig, audit
from engine.export.config import ExportConfig
from engine.export.export import export_images
from engine.images import content_hash, encode_png
from engine.recipe import Recipe
from engine.store import Workspace
from tests.evaluation.test_near_duplicates import crop, scenes
from tests.export.helpers import MINI, Filled, fill, row

TEST = scenes(30, 7)


def stored(recipe: Recipe, pixels: np.ndarray) -> dict:
    return row(recipe, image=encode_png(pixels), content_hash=content_hash(pixels), image_height=32, image_width=32)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """30 test images; 20 training images, of which three are cropped, mirrored and equal copies of test images, and two are equal."""
    named = {"dataset": "d", "class_name": "a"}
    rows = [
        stored(Recipe(source="original", split="test", class_index=0, key=f"t{number}", **named), pixels)
        for number, pixels in enumerate(TEST)
    ]
    train = list(scenes(20, 8))
    train[0], train[1], train[2] = crop(TEST[4], 0.3, 0.9, 0.9), np.ascontiguousarray(TEST[5][:, ::-1]), TEST[6]
    train[10] = train[11]
    for number, pixels in enumerate(train):
        recipe = Recipe(source="generative", class_index=number % 4 and 1, seed=number, **named, **MINI)
        rows.append(stored(recipe, pixels))
    return fill(tmp_path_factory.mktemp("audit") / "workspace", rows, errors=5)


def test_planted_copies_are_found_with_their_test_images(leaky: Filled):
    found = audit(AuditConfig(leaky.workspace.uri))
    assert found.copies is not None
    assert found.copies.leaked == 3
    assert found.copies.repeated == 2
    assert found.equal_pixels == {"within_train": 1, "train_in_test": 1}
    keys = {leaky.rows[pair["test_id"]]["key"] for pair in found.copies.pairs}
    assert keys == {"t4", "t5", "t6"}
    assert found.copies.num_test == 30


def test_where_narrows_what_is_audited_but_not_what_it_is_compared_with(leaky: Filled):
    found = audit(AuditConfig(leaky.workspace.uri, where="split = 'train' AND seed < 2"))
    assert found.num_images == 2
    assert found.copies is not None
    assert (found.copies.num_checked, found.copies.leaked, found.copies.num_test) == (2, 2, 30)


def test_a_sample_is_said_to_be_one(leaky: Filled):
    found = audit(AuditConfig(leaky.workspace.uri, images=6))
    assert found.copies is not None
    assert found.copies.num_checked == 6
    assert any("of 6 sampled training images" in line for line in found.lines())


def test_only_so_many_are_compared_with_each_other_and_it_is_said(leaky: Filled, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.export.leakage.MAX_WITHIN", 8)
    found = audit(AuditConfig(leaky.workspace.uri))
    assert found.copies is not None
    assert (found.copies.num_checked, found.copies.num_within, found.copies.leaked) == (20, 8, 3)
    assert any("of 8 training images look like another of them" in line for line in found.lines())


def test_pixels_come_in_the_order_of_the_ids_without_those_that_do_not_decode(leaky: Filled, tmp_path: Path):
    from engine.export.leakage import _pixels
    from engine.images import decode_image
    from engine.store.snapshot import Snapshot

    rows = list(leaky.rows.values())
    broken = rows[3] | {"image": b"no image"}
    workspace = fill(tmp_path / "workspace", [*rows[:3], broken, *rows[4:]]).workspace
    ids = [one["id"] for one in (rows[9], rows[3], rows[0], rows[40])]
    found, pixels = _pixels(Snapshot(workspace), ids)
    assert found == [ids[0], ids[2], ids[3]]
    for one, shown in zip(found, pixels, strict=True):
        np.testing.assert_array_equal(shown, decode_image(leaky.rows[one]["image"]))


def test_balance_errors_and_dollars_are_counted(leaky: Filled):
    found = audit(AuditConfig(leaky.workspace.uri))
    train = found.balance["train"]
    assert (train["classes"], train["fewest"], train["most"]) == (2, 5, 15)
    shares = np.array([5, 15]) / 20
    assert train["evenness"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(2), abs=1e-4)
    assert found.num_errors == 5
    assert found.usd["compute"] == pytest.approx(50e-6)
    assert found.usd["labels"] == pytest.approx(30 * 0.12)
    assert found.usd["billed"] is None, "the run has no record"


def test_bills_and_embeddings_are_read_where_they_are(leaky: Filled, tmp_path: Path):
    rows = list(leaky.rows.values())
    workspace = fill(tmp_path / "workspace", rows).workspace
    run = {"run_id": "run-1", "started_at": 0, "wall_seconds": 60.0, "nodes": 1.0, "instance": "x", "usd_per_hour": 0.2}
    run |= {"busy_seconds": 30.0, "usd_busy": 0.5, "usd_billed": 5.0, "images": 50, "errors": 0}
    workspace.put_run(run | {"status": "finished", "config": "{}"})
    workspace.ensure_encoder("e", 4)
    ids = [one["id"] for one in rows]
    workspace.fill_embeddings("e", ids, np.eye(4, dtype=np.float32)[np.arange(50) % 4])
    found = audit(AuditConfig(workspace.uri, where="split = 'train'"))
    assert found.usd["billed"] == pytest.approx(5.0 * 20 / 50)
    assert found.vendi is not None
    assert found.vendi["score"] == pytest.approx(4.0, rel=1e-3)
    assert (found.vendi["images"], found.vendi["column"]) == (20, "embedding_e")


def test_safety_is_counted_by_checker_and_flagged_images_can_be_left_out(leaky: Filled, tmp_path: Path, capsys):
    import pyarrow as pa

    workspace = fill(tmp_path / "workspace", list(leaky.rows.values())).workspace
    assert audit(AuditConfig(workspace.uri)).safety == []
    workspace.ensure_columns(pa.schema([pa.field("safety_a_1", pa.float32(), metadata={"checker": "me/a@1 (nsfw)"})]))
    workspace.ensure_columns(pa.schema([pa.field("safety_never_run", pa.float32())]))
    train = [one["id"] for one in leaky.rows.values() if one["split"] == "train"]
    scores = pa.array([0.9] * 3 + [0.4] * 2 + [0.0] * 13, pa.float32())
    workspace.fill_columns(pa.table({"id": train[:18], "safety_a_1": scores}))

    (found,) = audit(AuditConfig(workspace.uri, where="split = 'train'")).safety
    assert (found.checker, found.num_images, found.checked, found.flagged) == ("me/a@1 (nsfw)", 20, 18, 3)
    assert audit(AuditConfig(workspace.uri, safety_threshold=0.3)).safety[0].flagged == 5
    with pytest.raises(ValueError, match="safety threshold is 0"):
        audit(AuditConfig(workspace.uri, safety_threshold=0.0))

    place = tmp_path / "safe"
    where = "split = 'train' AND safety_a_1 < 0.5"
    assert main(["export", "--workspace", workspace.uri, "--output", str(place), "--where", where, "--no-audit"]) == 0
    said = capsys.readouterr().out
    line = "me/a@1 (nsfw) checked 15 of 15 images and flags 0 of them (0.00%; safety_a_1 >= 0.5). 3 flagged images of the workspace are left out."
    assert f"Safety: {line}" in said
    assert "35 images were left out by --where" in said
    card = (place / "README.md").read_text()
    assert f"## Safety\n\nMe{line[2:]}\n" in card


def test_the_card_says_that_nothing_was_checked(leaky: Filled, tmp_path: Path):
    export_images(ExportConfig(workspace=leaky.workspace.uri, output=tmp_path / "out", audit=False))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Safety\n\nNo image was checked by a safety checker" in card


def test_ratings_have_their_interval(leaky: Filled, tmp_path: Path):
    import pyarrow as pa

    from engine.store.schemas import RATING_SCHEMA, STUDY_SCHEMA

    workspace = fill(tmp_path / "workspace", list(leaky.rows.values())).workspace
    items = [
        {"study_id": "s", "task": "matching", "created_at": 0, "key_id": "k", "item": f"i{number}", "set": number}
        | {"prompt": "p", "image_id": "x", "method": "mini", "class_name": "a"}
        for number in range(3)
    ]
    workspace.add_rows("studies", pa.Table.from_pylist(items, schema=STUDY_SCHEMA))
    answers = [
        {"study_id": "s", "rater": rater, "item": f"i{number}", "answer": answer, "seconds": 1.0, "answered_at": when}
        for when, (rater, number, answer) in enumerate(
            [("ann", 0, 1), ("ann", 0, 6), ("ann", 1, 6), ("bob", 0, 4), ("bob", 2, 4), ("eve", 1, 5)]
        )
    ]
    workspace.add_rows("ratings", pa.Table.from_pylist(answers, schema=RATING_SCHEMA))
    found = audit(AuditConfig(workspace.uri))
    (rating,) = found.ratings
    assert (rating["method"], rating["raters"], rating["answers"]) == ("mini", 3, 5)
    assert rating["mean"] == pytest.approx(5.0), "the newest answer to an item counts"
    assert 4.0 <= rating["bootstrap_low"] < 5.0 < rating["bootstrap_high"] <= 6.0
    assert any(line.startswith("Human ratings of mini") and "95 % interval" in line for line in found.lines())


def test_what_cannot_be_checked_is_said(tmp_path: Path):
    recipe = Recipe(source="generative", dataset="d", class_index=0, class_name="a", **MINI)
    found = audit(AuditConfig(fill(tmp_path / "workspace", [row(recipe)]).workspace.uri))
    said = "\n".join(found.lines())
    assert found.copies is None
    assert "Leakage was not checked" in said
    assert "Diversity was not measured" in said


def test_the_command_prints_sentences_or_json(leaky: Filled, capsys):
    assert main(["audit", leaky.workspace.uri]) == 0
    said = capsys.readouterr().out
    for words in ("Balance (train)", "Leakage: 3 of 20", "Equal pixels: 1", "Errors: 5", "USD busy"):
        assert words in said
    assert main(["audit", leaky.workspace.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"]["leaked"] == 3


def test_the_card_of_an_export_has_the_audit(leaky: Filled, tmp_path: Path):
    command = ["export", "--workspace", leaky.workspace.uri, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "## Audit" in text
    assert "Leakage: 3 of 20 sampled training images" in text


def test_no_workspace_and_no_images_are_one_sentence(tmp_path: Path, capsys):
    assert main(["audit", str(tmp_path / "none")]) == 2
    Workspace.open(tmp_path / "empty")
    assert main(["audit", str(tmp_path / "empty")]) == 2
    said = capsys.readouterr().err
    assert "there is no workspace at" in said
    assert "has no images" in said
    assert said.count("\n") == 2
