"""A user's own folder in the layouts other than tar shards: images in class folders, Hugging Face tables."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_dataset
from engine.catalog.corpus import read_each, read_images
from engine.testing.data import class_image, encode


def _write_images(folder: Path, counts: dict[str, int], suffix: str = "jpg") -> Path:
    for class_folder, count in counts.items():
        (folder / class_folder).mkdir(parents=True)
        for number in range(count):
            (folder / class_folder / f"{number:03}.{suffix}").write_bytes(f"{class_folder} {number}".encode())
    return folder


def _read(location: str, split: str) -> list[tuple[str, str]]:
    """(class name, content) of every image of a split."""
    dataset = load_dataset(location)
    index = dataset.index(split)
    labels = index.labels(dataset.class_names, dataset.location)
    images = read_images(dataset.location, index.keys.tolist())
    return [(dataset.class_names[label], image.decode()) for label, image in zip(labels, images, strict=True)]


def test_class_folders_with_splits(tmp_path: Path):
    folder = _write_images(
        tmp_path / "fruit", {"train/red_apple": 2, "train/pear": 1, "test/pear": 1, "test/red_apple": 1}
    )
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.class_names, dataset.group) == ("fruit", ("pear", "red apple"), "own")
    assert _read(str(folder), "train") == [
        ("pear", "train/pear 0"),
        ("red apple", "train/red_apple 0"),
        ("red apple", "train/red_apple 1"),
    ]
    assert _read(str(folder), "test") == [("pear", "test/pear 0"), ("red apple", "test/red_apple 0")]
    assert [len(found) for found in dataset.index("train").by_class(dataset.class_names, "")] == [1, 2]


def test_a_validation_folder_serves_as_the_test_split(tmp_path: Path):
    folder = _write_images(tmp_path / "fruit", {"train/pear": 1, "val/pear": 1})
    assert _read(str(folder), "test") == [("pear", "val/pear 0")]


def test_class_folders_without_splits_hold_out_a_fifth(tmp_path: Path):
    folder = _write_images(tmp_path / "fruit", {"apple": 10, "pear": 2}, "PNG")
    train, test = _read(str(folder), "train"), _read(str(folder), "test")
    assert sorted(test) == [("apple", "apple 0"), ("apple", "apple 5"), ("pear", "pear 0")]
    assert len(train) == 9
    assert not set(train) & set(test)


def test_the_order_of_classes_may_be_given_and_names_are_matched(tmp_path: Path):
    folder = _write_images(tmp_path / "fruit", {"train/Red-Apple": 1, "train/pear": 1, "test/pear": 1})
    (folder / "classnames.txt").write_text("red apple\npear\n")
    assert load_dataset(str(folder)).class_names == ("red apple", "pear")
    assert _read(str(folder), "train") == [("red apple", "train/Red-Apple 0"), ("pear", "train/pear 0")]
    _write_images(folder, {"train/paer": 1})
    with pytest.raises(ValueError, match="unknown class 'paer'; did you mean pear"):
        _read(str(folder), "train")


def test_a_catalog_set_as_class_folders_takes_the_catalogs_names(tmp_path: Path):
    folder = _write_images(
        tmp_path / "memes",
        {f"{split}/{name}": 1 for split in ("train", "test") for name in ("hatespeech_meme", "meme")},
    )
    dataset = load_dataset(f"hateful_memes={folder}")
    assert (dataset.metric, dataset.task, dataset.templates) == ("roc_auc", "binary", ("a {c}.",))
    assert dataset.class_names == ("meme", "hatespeech meme")
    assert dataset.index("test").labels(dataset.class_names, "").tolist() == [1, 0]
    other = _write_images(tmp_path / "other", {"train/cat": 1, "train/meme": 1})
    with pytest.raises(ValueError, match="unknown class of hateful_memes 'cat'"):
        load_dataset(f"hateful_memes={other}")


def test_odd_characters_in_file_names_survive_the_key(tmp_path: Path):
    folder = tmp_path / "fruit"
    (folder / "train" / "pear").mkdir(parents=True)
    for name in ("a:b.jpg", "50%3A.jpg", "c d.jpg"):
        (folder / "train" / "pear" / name).write_bytes(name.encode())
    assert sorted(content for _, content in _read(str(folder), "train")) == ["50%3A.jpg", "a:b.jpg", "c d.jpg"]


def test_a_new_image_is_seen(tmp_path: Path):
    folder = _write_images(tmp_path / "fruit", {"train/pear": 2})
    dataset = load_dataset(str(folder))
    before = dataset.index("train")
    (folder / "train" / "pear" / "new.jpg").write_bytes(b"new")
    after = dataset.index("train")
    assert len(after.keys) == len(before.keys) + 1
    assert after.fingerprint != before.fingerprint


def test_a_missing_split_of_class_folders_is_named(tmp_path: Path):
    folder = _write_images(tmp_path / "fruit", {"train/pear": 2})
    with pytest.raises(ValueError, match=r"has no split 'test' \(there is train\); put its images into test/CLASS/"):
        load_dataset(str(folder)).index("test")


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="holds no images"):
        load_dataset(str(tmp_path))


IMAGE = {"_type": "Image"}
NAMES = ["pear", "apple"]


def _table(labels: Sequence[object], label_feature: object, prefix: str = "") -> pa.Table:
    """A table as the datasets library writes it: an image's bytes in a struct, the features as JSON in the schema."""
    several = isinstance(label_feature, list) or label_feature.get("_type") != "ClassLabel"  # type: ignore[attr-defined]
    columns = {
        "image": pa.array(
            [{"bytes": f"{prefix}{number}".encode(), "path": None} for number in range(len(labels))],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "label": pa.array(labels, pa.list_(pa.int64()) if several else pa.int64()),
    }
    features = {"image": IMAGE, "label": label_feature}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}


