"""Every format is read back by those who will: datasets, webdataset, torchvision, and our own catalog."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_dataset as load_own
from engine.catalog.corpus import read_images
from engine.export.config import ExportConfig
from engine.export.export import export_images
from engine.images import decode_image
from tests.export.helpers import CLASSES, Filled, every_kind, fill

FORMATS = ("parquet", "webdataset", "folder")
NUM_CLASSES = sum(map(len, CLASSES.values()))


def names_of(filled: Filled) -> dict[tuple[str, int], str]:
    """(Data set, class index) → exported name: its own, or with the data set where it is shared."""
    return {
        (dataset, index): f"{name} ({dataset})" if name == "same" else name
        for dataset, names in CLASSES.items()
        for index, name in enumerate(names)
    }


def expected(filled: Filled, split: str) -> Counter:
    """Pixels and class name of each image of a split."""
    names = names_of(filled)
    return Counter(
        (filled.pixels(one).tobytes(), names[row["dataset"], row["class_index"]])
        for one, row in filled.rows.items()
        if row["split"] == split
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_our_own_reader_finds_equal_pixels_labels_and_class_names(filled: Filled, exported, name: str, split: str):
    dataset = load_own(str(exported(name).output))
    assert sorted(dataset.class_names) == sorted(names_of(filled).values())
    index = dataset.index(split)
    labels = index.labels(dataset.class_names, dataset.location)
    pixels = [decode_image(image) for image in read_images(dataset.location, list(index.keys))]
    found = Counter((image.tobytes(), dataset.class_names[label]) for image, label in zip(pixels, labels, strict=True))
    assert found == expected(filled, split)
    assert not [tally for _, tally in index.account.lost()]


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_datasets_reads_images_labels_and_recipes(filled: Filled, exported, load_dataset, name: str):
    for split, rows in load_dataset(exported(name).output).items():
        found = {}
        for one in rows:
            recipe = one if name == "parquet" else one["json"]
            image = (
                one["image"] if name == "parquet" else next(one[key] for key in ("png", "webp", "jpg") if key in one)
            )
            label = rows.features["label"].int2str(one["label"]) if name == "parquet" else one["cls"]
            found[recipe["id"]] = np.asarray(image.convert("RGB")), label, recipe
        names = names_of(filled)
        own = {one: row for one, row in filled.rows.items() if row["split"] == split}
        assert set(found) == set(own)
        order = sorted((row["dataset"], row["class_index"]) for row in own.values())
        order = sorted(set(order))
        for one, (pixels, label, recipe) in found.items():
            row = own[one]
            key = row["dataset"], row["class_index"]
            np.testing.assert_array_equal(pixels, filled.pixels(one))
            assert label == (names[key] if name == "parquet" else order.index(key))
            assert recipe["prompt"] == row["prompt"]
            assert recipe["seed"] == row["seed"]
            assert recipe["image_format"] == (row["image_format"] or "")


def test_datasets_reads_folders_with_their_labels(filled: Filled, exported, load_dataset):
    from urllib.parse import unquote

    for split, rows in load_dataset(exported("folder").output).items():
        found = Counter(
            (np.asarray(one["image"].convert("RGB")).tobytes(), unquote(rows.features["label"].int2str(one["label"])))
            for one in rows
        )
        assert found == expected(filled, split)


def test_torchvision_reads_folders(filled: Filled, exported):
    from urllib.parse import unquote

    from torchvision.datasets import ImageFolder

    folder = ImageFolder(str(exported("folder").output / "train"))
    found = Counter((np.asarray(image).tobytes(), unquote(folder.classes[label])) for image, label in folder)
    assert found == expected(filled, "train")


def test_webdataset_reads_shards_with_the_same_keys_in_every_sample(filled: Filled, exported):
    import webdataset

    output = exported("webdataset").output
    samples = list(webdataset.WebDataset(str(output / "train" / "0.tar"), shardshuffle=False).decode("pilrgb"))
    assert len({frozenset(sample) for sample in samples}) == 1
    (suffix,) = set(samples[0]) - {"__key__", "__url__", "__local_path__", "cls", "json"}
    train = [row for row in filled.rows.values() if row["split"] == "train"]
    assert Counter(sample["__key__"] for sample in samples) == Counter(row["id"] for row in train)
    for sample in samples:
        np.testing.assert_array_equal(np.asarray(sample[suffix]), filled.pixels(sample["__key__"]))
        assert None not in sample["json"].values()


def test_parquet_shards_and_row_groups_keep_their_limits(filled: Filled, tmp_path: Path):
    rows = every_kind()
    big = [row | {"image": row["image"] + bytes(200_000)} for row in rows if row["source"] != "generative"]
    workspace = fill(tmp_path / "workspace", big).workspace
    config = ExportConfig(workspace=workspace.uri, output=tmp_path / "out", shard_mb=2, row_group_mb=1, audit=False)
    export_images(config)
    files = sorted((tmp_path / "out" / "data").iterdir())
    train = [path.name for path in files if path.name.startswith("train")]
    assert train == [f"train-{number:05}-of-{len(train):05}.parquet" for number in range(len(train))]
    assert len(train) > 1
    assert all(path.stat().st_size < 2_200_000 for path in files)
    metadata = pq.ParquetFile(next(path for path in files if path.name.startswith("train"))).metadata
    assert metadata.num_row_groups == 2
    assert all(metadata.row_group(number).total_byte_size < 1_100_000 for number in range(2))
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in files) == len(big)


def test_webdataset_shards_keep_their_limit(filled: Filled, tmp_path: Path):
    rows = [row | {"image": row["image"] + bytes(200_000)} for row in every_kind() if row["source"] == "original"]
    workspace = fill(tmp_path / "workspace", rows).workspace
    config = ExportConfig(
        workspace=workspace.uri, output=tmp_path / "out", format="webdataset", shard_mb=1, audit=False
    )
    export_images(config)
    shards = sorted((tmp_path / "out" / "train").glob("*.tar"))
    assert (tmp_path / "out" / "train" / "nshards.txt").read_text() == f"{len(shards)}\n"
    assert len(shards) > 1
    assert all(path.stat().st_size < 1_050_000 for path in shards)
    assert len(load_own(str(tmp_path / "out")).index("train").keys) == sum(row["split"] == "train" for row in rows)


def test_recipes_beside_folders_name_every_file(filled: Filled, exported):
    output = exported("folder").output
    lines = [json.loads(line) for line in (output / "recipes.jsonl").read_text("utf-8").splitlines()]
    assert {line["id"] for line in lines} == set(filled.rows)
    assert all(
        decode_image((output / line["file_name"]).read_bytes()).tobytes() == filled.pixels(line["id"]).tobytes()
        for line in lines
    )


def test_columns_that_stages_added_are_exported_and_embeddings_are_not(filled: Filled, tmp_path: Path, load_dataset):
    import pyarrow as pa

    rows = [row for row in every_kind() if row["source"] == "generative"][:4]
    workspace = fill(tmp_path / "workspace", rows).workspace
    workspace.ensure_encoder("a", 4)
    workspace.ensure_columns(pa.schema([pa.field("safety", pa.float32()), pa.field("caption", pa.string())]))
    ids = [row["id"] for row in rows]
    workspace.fill_columns(
        pa.table({"id": ids, "safety": pa.array([0.5, None, 1, 0], pa.float32()), "caption": ["a", "b", None, "d"]})
    )
    export_images(ExportConfig(workspace=workspace.uri, output=tmp_path / "out", audit=False))
    found = {row["id"]: row for row in load_dataset(tmp_path / "out", split="train")}
    assert [found[one]["safety"] for one in ids] == [0.5, None, 1.0, 0.0]
    assert [found[one]["caption"] for one in ids] == ["a", "b", None, "d"]
    assert "embedding_a" not in found[ids[0]]


def test_every_class_has_a_folder_that_is_safe_everywhere(exported):
    folders = [path.name for path in (exported("folder").output / "train").iterdir()]
    assert len(folders) == NUM_CLASSES
    assert len({name.casefold() for name in folders}) == NUM_CLASSES
    assert not [name for name in folders if set(name) & set('<>:"/\\|?*') or name[-1] in ". " or name[0] == "."]
    assert "con" not in folders
