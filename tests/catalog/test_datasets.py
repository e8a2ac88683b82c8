import runpy
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.catalog import (
    dataset_names,
    genbench_datasets,
    listed_class_names,
    load_dataset,
    published_datasets,
)
from engine.catalog.corpus import read_images
from engine.catalog.datasets import _catalog
from engine.catalog.index import index_split
from engine.catalog.labels import match_name
from engine.names import plain_name
from engine.testing.data import multi_hot, write_dataset, write_shards
from tests.catalog.trees import write_files

GENBENCH = genbench_datasets()


def test_a_folder_is_a_data_set(tmp_path: Path):
    folder = write_dataset(tmp_path / "wds_things", ("a", "b"))
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.group, dataset.metric, dataset.task) == ("things", "own", "accuracy", "multiclass")
    assert dataset.class_names == ("a", "b")
    assert dataset.templates == ("a photo of {c}.", "a drawing of {c}.")


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'mini-comon'; did you mean mini-common"):
        load_dataset("mini-comon")
    with pytest.raises(ValueError, match="unknown data set 'imagenet1'; did you mean imagenet1k"):
        listed_class_names("imagenet1")


def test_the_catalog_has_a_group_a_metric_and_a_place_for_each():
    assert {"mini-common", "mini-fine", "mini-rare", "mini-novel", "mini-many", "mini-pairs", "dogs", "novel"} | set(
        GENBENCH
    ) == set(dataset_names())
    for name, entry in _catalog().items():
        assert entry["group"] in {"common", "fine", "rare", "novel"}
        if name not in ("hateful_memes", "dogs", "novel"):
            assert entry["location"].startswith(("world:", "hf://datasets/clip-benchmark/wds_"))


def test_the_catalog_is_the_papers_table():
    groups = {
        group: [facts for facts in GENBENCH.values() if facts.group == group] for group in ("common", "fine", "rare")
    }
    assert {group: len(several) for group, several in groups.items()} == {"common": 7, "fine": 6, "rare": 9}
    printed = {group: sum(facts.paper_test_images for facts in several) for group, several in groups.items()}
    assert printed == {"common": 110_887, "fine": 67_542, "rare": 84_084}
    assert {facts.metric for facts in GENBENCH.values() if facts.task == "multilabel"} == {"map_11_point"}
    assert [facts.name for facts in GENBENCH.values() if facts.task == "binary"] == ["hateful_memes"]
    assert {facts.name for facts in GENBENCH.values() if facts.metric == "mean_per_class"} == {
        "caltech101",
        "pets",
        "flowers",
        "fgvc_aircraft",
    }
    assert {facts.name for facts in GENBENCH.values() if not facts.train_images} == {"sun397"}
    for facts in GENBENCH.values():
        assert (facts.licence is None) == (facts.licence_source is None) == (facts.licence_date is None)


def test_the_class_lists_sum_to_the_papers_2548():
    lists = {name: listed_class_names(name) for name in GENBENCH}
    assert {name: len(names) for name, names in lists.items()} == {
        name: facts.num_classes for name, facts in GENBENCH.items()
    }
    assert sum(map(len, lists.values())) == 2548
    # Table 4 prints 101 for Caltech-101 and 2 for FER 2013
    assert sum(facts.paper_classes or facts.num_classes for facts in GENBENCH.values()) == 2548 - 1 - 5
    assert "background" in lists["caltech101"]


def test_names_within_a_list_can_be_told_apart():
    doubled = {
        name: sorted({each for each in names if names.count(each) > 1})
        for name in GENBENCH
        if len(set(map(plain_name, names := listed_class_names(name)))) < len(names)
    }
    # ImageNet has two synsets that CLIP's list gives one name
    assert doubled == {"imagenet1k": ["missile", "sunglasses"]}
    assert all(names and names.strip() == names for name in GENBENCH for names in listed_class_names(name))


def test_imagenets_list_is_open_clips():
    spec = find_spec("open_clip")  # the list alone: the package takes long to import
    assert spec
    assert spec.origin
    metadata = runpy.run_path(str(Path(spec.origin).with_name("zero_shot_metadata.py")))
    assert list(listed_class_names("imagenet1k")) == list(metadata["IMAGENET_CLASSNAMES"])