def _save_to_disk(folder: Path, table: pa.Table, files: int = 2) -> None:
    folder.mkdir(parents=True)
    step = -(-table.num_rows // files)
    for number in range(files):
        with pa.ipc.new_stream(folder / f"data-{number:05}-of-{files:05}.arrow", table.schema) as stream:
            stream.write_table(table.slice(number * step, step), max_chunksize=2)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_dataset_dict(tmp_path: Path):
    for split, labels in (("train", [0, 1, 1, 0, 1]), ("test", [1, 0])):
        _save_to_disk(tmp_path / "fruit" / split, _table(labels, CLASS_LABEL, split))
    (tmp_path / "fruit" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    dataset = load_dataset(str(tmp_path / "fruit"))
    assert (dataset.class_names, dataset.task) == (("pear", "apple"), "multiclass")
    # the second file begins with row 3; its rows are numbered from 0 again, its images are its own
    assert _read(str(tmp_path / "fruit"), "train") == [
        ("pear", "train0"),
        ("apple", "train1"),
        ("apple", "train2"),
        ("pear", "train3"),
        ("apple", "train4"),
    ]
    assert _read(str(tmp_path / "fruit"), "test") == [("apple", "test0"), ("pear", "test1")]


def test_a_saved_dataset_without_splits_holds_out_a_fifth(tmp_path: Path):
    _save_to_disk(tmp_path / "fruit", _table([0, 0, 1, 0, 0, 0, 0], CLASS_LABEL), files=1)
    assert _read(str(tmp_path / "fruit"), "test") == [("pear", "0"), ("apple", "2"), ("pear", "6")]
    assert [content for _, content in _read(str(tmp_path / "fruit"), "train")] == ["1", "3", "4", "5"]


@pytest.mark.parametrize("place", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "{}.parquet"])
def test_parquet_files(tmp_path: Path, place: str):
    for split, labels in (("train", [0, 1, 1, 0, 1]), ("validation", [1])):
        path = tmp_path / place.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(labels, CLASS_LABEL, split), path, row_group_size=2)
    location = str(tmp_path)
    train = _read(location, "train")
    assert train[2:] == [("apple", "train2"), ("pear", "train3"), ("apple", "train4")]
    assert _read(location, "test") == [("apple", "validation0")]
    keys = load_dataset(location).index("train").keys.tolist()
    assert [image.decode() for image in read_images(location, [keys[4], keys[0], keys[3]])] == [
        "train4",
        "train0",
        "train3",
    ]


@pytest.mark.parametrize("feature", [[CLASS_LABEL], {"feature": CLASS_LABEL, "_type": "List"}])
def test_a_table_with_several_labels_an_image(tmp_path: Path, feature: object):
    pq.write_table(_table([[0], [0, 1], []], feature), tmp_path / "train.parquet")
    dataset = load_dataset(str(tmp_path))
    assert (dataset.task, dataset.metric, dataset.class_names) == ("multilabel", "map_11_point", ("pear", "apple"))
    assert dataset.index("train").labels(dataset.class_names, "").tolist() == [[1, 0], [1, 1], [0, 0]]


def test_tables_that_cannot_be_understood_are_refused_with_one_sentence(tmp_path: Path):
    path = tmp_path / "train.parquet"
    pq.write_table(_table([0], CLASS_LABEL).replace_schema_metadata(None), path)
    with pytest.raises(ValueError, match="has 0 Image and 0 ClassLabel columns; keep one of each"):
        load_dataset(str(tmp_path))
    pq.write_table(_table([0, -1], CLASS_LABEL), path)
    with pytest.raises(ValueError, match=r"train\.parquet: row 1 \(-1\) \(a row without a label"):
        load_dataset(str(tmp_path)).index("train")
    with pytest.raises(ValueError, match=r"has no split 'test' \(there is train\)"):
        load_dataset(str(tmp_path)).index("test")
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"table .*train\.parquet is broken"):
        load_dataset(str(tmp_path)).index("train")


def test_a_row_without_bytes_is_one_error_that_says_why(tmp_path: Path):
    table = _table([0, 1, 0, 1], CLASS_LABEL)
    good = {"bytes": b"image", "path": None}
    cells = [{"bytes": None, "path": "gone.jpg"}, good, None, good]
    column = pa.array(cells, table.schema.field("image").type)
    pq.write_table(table.set_column(0, table.schema.field("image"), column), tmp_path / "train.parquet")
    keys = load_dataset(str(tmp_path)).index("train").keys.tolist()
    path, first, null, last = read_each(str(tmp_path), keys)
    assert (first, last) == (b"image", b"image")
    assert str(path).startswith("the row has a path and no bytes")
    assert str(null) == "the row has no image"
    with pytest.raises(ValueError, match=r"train\.parquet: row 0: the row has a path and no bytes"):
        read_images(str(tmp_path), keys)


def test_class_folders_reach_the_plan_and_its_maker(tmp_path: Path):
    from engine.sources import CorpusMaker, OriginalPlan

    for name in ("pear", "apple"):
        for number in range(5):
            path = tmp_path / "fruit" / name / f"{number}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(class_image(len(name), number)))
    dataset = load_dataset(str(tmp_path / "fruit"))
    plan = OriginalPlan(dataset, 4)
    made = CorpusMaker({"fruit": dataset.location}).make([plan[number] for number in range(8)])
    assert [image.reason for image in made] == [""] * 8
    assert {tuple(image.pixels.shape) for image in made if image.pixels is not None} == {(3, 32, 32)}
