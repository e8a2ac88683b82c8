import io
from pathlib import Path

import numpy as np
import pytest

from engine.catalog.corpus import read_images
from engine.catalog.folder import Folder
from engine.catalog.index import index_split
from engine.catalog.layouts.webdataset import WebDataset
from engine.testing.data import multi_hot, write_dataset, write_shards

NAMES = ("red apple", "green tree", "blue boat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "things", NAMES, train=4, test=2)


def test_every_image_is_read_with_its_label(folder: Path):
    index = index_split(str(folder), "train")
    assert sorted(index.texts.tolist()) == sorted("012" * 4)
    images = read_images(str(folder), index.keys.tolist())
    assert all(data[:4] == b"RIFF" for data in images)
    assert len(set(images)) == len(index.keys) == 12


def test_images_are_read_by_key_in_the_order_asked(folder: Path):
    keys = index_split(str(folder), "train").keys.tolist()
    assert read_images(str(folder), keys[::-1]) == read_images(str(folder), keys)[::-1]


def test_a_missing_shard_is_named(folder: Path):
    (folder / "train" / "1.tar").unlink()
    with pytest.raises(ValueError, match=r"shard .*train/1\.tar is missing \(2 are listed\)"):
        index_split(str(folder), "train")


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5])
def test_a_truncated_shard_is_named(folder: Path, keep: float):
    shard = folder / "train" / "0.tar"
    shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"shard .*train/0\.tar is broken"):
        index_split(str(folder), "train")


def test_a_shard_cut_between_two_members_is_named(folder: Path):
    shard = folder / "train" / "0.tar"
    key = list(WebDataset(Folder(str(folder))).samples("train/0.tar", "train", "cls"))[2].key
    shard.write_bytes(shard.read_bytes()[: int(key.split(":")[1]) - 512])
    with pytest.raises(ValueError, match="the end of the archive is missing"):
        index_split(str(folder), "train")


def test_a_missing_split_and_a_spoiled_count_are_named(folder: Path):
    with pytest.raises(ValueError, match="has no split 'valid'"):
        index_split(str(folder), "valid")
    (folder / "test" / "nshards.txt").write_text("two")
    with pytest.raises(ValueError, match="holds no number"):
        index_split(str(folder), "test")


def test_an_image_without_a_label_is_named(tmp_path: Path):
    write_shards(tmp_path / "train", [(b"RIFF", "0")], suffix="txt")
    with pytest.raises(ValueError, match=r"train/0\.tar: s0000000\.webp \(an image without a \.cls"):
        index_split(str(tmp_path), "train")


def test_a_class_index_out_of_range_is_named(folder: Path):
    write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "3")])
    with pytest.raises(ValueError, match=r"class index 3 is out of range; classnames\.txt has 3 names"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_a_class_without_images_is_named(folder: Path):
    write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "2")])
    with pytest.raises(ValueError, match="class 'green tree' has no image"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_a_label_that_is_no_number_is_named(folder: Path):
    write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "cat")])
    with pytest.raises(ValueError, match=r"s0000001\.webp \('cat'\) \(its label is not a class index"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_the_index_is_read_again_when_the_shards_change(folder: Path):
    before = index_split(str(folder), "train")
    assert index_split(str(folder), "train") is before
    write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "1")], shards=1)
    after = index_split(str(folder), "train")
    assert len(after.keys) == 2
    assert after.fingerprint != before.fingerprint


def test_the_index_survives_its_process(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from engine.catalog import index

    first = index_split(str(folder), "train")
    index._load_or_read.cache_clear()
    monkeypatch.setattr(WebDataset, "samples", lambda *_: pytest.fail("the shards were read again"))
    again = index_split(str(folder), "train")
    assert (again.keys == first.keys).all()
    assert (again.texts == first.texts).all()


def test_an_index_that_was_cut_off_goes_on_with_the_next_shard(folder: Path, monkeypatch: pytest.MonkeyPatch):
    read, whole = [], WebDataset.samples

    def samples(self: WebDataset, part: str, split: str, text_suffix: str):
        read.append(part)
        if part == "train/1.tar" and len(read) <= 2:
            raise ConnectionError("the network is gone")
        return whole(self, part, split, text_suffix)

    monkeypatch.setattr(WebDataset, "samples", samples)
    with pytest.raises(ConnectionError):
        index_split(str(folder), "train")
    assert len(index_split(str(folder), "train").keys) == 12
    assert sorted(read) == ["train/0.tar", "train/1.tar", "train/1.tar"]


def test_several_labels_an_image_are_read_from_npy(tmp_path: Path):
    samples = [
        (b"RIFF", multi_hot((1, 0, 1))),
        (b"RIFF", multi_hot((0, 1, 0))),
        (b"RIFF", multi_hot((0, 0, 1))),
    ]
    write_shards(tmp_path / "train", samples, suffix="npy")
    index = index_split(str(tmp_path), "train", "npy")
    assert index.labels(NAMES, str(tmp_path)).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert [found.tolist() for found in index.by_class(NAMES, str(tmp_path))] == [[0], [1], [0, 2]]
    with pytest.raises(ValueError, match="labels for 3 classes, but there are 2 class names"):
        index.labels(NAMES[:2], str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(multi_hot((1, 2, 0)), "is not multi-hot"), (b"no array", "is no array of labels")],
)
def test_labels_that_are_no_ones_and_zeros_are_named(tmp_path: Path, content: bytes, message: str):
    write_shards(tmp_path / "train", [(b"RIFF", content)], suffix="npy")
    with pytest.raises(ValueError, match=rf"train/0\.tar: s0000000\.webp \(its \.npy {message}"):
        index_split(str(tmp_path), "train", "npy")


def test_labels_are_never_unpickled(tmp_path: Path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    write_shards(tmp_path / "train", [(b"RIFF", buffer.getvalue())], suffix="npy")
    with pytest.raises(ValueError, match=r"s0000000\.webp \(its \.npy is no array of labels"):
        index_split(str(tmp_path), "train", "npy")