def _write_layout(folder: Path, name: str) -> Path:
    """A folder as the Hub has it for a GenBench set: lists, `nshards.txt` and shards, one image a class."""
    facts, names = GENBENCH[name], listed_class_names(name)
    folder.mkdir()
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    if facts.task == "multilabel":
        (folder / "dataset_type.txt").write_text("multilabel\n")
    for split in ("test", "train") if facts.train_images else ("test",):
        samples: list[tuple[bytes, str | bytes]] = []
        for number in range(len(names)):
            image, label = f"{split} {number}".encode(), str(number)
            samples.append((image, _row(number, len(names)) if facts.task == "multilabel" else label))
        write_shards(folder / split, samples, "npy" if facts.task == "multilabel" else "cls", shards=2)
    return folder


def _row(number: int, num_classes: int) -> bytes:
    shown = {number, (number + 1) % num_classes}
    return multi_hot([int(each in shown) for each in range(num_classes)])


@pytest.mark.parametrize("name", GENBENCH)
def test_every_set_of_genbench_is_read_from_its_layout(tmp_path: Path, name: str):
    facts, folder = GENBENCH[name], _write_layout(tmp_path / "folder", name)
    dataset = load_dataset(f"{name}={folder}")
    assert (dataset.name, dataset.group, dataset.metric, dataset.task) == (name, facts.group, facts.metric, facts.task)
    assert dataset.class_names == listed_class_names(name)
    assert dataset.templates == ("a photo of a {c}.",)
    for split in ("train", "test"):
        if split == "train" and not facts.train_images:
            with pytest.raises(ValueError, match="sun397 has test images only, so there is no original data"):
                dataset.index(split)
            continue
        index = dataset.index(split)
        positions = index.by_class(dataset.class_names, dataset.location)
        images = read_images(dataset.location, index.keys.tolist())
        for number, found in enumerate(positions):
            shown = {images[position].decode() for position in found}
            assert f"{split} {number}" in shown
            assert len(shown) == (2 if facts.task == "multilabel" else 1)


def test_a_set_without_a_public_folder_says_where_to_put_it():
    with pytest.raises(ValueError, match=r"hateful_memes has no public folder; .* give hateful_memes=PATH"):
        load_dataset("hateful_memes")


