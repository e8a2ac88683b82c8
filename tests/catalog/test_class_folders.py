"""Class folders as people have them: links, other cases, wrappers, leftovers of archives and file managers."""

import os
from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.catalog.corpus import read_each
from tests.catalog.trees import read, verdicts, write_files


def images(*folders: str, count: int = 2, suffix: str = "jpg") -> list[str]:
    return [f"{folder}/{number}.{suffix}" for folder in folders for number in range(count)]


def test_a_dangling_link_is_one_item_that_cannot_be_read(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets",
        [*images("train/cat", "train/dog", "test/cat", "test/dog"), "train/cat/9.jpg -> /nowhere/9.jpg"],
    )
    dataset = load_dataset(str(folder))
    keys = dataset.index("train").keys.tolist()
    assert len(keys) == 5
    found = read_each(dataset.location, keys)
    assert [str(each) for each in found if isinstance(each, ValueError)] == [
        "the file cannot be read (it is not there)"
    ]
    assert verdicts(folder)["refused"] == {"a link to nothing": 1}
    assert verdicts(folder)["used"] == {"": 8}


def test_a_renamed_image_is_indexed_anew(tmp_path: Path):
    folder = write_files(tmp_path / "pets", images("train/cat", "test/cat"))
    before = load_dataset(str(folder)).index("train").keys.tolist()
    (folder / "train/cat/1.jpg").rename(folder / "train/cat/2.jpg")
    after = load_dataset(str(folder)).index("train").keys.tolist()
    assert [key.split(":")[0] for key in before] == ["train/cat/0.jpg", "train/cat/1.jpg"]
    assert [key.split(":")[0] for key in after] == ["train/cat/0.jpg", "train/cat/2.jpg"]
    assert read(folder, "train") == [("cat", "train/cat/0.jpg"), ("cat", "train/cat/1.jpg")]


def test_a_class_folder_that_is_a_link_is_read(tmp_path: Path):
    write_files(tmp_path / "elsewhere", images("dogs"))
    folder = write_files(tmp_path / "pets", [*images("train/cat"), f"train/dog -> {tmp_path}/elsewhere/dogs"])
    assert {name for name, _ in read(folder, "train")} == {"cat", "dog"}
    assert len(read(folder, "train")) == 4


def test_links_in_circles_end(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets",
        [
            *images("train/cat", "train/dog", "test/cat", "test/dog"),
            "train/cat/up -> ..",
            "loop.jpg -> loop.jpg",
            "train/all -> ../../pets",
        ],
    )
    assert len(read(folder, "train")) == 4
    assert sum(verdicts(folder)["refused"].values()) == 3


