"""Rules that every layout keeps; a new layout adds a folder to `FOLDERS`."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.catalog.corpus import open_layout, read_each
from engine.catalog.folder import Folder
from engine.catalog.layouts import LAYOUTS
from tests.catalog.trees import samples, table, write_files, write_shards, write_tables

LABELS = [0, 1] * 10


def folders(place: Path) -> Path:
    return write_files(
        place, [f"{split}/{name}/{i}.jpg" for split in ("train", "test") for name in ("cat", "dog") for i in range(10)]
    )


def folders_without_splits(place: Path) -> Path:
    return write_files(place, [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(20)])


def shards(place: Path) -> Path:
    return write_shards(place, {"train": samples(LABELS), "test": samples(LABELS)})


def tables(place: Path) -> Path:
    return write_tables(place, {"train.parquet": table(LABELS), "test.parquet": table(LABELS)})


def tables_without_splits(place: Path) -> Path:
    return write_tables(place, {"0.parquet": table(LABELS), "1.parquet": table(LABELS)})


def listed_labels(place: Path) -> Path:
    names = [f"{split}/{i}.jpg" for split in ("train", "test") for i in range(20)]
    lines = [json.dumps({"file_name": f"{i}.jpg", "labels": [("cat", "dog")[label]]}) for i, label in enumerate(LABELS)]
    lists = {f"{split}/metadata.jsonl": "\n".join(lines) for split in ("train", "test")}
    write_files(place, lists | {"dataset_type.txt": "multilabel\n", "classnames.txt": "cat\ndog\n"})
    return write_files(place, names)


FOLDERS = {
    "image folders with metadata.jsonl": (listed_labels,),
    "class folders": (folders, folders_without_splits),
    "webdataset shards": (shards,),
    "Hugging Face tables": (tables, tables_without_splits),
}
"""Title of a layout → writers of folders of 40 images of two classes."""
CASES = [pytest.param(title, write, id=write.__name__) for title, writers in FOLDERS.items() for write in writers]


def test_every_layout_has_a_folder():
    captioned = {"img2dataset folders"}  # tests/catalog/test_img2dataset.py
    assert {layout.title for layout in LAYOUTS} - captioned == set(FOLDERS)


@pytest.mark.parametrize(("title", "write"), CASES)
def test_a_folder_is_recognised_and_accounted_for(tmp_path: Path, title: str, write: Callable[[Path], Path]):
    place = write(tmp_path / "data")
    write_files(place, [".hidden", "__MACOSX/x.jpg", "notes.txt", "photo.heic"])
    assert open_layout(str(place)).title == title
    dataset = load_dataset(str(place))
    counts: dict[str, int] = {}
    for account in dataset.accounts().values():
        for row in account.rows():
            counts[row["verdict"]] = counts.get(row["verdict"], 0) + row["count"]
    lists = sum(
        name.endswith(("nshards.txt", "classnames.txt", "dataset_type.txt")) for name in Folder(str(place)).files
    )
    assert counts == {"used": 40, "ignored": 3 + lists, "refused": 1}


@pytest.mark.parametrize(("title", "write"), CASES)
def test_the_splits_share_no_image_and_every_key_is_read(tmp_path: Path, title: str, write: Callable[[Path], Path]):
    dataset = load_dataset(str(write(tmp_path / "data")))
    train, test = (dataset.index(split) for split in ("train", "test"))
    keys = [*train.keys.tolist(), *test.keys.tolist()]
    assert len(set(keys)) == 40
    assert all(isinstance(data, bytes) and data for data in read_each(dataset.location, keys))
    for index in (train, test):
        assert all(len(found) for found in index.by_class(dataset.class_names, dataset.location))


@pytest.mark.parametrize(("title", "write"), CASES)
def test_an_image_that_is_gone_costs_itself_and_a_file_that_is_gone_its_own_images(
    tmp_path: Path, title: str, write: Callable[[Path], Path]
):
    dataset = load_dataset(str(write(tmp_path / "data")))
    keys = dataset.index("train").keys.tolist()
    gone = keys[0].split(":")[0]
    (Path(dataset.location) / gone).unlink()
    for key, data in zip(keys, read_each(dataset.location, keys), strict=True):
        assert isinstance(data, ValueError) == (key.split(":")[0] == gone)
        assert isinstance(data, bytes) or "\n" not in str(data)


@pytest.mark.parametrize(("title", "write"), CASES)
def test_an_index_is_the_same_until_a_file_changes(tmp_path: Path, title: str, write: Callable[[Path], Path]):
    place = write(tmp_path / "data")
    dataset = load_dataset(str(place))
    before = dataset.index("train")
    assert dataset.index("train").keys.tolist() == before.keys.tolist()
    assert dataset.index("train").fingerprint == before.fingerprint
    file = place / before.keys[0].split(":")[0]
    os.utime(file, ns=(1, 1))  # another time alone: the content is read again, and is the same
    assert dataset.index("train").keys.tolist() == before.keys.tolist()
    if open_layout(str(place)).is_listing:
        file.write_bytes(file.read_bytes() + b"!")
        assert dataset.index("train").fingerprint != before.fingerprint


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_a_folder_of_text_is_of_no_layout(tmp_path: Path, layout: type):
    write_files(tmp_path, ["notes.txt", "more/notes.txt", ".hidden/1.jpg", "__MACOSX/1.jpg", "._0.parquet", ".0.tar"])
    assert not layout.recognises(Folder(str(tmp_path)))
