"""Blinded sheets of a workspace's images, the way back from filled-in sheets, and the paper's table."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.images import decode_image
from engine.store import Workspace
from engine.studies.rating import RatingConfig, run_rating
from tests.store.helpers import add, sound_rows

GOOD = {"fresh": 6, "stale": 3}


@pytest.fixture
def config(tmp_path: Path) -> RatingConfig:
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    add(workspace, sound_rows(range(20)))
    return RatingConfig(
        workspace=workspace.uri,
        methods=("fresh=seed < 10", "stale=seed >= 10"),
        sets=5,
        raters=("ann", "bob"),
        folder=tmp_path / "rating",
        report=tmp_path / "report",
    )


def _key(folder: Path) -> dict[str, str]:
    return {row["item"]: row["method"] for row in json.loads((folder / "study.json").read_text())["key"]}


def _fill_in(folder: Path, answer) -> None:
    method_of = _key(folder)
    for path in (folder / "sheets").glob("*.csv"):
        rows = list(csv.DictReader(path.open()))
        lines = ["item,answer", *(f"{row['item']},{answer(path.stem, method_of[row['item']])}" for row in rows)]
        path.write_text("\n".join(lines))


def test_sheets_show_every_image_and_no_method(config: RatingConfig):
    assert run_rating(config) is None
    sheets = config.folder / "sheets"
    study = json.loads((config.folder / "study.json").read_text())
    assert sorted(path.name for path in sheets.glob("*.*")) == ["ann.csv", "ann.html", "bob.csv", "bob.html"]
    orders = {
        rater: [row["item"] for row in csv.DictReader((sheets / f"{rater}.csv").open())] for rater in ("ann", "bob")
    }
    assert sorted(orders["ann"]) == sorted(orders["bob"]) == sorted(row["item"] for row in study["items"])
    assert orders["ann"] != orders["bob"]
    stored = Workspace.open(config.workspace, create=False).fetch(
        [row["image_id"] for row in study["items"]], ["image"]
    )
    pixels = dict(zip(stored["id"].to_pylist(), stored["image"].to_pylist(), strict=True))
    for row in study["items"]:
        shown = decode_image((sheets / "images" / f"{row['item']}.png").read_bytes())
        np.testing.assert_array_equal(shown, decode_image(pixels[row["image_id"]]))
    for path in sheets.rglob("*.html"):
        page = path.read_text()
        assert not any(hint in page for hint in ("fresh", "stale", *(row["image_id"] for row in study["items"])))
        assert all(f"images/{row['item']}.png" in page for row in study["items"])


def test_filled_in_sheets_become_the_papers_table(config: RatingConfig):
    run_rating(config)
    _fill_in(config.folder, lambda rater, method: GOOD[method] + (rater == "bob"))
    report = run_rating(replace(config, analyse=True))
    rows = {row["method"]: row for row in report.tables["rating"]}
    assert {name: row["mean_rating"] for name, row in rows.items()} == {"fresh": 6.5, "stale": 3.5}
    assert all((row["raters"], row["answers"]) == (2, 10) for row in rows.values())
    assert rows["fresh"]["variance"] == pytest.approx(np.repeat([6, 7], 5).var(ddof=1))
    assert "10 answers" not in report.notes[0]
    assert "20 answers of 2 raters" in report.notes[0]
    page = (config.report / "index.html").read_text()
    assert "Mean rating (1 to 7)" in page
    assert '<td class="number best">6.50' in page


def test_real_or_fake_is_a_share_and_half_filled_sheets_count_what_they_have(config: RatingConfig):
    run_rating(replace(config, task="real_fake"))
    _fill_in(config.folder, lambda rater, method: "" if rater == "bob" else int(method == "fresh"))
    report = run_rating(replace(config, analyse=True))
    assert {row["method"]: row["judged_real"] for row in report.tables["rating"]} == {"fresh": 1.0, "stale": 0.0}
    assert {row["raters"] for row in report.tables["rating"]} == {1}


def test_a_method_can_be_a_list_of_ids(config: RatingConfig, tmp_path: Path):
    workspace = Workspace.open(config.workspace, create=False)
    ids = [row["id"] for row in workspace.scan(["id"], "seed < 10").read_all().to_pylist()]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    run_rating(replace(config, methods=(f"fresh=@{tmp_path / 'ids.txt'}", "stale=seed >= 10")))
    study = json.loads((config.folder / "study.json").read_text())
    fresh = [item for item, method in _key(config.folder).items() if method == "fresh"]
    assert {row["image_id"] for row in study["items"] if row["item"] in fresh} <= set(ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("fresh",)}, "method 'fresh' is not NAME=CONDITION"),
        ({"methods": ("fresh=seed < 10", "fresh=seed > 10")}, "fresh is given twice"),
        ({"methods": ("fresh=seed < 10",)}, "1 methods and 5 sets are too few"),
        ({"methods": ()}, "methods is empty"),
        (
            {"methods": ("fresh=seed < 10", "none=seed > 1000")},
            "no image of the workspace is selected by 'seed > 1000'",
        ),
        ({"methods": ("fresh=seed < 10", "none=seeed > 1")}, "cannot select images by 'seeed > 1'"),
        ({"methods": ("fresh=seed < 10", "none=@/nowhere.txt")}, "cannot select images by '@/nowhere.txt'"),
        ({"raters": ("../ann",)}, "rater '../ann' is not a file name"),
        ({"sets": 11}, "fewer than 11"),
        ({"analyse": True}, "holds no readable rating study"),
    ],
)
def test_bad_input_is_one_sentence(config: RatingConfig, changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run_rating(replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert not (config.folder / "study.json").exists()


def test_answers_are_never_overwritten_and_bad_ones_are_named(config: RatingConfig):
    run_rating(config)
    with pytest.raises(ValueError, match="already holds a rating study"):
        run_rating(config)
    with pytest.raises(ValueError, match="has an answer; fill in"):
        run_rating(replace(config, analyse=True))
    _fill_in(config.folder, lambda *_: "good")
    with pytest.raises(ValueError, match=r"ann\.csv, line 2: 'good' is no answer"):
        run_rating(replace(config, analyse=True))
    _fill_in(config.folder, lambda *_: 8)
    with pytest.raises(ValueError, match="off the scale 1 to 7"):
        run_rating(replace(config, analyse=True))