def test_folders_that_link_to_each_other_end(tmp_path: Path):
    folder = write_files(tmp_path / "pets", images(*(f"train/{letter}" for letter in "abcd")))
    for one in "abcd":
        for other in "abcd":
            (folder / "train" / one / f"to_{other}").symlink_to(folder / "train" / other)
    assert {name for name, _ in read(folder, "train")} == set("abcd")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("Train", "Test"),
        ("TRAIN", "val"),
        ("train", "Valid"),
        ("train", "validation"),
        ("train", "dev"),
        ("training", "Evaluation"),
        ("seg_train", "seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("train", "test/images_of_test"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "archive/", "archive/Data/"])
def test_splits_are_found_whatever_their_words_and_wrappers(tmp_path: Path, train: str, test: str, wrapper: str):
    folder = write_files(
        tmp_path / "pets", images(*(f"{wrapper}{split}/{name}" for split in (train, test) for name in ("cat", "dog")))
    )
    assert load_dataset(str(folder)).class_names == ("cat", "dog")
    assert [name for name, _ in read(folder, "train")] == ["cat", "cat", "dog", "dog"]
    assert all(f"{wrapper}{test}" in content for _, content in read(folder, "test"))
    assert verdicts(folder) == {"used": {"": 8}, "ignored": {}, "refused": {}}


def test_an_unlabelled_test_folder_leaves_the_validation_folder_to_be_scored(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets", [*images("train/cat", "train/dog", "valid/cat", "valid/dog"), "test/1.jpg", "test/2.jpg"]
    )
    index = load_dataset(str(folder)).index("test")
    assert (len(index.keys), index.split) == (4, "validation")
    assert verdicts(folder)["refused"] == {"an image in no class folder": 2}


def test_a_class_named_for_a_split_is_a_class(tmp_path: Path):
    folder = write_files(tmp_path / "vehicles", images("bus", "train", "car", count=10))
    assert load_dataset(str(folder)).class_names == ("bus", "car", "train")
    assert len(read(folder, "train")) == 24


def test_leftovers_of_archives_and_file_managers_are_ignored_and_counted(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets",
        [
            *images("train/cat", "train/dog", "test/cat", "test/dog"),
            *(
                "__MACOSX/train/cat/._0.jpg",
                "train/cat/._0.jpg",
                "train/__MACOSX/cat/0.jpg",
                ".DS_Store",
                "train/cat/Thumbs.db",
            ),
            *("train/.ipynb_checkpoints/0.jpg", ".git/HEAD", "train/dog/desktop.ini", "README.md", "train/labels.csv"),
        ],
    )
    assert load_dataset(str(folder)).class_names == ("cat", "dog")
    assert verdicts(folder) == {
        "used": {"": 8},
        "ignored": {
            "an archive's leftovers of macOS (__MACOSX)": 2,
            "hidden": 4,
            "a file of the operating system": 2,
            "a list or a description": 1,
            "no image (.csv)": 1,
        },
        "refused": {},
    }


def test_every_suffix_that_is_read_makes_a_class_and_others_are_refused_by_name(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets",
        [
            *images("cat", count=5, suffix="PNG"),
            *images("dog", count=5, suffix="bmp"),
            *images("owl", count=5, suffix="jfif"),
            "bat/1.heic",
            "cat/2.svg",
        ],
    )
    assert load_dataset(str(folder)).class_names == ("cat", "dog", "owl")
    assert verdicts(folder)["refused"] == {
        ".heic is not read; convert it to JPEG or PNG": 1,
        ".svg is not read; convert it to JPEG or PNG": 1,
    }


@pytest.mark.parametrize(
    "pair", [("A", "a"), ("-1", "1"), ("hot_dog", "hot-dog"), ("hot_dog", "hot dog"), ("a_", "a"), ("C++", "C")]
)
@pytest.mark.parametrize("split", ["train/", ""])
def test_classes_that_are_spelt_alike_are_distinct(tmp_path: Path, pair: tuple[str, str], split: str):
    folder = write_files(tmp_path / "things", images(*(f"{split}{name}" for name in pair), count=5))
    dataset = load_dataset(str(folder))
    assert len(set(dataset.class_names)) == 2
    found = dataset.index("train").by_class(dataset.class_names, dataset.location)
    keys = dataset.index("train").keys
    for name, positions in zip(sorted(pair), found, strict=True):
        assert len(positions) == (5 if split else 4)
        assert all(str(keys[position]).split(":")[0].split("/")[-2] == name for position in positions)


def test_a_folder_that_may_be_either_of_two_listed_classes_is_refused(tmp_path: Path):
    folder = write_files(tmp_path / "things", [*images("train/HOT-DOG"), "classnames.txt"])
    (folder / "classnames.txt").write_text("hot dog\nHot_dog\n")
    with pytest.raises(
        ValueError, match="class 'HOT-DOG' may be 'hot dog' and 'Hot_dog'; give it the exact name of one"
    ):
        load_dataset(str(folder)).index("train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_class_names_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str):
    folder = write_files(tmp_path / "pets", images("train/cat", "train/chien-été"))
    mark = b"" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff".encode(encoding)
    (folder / "classnames.txt").write_bytes(mark + "chien-été\r\ncat\r\n".encode(encoding))
    assert load_dataset(str(folder)).class_names == ("chien-été", "cat")


@pytest.mark.parametrize("content", [b"caf\xe9\n", "cat\ndog\n".encode("utf-16-le"), b"\xff\xfec"])
def test_class_names_that_are_no_text_are_refused_by_the_files_name(tmp_path: Path, content: bytes):
    folder = write_files(tmp_path / "pets", {"train/cat/1.jpg": b"", "classnames.txt": content})
    with pytest.raises(ValueError, match=r"classnames\.txt is no UTF-8 text; save it as UTF-8"):
        load_dataset(str(folder))


@pytest.mark.parametrize("wrapper", ["PetImages", "a/b/c"])
def test_one_wrapping_folder_is_seen_through(tmp_path: Path, wrapper: str):
    folder = write_files(
        tmp_path / "data", [*images(f"{wrapper}/cat", f"{wrapper}/dog", count=5), "readme.txt", f"{wrapper}/note.txt"]
    )
    assert load_dataset(str(folder)).class_names == ("cat", "dog")
    assert len(read(folder, "train")) == 8


def test_splits_are_found_beside_a_folder_of_previews(tmp_path: Path):
    folder = write_files(tmp_path / "data", [*images("archive/train/cat", "archive/test/cat"), "preview/1.jpg"])
    assert load_dataset(str(folder)).class_names == ("cat",)
    assert verdicts(folder)["ignored"] == {"outside the folders of the splits": 1}


SUPERCLASSES = ("animals/cat", "animals/dog", "vehicles/bus", "vehicles/car")


@pytest.mark.parametrize("split", ["", "train/"])
def test_superclass_folders_are_asked_about(tmp_path: Path, split: str):
    folder = write_files(
        tmp_path / "data", [f"{split}{name}" for name in [*images(*SUPERCLASSES, count=5), "animals/cover.jpg"]]
    )
    with pytest.raises(ValueError, match=r"folders within folders \(.*animals/cat/….*classnames\.txt") as caught:
        load_dataset(str(folder)).index("train")
    assert "\n" not in str(caught.value)
    (folder / "classnames.txt").write_text("cat\ndog\nbus\ncar\n")
    assert {name for name, _ in read(folder, "train")} == {"cat", "dog", "bus", "car"}
    (folder / "classnames.txt").write_text("vehicles\nanimals\n")
    assert {name for name, _ in read(folder, "train")} == {"animals", "vehicles"}


def test_folders_that_classes_have_alike_are_no_classes(tmp_path: Path):
    folder = write_files(
        tmp_path / "data", images("cat/left", "cat/right", "dog/left", "dog/right", "owl/left", count=5)
    )
    assert load_dataset(str(folder)).class_names == ("cat", "dog", "owl")
    folder = write_files(tmp_path / "other", images("cat/2019", "dog/2020", count=5))
    assert load_dataset(str(folder)).class_names == ("cat", "dog")


def test_names_that_are_no_utf_8_are_refused_and_counted(tmp_path: Path):
    folder = write_files(tmp_path / "pets", images("cat", count=5))
    try:
        (Path(os.fsdecode(os.fsencode(folder / "cat") + b"/caf\xe9.jpg"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert verdicts(folder) == {"used": {"": 5}, "ignored": {}, "refused": {"its name is not UTF-8": 1}}
    assert any("caf\\xe9" in row["examples"] for row in load_dataset(str(folder)).accounts()[""].rows())


@pytest.mark.parametrize("name", ["a::b", "a b%41", "x?y*[z]", "#1", "ü"])
def test_odd_names_of_the_folder_and_its_files(tmp_path: Path, name: str):
    folder = write_files(tmp_path / name, [f"{name}/{name}{number}.jpg" for number in range(5)])
    assert [content for _, content in read(folder, "train")] == [f"{name}/{name}{number}.jpg" for number in range(1, 5)]


def test_what_is_no_file_is_refused_and_never_opened(tmp_path: Path):
    folder = write_files(tmp_path / "pets", images("cat", count=5))
    os.mkfifo(folder / "cat" / "pipe")
    os.mkfifo(folder / "cat" / "5.jpg")
    assert verdicts(folder) == {"used": {"": 5}, "ignored": {}, "refused": {"no regular file": 2}}


def test_a_missing_class_of_a_split_says_so_without_a_list_that_is_not_there(tmp_path: Path):
    folder = write_files(tmp_path / "pets", images("train/cat", "train/dog", "test/cat"))
    dataset = load_dataset(str(folder))
    with pytest.raises(ValueError, match="class 'dog' has no image in split test; add images, or leave out the class"):
        dataset.index("test").by_class(dataset.class_names, dataset.location)
