from pathlib import Path

import pytest

from engine.catalog.index import index_split
from engine.catalog.webdataset import WebDataset
from tests import tiny

NAMES = ("red apple", "green tree", "blue boat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_dataset(tmp_path / "things", NAMES, train=4, test=2)


def test_every_image_is_read_with_its_label(folder: Path):
    dataset = WebDataset(str(folder), "train")
    samples = list(dataset.samples())
    assert sorted(sample.text for sample in samples) == sorted("012" * 4)
    images = dataset.read_images([sample.key for sample in samples])
    assert all(data[:4] == b"RIFF" for data in images)
    assert len(set(images)) == len(samples) == 12


def test_images_are_read_by_key_in_the_order_asked(folder: Path):
    dataset = WebDataset(str(folder), "train")
    keys = [sample.key for sample in dataset.samples()]
    assert dataset.read_images(keys[::-1]) == dataset.read_images(keys)[::-1]


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
    sample = WebDataset(str(folder), "train")
    key = list(sample._shard_samples("train/0.tar", "cls"))[2].key
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
    tiny.write_shards(tmp_path / "train", [(b"RIFF", "0")], suffix="txt")
    with pytest.raises(ValueError, match=r"image s0000000 has no \.cls"):
        index_split(str(tmp_path), "train")


def test_a_class_index_out_of_range_is_named(folder: Path):
    tiny.write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "3")])
    with pytest.raises(ValueError, match=r"class index 3 is out of range; classnames\.txt has 3 names"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_a_class_without_images_is_named(folder: Path):
    tiny.write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "2")])
    with pytest.raises(ValueError, match="class 'green tree' has no image"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_a_label_that_is_no_number_is_named(folder: Path):
    tiny.write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "cat")])
    with pytest.raises(ValueError, match="label 'cat' is not a class index"):
        index_split(str(folder), "train").by_class(NAMES, str(folder))


def test_the_index_is_read_again_when_the_shards_change(folder: Path):
    before = index_split(str(folder), "train")
    assert index_split(str(folder), "train") is before
    tiny.write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "1")], shards=1)
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
