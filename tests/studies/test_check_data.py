"""The account of a folder, a pool and a name of the catalog, before they are used."""

from pathlib import Path

import pytest

from engine.studies.check_data import CheckConfig, check_data
from engine.testing.data import class_image, encode, write_pool
from tests.catalog.trees import write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = {
        f"{split}/{name}/{number}.webp": encode(class_image(label, number + 10 * (split == "Testing")))
        for split, count in (("Training", 4), ("Testing", 2))
        for label, name in enumerate(("cat", "dog"))
        for number in range(count)
    }
    pictures["Testing/dog/same.webp"] = pictures["Training/dog/0.webp"]
    pictures |= {"Training/cat/broken.jpg": "<html>", "__MACOSX/x.jpg": "", "Training/cat/x.heic": "", ".DS_Store": ""}
    return write_files(tmp_path / "pets", pictures)


def test_a_folder_is_accounted_for(folder: Path, tmp_path: Path):
    report = check_data(CheckConfig(path=str(folder), report=tmp_path / "report"))
    tables = report.tables
    assert [(row["split"], row["layout"], row["images"], row["fewest_class"]) for row in tables["splits"]] == [
        ("train", "class folders", 9, "dog"),
        ("test", "class folders", 5, "cat"),
    ]
    assert tables["classes"] == [
        {"class": "cat", "train_images": 5, "test_images": 2},
        {"class": "dog", "train_images": 4, "test_images": 3},
    ]
    assert [(row["verdict"], row["count"]) for row in tables["account"]] == [
        ("used", 9),
        ("used", 5),
        ("ignored", 1),
        ("ignored", 1),
        ("refused", 1),
    ]
    (broken,) = tables["broken"]
    assert (broken["count"], broken["examples"]) == (1, "Training/cat/broken.jpg")
    (same,) = tables["duplicates"]
    assert (same["splits"], same["pictures"], same["images"]) == ("test + train", 1, 2)
    assert same["examples"] == "Training/dog/0.webp = Testing/dog/same.webp"
    assert tables["sizes"] == [{"pixels": "32x32", "count": 13}]
    assert [len(sheet.images) for sheet in report.sheets] == [9, 5]
    assert any("1 pictures are in several splits" in note for note in report.notes)
    assert (tmp_path / "report" / "index.html").exists()


def test_the_lists_alone_are_looked_at_on_request(folder: Path, tmp_path: Path):
    tables = check_data(CheckConfig(path=str(folder), report=tmp_path / "report", images=False)).tables
    assert set(tables) == {"splits", "classes", "account"}


def test_a_pool_is_accounted_for(tmp_path: Path):
    pool = write_pool(tmp_path / "web", ("cat", "dog"), count=6)
    report = check_data(CheckConfig(path=str(pool), report=tmp_path / "report"))
    (row,) = report.tables["splits"]
    assert row == {"split": "train", "layout": "webdataset shards", "images": 6}
    assert report.sheets[0].captions[:2] == ["a nice cat 0", "a nice dog 0"]


def test_a_data_set_that_a_run_would_refuse_says_so(tmp_path: Path):
    folder = write_files(tmp_path / "pets", ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"])
    notes = check_data(CheckConfig(path=str(folder), report=tmp_path / "report")).notes
    assert "The split validation stands in for test, which is not there or has no labels." in notes
    assert any("class 'dog' has no image in split validation" in note for note in notes)
    assert notes[1].startswith("The split") or notes[0].startswith("Files: 3 used")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the path is empty"),
        ("/nowhere", "unknown data set '/nowhere'"),
        ("mini-comon", "did you mean mini-common"),
    ],
)
def test_what_is_no_data_is_one_sentence(tmp_path: Path, path: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        check_data(CheckConfig(path=path, report=tmp_path / "report"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()
