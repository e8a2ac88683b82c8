"""Shards as people have them: capitals, folders, keys given twice, labels that are none, counts that are wrong."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from engine.catalog import load_dataset
from engine.catalog.corpus import key_name
from engine.catalog.index import index_split
from engine.testing.data import multi_hot
from tests.catalog.trees import read, samples, verdicts, write_files, write_shards, write_tar

GOOD = samples([0, 1, 0, 1])


@pytest.mark.parametrize("suffix", ["JPG", "JPEG", "Png", "bmp", "webp", "jfif"])
def test_members_are_read_whatever_the_case_of_their_suffix(tmp_path: Path, suffix: str):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, 0], image=suffix), "test": GOOD})
    assert read(folder, "train") == [("cat", "0"), ("cat", "2"), ("dog", "1")]
    assert verdicts(folder)["used"] == {"": 7}


def test_hidden_members_are_ignored_and_counted(tmp_path: Path):
    members = [
        ("._s0.png", "x"),
        ("./__MACOSX/._s0.png", "x"),
        (".DS_Store", "x"),
        *GOOD,
        ("s0.json", "{}"),
        ("s1.seg.png", "x"),
    ]
    folder = write_shards(tmp_path / "pets", {"train": members, "test": GOOD})
    assert len(read(folder, "train")) == 4
    assert verdicts(folder)["ignored"] == {
        "hidden": 2,
        "an archive's leftovers of macOS (__MACOSX)": 1,
        "another member (.json)": 1,
        "a further image of its sample (.seg.png)": 1,
        "a list or a description": 3,
    }


def test_a_key_includes_its_folder_and_ends_at_the_first_dot(tmp_path: Path):
    members = [
        ("a/1.png", "0"),
        ("a/1.cls", "0"),
        ("b/1.png", "1"),
        ("b/1.cls", "1"),
        ("./c.d/2.png", "2"),
        ("./c.d/2.cls", "0"),
    ]
    folder = write_shards(tmp_path / "pets", {"train": members, "test": GOOD})
    assert read(folder, "train") == [("cat", "0"), ("cat", "2"), ("dog", "1")]


def test_a_key_given_twice_counts_once_with_its_own_label(tmp_path: Path):
    members = [*GOOD, ("s1.png", "again"), ("s1.cls", "0"), ("s2.jpg", "again")]
    folder = write_shards(tmp_path / "pets", {"train": members, "test": GOOD})
    assert read(folder, "train") == [("cat", "0"), ("cat", "2"), ("dog", "1"), ("dog", "3")]
    assert verdicts(folder)["refused"] == {"its key is given twice in the shard; the first counts": 3}


def test_a_dot_before_the_suffix_is_named_where_it_ends_the_key(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": [*GOOD, ("s.1.png", "x")], "test": GOOD})
    assert verdicts(folder)["refused"] == {"a dot in its name before the suffix, where its key ends; rename it": 1}


@pytest.mark.parametrize("label", ["--1", "-1", "cat", "", "1.0", "99999999999999999999", "²", "1 0"])
def test_a_label_that_is_no_class_index_costs_one_image(tmp_path: Path, label: str):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, 0, 1, label]), "test": GOOD})
    assert len(read(folder, "train")) == 4
    assert sum(verdicts(folder)["refused"].values()) == 1
    (row,) = [row for row in load_dataset(str(folder)).accounts()["train"].rows() if row["verdict"] == "refused"]
    assert row["examples"].startswith("train/0.tar: s4.png (")


def test_a_class_index_beyond_the_names_costs_one_image(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, 0, 1, 2]), "test": GOOD})
    dataset = load_dataset(str(folder))
    assert [len(found) for found in dataset.index("train").by_class(dataset.class_names, "")] == [2, 2]
    assert verdicts(folder)["refused"] == {"a label that does not fit the class names": 1}
    assert "s4 ('2')" in dataset.accounts()["train"].rows()[-1]["examples"]


def test_bytes_that_are_no_label_cost_one_image(tmp_path: Path):
    for number, content in enumerate((b"\xff\xfe\xff", b"\x80")):
        members = [*GOOD, ("bad.png", "x"), ("bad.cls", content)]
        folder = write_shards(tmp_path / f"{number}", {"train": members, "test": GOOD})
        assert len(read(folder, "train")) == 4
        assert verdicts(folder)["refused"] == {"its .cls is no UTF-8 text; save it as UTF-8": 1}


def test_a_label_in_another_encoding_is_read(tmp_path: Path):
    members = [*GOOD, ("s9.png", "9"), ("s9.cls", "1\r\n".encode("utf-16"))]
    assert ("dog", "9") in read(write_shards(tmp_path / "pets", {"train": members, "test": GOOD}), "train")


def test_images_without_labels_and_labels_without_images_cost_themselves(tmp_path: Path):
    members = [*GOOD, ("lonely.png", "x"), ("label.cls", "0"), ("photo.heic", "x")]
    folder = write_shards(tmp_path / "pets", {"train": members, "test": GOOD})
    assert len(read(folder, "train")) == 4
    assert verdicts(folder)["refused"] == {
        "an image without a .cls beside it": 1,
        "a .cls without an image beside it": 1,
        ".heic is not read; convert it to JPEG or PNG": 1,
    }


def test_so_many_bad_labels_that_the_set_is_wrong_are_refused(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, "x", "y"]), "test": GOOD})
    with pytest.raises(
        ValueError, match=r"2 of 4 items of split 'train' cannot be used.*train/0\.tar: s2\.png"
    ) as caught:
        load_dataset(str(folder)).index("train")
    assert "\n" not in str(caught.value)
    many = write_shards(tmp_path / "many", {"train": samples([0, 1] * 80 + ["?"] * 41), "test": GOOD})
    with pytest.raises(ValueError, match="41 of 201 items"):
        load_dataset(str(many)).index("train")
    few = write_shards(tmp_path / "few", {"train": samples([0, 1] * 81 + ["?"] * 40), "test": GOOD})
    assert len(load_dataset(str(few)).index("train").keys) == 162


def test_labels_that_are_no_arrays_cost_one_image(tmp_path: Path):
    good = [member for i in range(5) for member in ((f"s{i}.png", f"{i}"), (f"s{i}.npy", multi_hot((i % 2, 1))))]
    for number, content in enumerate((b"no array", multi_hot((1, 2)), multi_hot(np.eye(2)), multi_hot((1, 0, 1)))):
        members = [*good, ("bad.png", "x"), ("bad.npy", content)]
        folder = write_shards(tmp_path / f"{number}", {"train": members, "test": good})
        (folder / "dataset_type.txt").write_text("multilabel\n")
        dataset = load_dataset(str(folder))
        assert dataset.index("train").labels(dataset.class_names, "").tolist() == [[i % 2, 1] for i in range(5)]
        assert sum(verdicts(folder)["refused"].values()) == 1


def test_shards_beyond_the_count_are_refused_and_counted(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    write_tar(folder / "train/1.tar", GOOD)
    write_tar(folder / "train/extra.tar", GOOD)
    assert len(read(folder, "train")) == 4
    assert verdicts(folder)["refused"] == {"a shard beyond the count in nshards.txt": 2}


@pytest.mark.parametrize("split", ["val", "valid", "validation", "Dev"])
def test_the_validation_split_stands_in_for_a_test_split_without_labels(tmp_path: Path, split: str):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, split: GOOD, "test": samples([-1, -1, -1])})
    index = load_dataset(str(folder)).index("test")
    assert (index.split, len(index.keys)) == ("validation", 4)
    assert verdicts(folder)["ignored"]["of split test, which is not used"] == 1
    only = write_shards(tmp_path / "only", {"train": GOOD, "test": samples([-1, -1, -1])})
    with pytest.raises(ValueError, match="3 of 3 items of split 'test' cannot be used"):
        load_dataset(str(only)).index("test")


def test_the_count_may_have_a_byte_order_mark(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    (folder / "train/nshards.txt").write_bytes("1\r\n".encode("utf-8-sig"))
    assert len(read(folder, "train")) == 4


@pytest.mark.parametrize("count", ["-1", "1.0", "", "\n\n", "²"])
def test_a_count_that_is_no_number_is_named(tmp_path: Path, count: str):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    (folder / "train/nshards.txt").write_text(count)
    with pytest.raises(ValueError, match=r"train/nshards\.txt holds no number"):
        load_dataset(str(folder)).index("train")


def test_an_empty_line_among_class_names_would_shift_the_others(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    (folder / "classnames.txt").write_text("cat\n\ndog\n\n")
    with pytest.raises(ValueError, match=r"classnames\.txt: line 2 is empty"):
        load_dataset(str(folder))
    (folder / "classnames.txt").write_text("cat\ndog\n\n\n")
    assert load_dataset(str(folder)).class_names == ("cat", "dog")


def test_tars_that_nothing_counts_are_read_by_their_names(tmp_path: Path):
    folder = write_files(tmp_path / "pets", {"classnames.txt": "cat\ndog"})
    write_tar(folder / "pets-train-000000.tar", GOOD)
    write_tar(folder / "pets-train-000001.tar", GOOD)
    write_tar(folder / "pets-val-000000.tar", GOOD)
    assert len(read(folder, "train")) == 8
    assert load_dataset(str(folder)).index("test").split == "validation"


def test_tars_without_splits_hold_out_a_fifth(tmp_path: Path):
    folder = write_files(tmp_path / "pets", {"classnames.txt": "cat\ndog"})
    write_tar(folder / "0000.tar", samples([0, 1] * 5))
    train, test = read(folder, "train"), read(folder, "test")
    assert (len(train), len(test)) == (8, 2)
    assert not set(train) & set(test)
    assert verdicts(folder)["used"] == {"": 10}


def test_links_in_a_shard_are_refused(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    with tarfile.open(folder / "train/0.tar", "a") as tar:
        member = tarfile.TarInfo("s9.png")
        member.type, member.linkname = tarfile.SYMTYPE, "s0.png"
        tar.addfile(member)
    assert verdicts(folder)["refused"] == {"a link or a device in a shard": 1}


def test_a_shard_that_is_a_link_to_nothing_is_named(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": GOOD, "test": GOOD})
    (folder / "train/0.tar").unlink()
    (folder / "train/0.tar").symlink_to("/nowhere")
    with pytest.raises(ValueError, match=r"shard .*train/0\.tar is a link to nothing; copy it again"):
        load_dataset(str(folder)).index("train")


# captioned pools


def test_one_long_caption_costs_its_own_length_alone(tmp_path: Path):
    captions = [f"caption {number}" for number in range(400)]
    captions[7] = "long " * 60_000
    write_shards(tmp_path / "pool", {"train": samples(captions, "txt")})
    index = index_split(str(tmp_path / "pool"), "train", "txt")
    assert index.texts.tolist() == [caption.strip() for caption in captions]
    held = sum(len(text) for text in index.texts.tolist()) + index.texts.nbytes + index.keys.nbytes
    assert held < 1_000_000
    from engine.cache import cache_folder

    assert max(path.stat().st_size for path in (cache_folder() / "index").iterdir()) < 2_000_000


def test_captions_that_are_missing_or_no_text_cost_one_image(tmp_path: Path):
    members = [
        *samples(["a cat", "ein Hündchen", "", "chat"], "txt"),
        ("x.png", "x"),
        ("y.png", "y"),
        ("y.txt", b"\xff\xff"),
    ]
    write_shards(tmp_path / "pool", {"train": members})
    index = index_split(str(tmp_path / "pool"), "train", "txt")
    assert index.texts.tolist() == ["a cat", "ein Hündchen", "", "chat"]
    assert sorted(reason for reason, _ in index.account.lost()) == [
        "an image without a .txt beside it",
        "its .txt is no UTF-8 text; save it as UTF-8",
    ]


def test_a_pool_of_tars_with_tables_beside_is_read(tmp_path: Path):
    for number in range(2):
        write_tar(
            tmp_path / f"{number:05}.tar",
            [(f"{number}{i:03}.{suffix}", f"{i}") for i in range(10) for suffix in ("jpg", "json", "txt")],
        )
        write_files(tmp_path, {f"{number:05}.parquet": b"PAR1", f"{number:05}_stats.json": "{}"})
    index = index_split(str(tmp_path), "train", "txt")
    assert len(index.keys) == 20
    assert key_name(index.keys[0]) == "00000.tar: 0000"


def test_a_pool_of_class_folders_has_no_captions(tmp_path: Path):
    write_files(tmp_path / "pool", [f"cat/{number}.png" for number in range(5)])
    with pytest.raises(
        ValueError, match=r"holds class folders, which have no captions; give shards of \.webp and \.txt"
    ):
        index_split(str(tmp_path / "pool"), "train", "txt")