def test_a_folder_of_another_set_is_refused(tmp_path: Path):
    folder = write_dataset(tmp_path / "things", ("a", "b"))
    with pytest.raises(ValueError, match="names 2 classes, but cars has 196"):
        load_dataset(f"cars={folder}")
    with pytest.raises(ValueError, match="holds one label per image, but voc2007 is multilabel"):
        load_dataset(f"voc2007={folder}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "classnames.txt").unlink(), r"has no classnames\.txt"),
        (lambda folder: (folder / "classnames.txt").write_text("\n"), r"has no classnames\.txt, or an empty one"),
        (
            lambda folder: (folder / "zeroshot_classification_templates.txt").write_text("a photo\n"),
            r"template 'a photo' lacks \{c\}",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_refused(tmp_path: Path, spoil, message: str):
    folder = write_dataset(tmp_path / "things", ("a", "b"))
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_dataset(str(folder))


def test_templates_may_be_missing(tmp_path: Path):
    folder = write_dataset(tmp_path / "things", ("a", "b"))
    (folder / "zeroshot_classification_templates.txt").unlink()
    assert load_dataset(str(folder)).templates == ("a photo of {c}.",)


def test_a_folder_with_several_labels_an_image_is_scored_by_average_precision(tmp_path: Path):
    folder = write_dataset(tmp_path / "things", ("a", "b", "c"))
    (folder / "dataset_type.txt").write_text("multilabel\n")
    write_shards(folder / "train", [(b"x", _row(0, 3)), (b"y", _row(1, 3))], "npy")
    dataset = load_dataset(str(folder))
    assert (dataset.task, dataset.metric) == ("multilabel", "map_11_point")
    assert dataset.index("train").labels(dataset.class_names, "").tolist() == [[1, 1, 0], [0, 1, 1]]


def test_memory_and_disk_are_read_alike(tmp_path: Path):
    import fsspec

    folder = write_dataset(tmp_path / "things", ("a", "b"))
    fsspec.filesystem("memory").put(str(folder), "/catalog-things", recursive=True)
    dataset = load_dataset("memory://catalog-things")
    index, on_disk = dataset.index("train"), index_split(str(folder), "train")
    assert (index.keys == on_disk.keys).all()
    assert read_images(dataset.location, index.keys.tolist()) == read_images(str(folder), on_disk.keys.tolist())


def test_stanford_dogs_folders_are_its_classes(tmp_path: Path):
    names = listed_class_names("dogs")
    ids = files("engine.catalog").joinpath("class_names", "dogs.wordnet").read_text().split()
    assert (len(names), len(ids), published_datasets()["dogs"].in_genbench) == (120, 120, False)
    assert dict(zip(ids, names, strict=True))["n02116738"] == "African hunting dog"
    folders = [f"Images/{each}-{name.replace(' ', '_')}" for each, name in zip(ids, names, strict=True)]
    write_files(tmp_path / "dogs", [f"{folder}/{number}.jpg" for folder in folders for number in range(2)])
    dataset = load_dataset(f"dogs={tmp_path / 'dogs'}")
    assert (dataset.class_names, dataset.templates) == (names, ("a photo of a {c}.",))
    index = dataset.index("train")
    for key, label in zip(index.keys, index.labels(names, dataset.location), strict=True):
        assert f"{ids[label]}-" in key


def test_imagenets_own_folders_are_read_by_their_wordnet_ids(tmp_path: Path):
    """Two pairs of classes share a name, and their ids tell them apart."""
    names = listed_class_names("imagenet1k")
    ids = files("engine.catalog").joinpath("class_names", "imagenet1k.wordnet").read_text().split()
    assert (len(ids), ids) == (1000, sorted(ids))
    write_files(tmp_path / "imagenet", [f"{split}/{each}/1.JPEG" for split in ("train", "val") for each in ids])
    dataset = load_dataset(f"imagenet1k={tmp_path / 'imagenet'}")
    assert dataset.class_names == names
    assert (len(dataset.templates), dataset.templates[0]) == (80, "a bad photo of a {c}.")
    for split in ("train", "test"):
        index = dataset.index(split)
        labels = index.labels(names, dataset.location)
        assert sorted(labels.tolist()) == list(range(1000))
        assert all(ids[label] in key for key, label in zip(index.keys, labels, strict=True))


def test_classes_of_one_name_have_folders_of_their_own(tmp_path: Path):
    names = listed_class_names("imagenet1k")
    assert [match_name(name, names) for name in ("missile_n03773504", "n04008634 missile", "tench")] == [657, 744, 0]
    with pytest.raises(
        ValueError, match="'missile' may be n03773504 or n04008634, two classes of one name; add the id"
    ):
        match_name("missile", names)
    # a folder of some of the classes takes their names, and keeps the ids of those that share one
    write_files(tmp_path / "ten", [f"{each}/{n}.jpg" for each in ("n01440764", "n03773504", "n04008634") for n in "ab"])
    dataset = load_dataset(str(tmp_path / "ten"))
    assert dataset.class_names == ("tench", "n03773504", "n04008634")
    index = dataset.index("train")
    assert sorted(index.labels(dataset.class_names, dataset.location).tolist()) == [0, 1, 2]


def test_a_set_of_class_folders_takes_its_own_templates(tmp_path: Path):
    names = listed_class_names("pets")
    write_files(tmp_path / "pets", [f"{split}/{name}/1.jpg" for split in ("train", "test") for name in names])
    assert load_dataset(f"pets={tmp_path / 'pets'}").templates == ("a photo of a {c}, a type of pet.",)
    assert {len(facts.templates) > 0 for facts in GENBENCH.values()} == {True}
    every = [template for name in GENBENCH for template in GENBENCH[name].templates]
    assert all("{c}" in template for template in every)
