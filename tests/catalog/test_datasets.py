from pathlib import Path

import pytest

from engine.catalog import dataset_names, load_dataset
from engine.catalog.datasets import _catalog
from tests import tiny


def test_a_folder_is_a_data_set(tmp_path: Path):
    folder = tiny.write_dataset(tmp_path / "wds_things", ("a", "b"))
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.group, dataset.metric) == ("things", "own", "accuracy")
    assert dataset.class_names == ("a", "b")
    assert dataset.templates == ("a photo of {c}.", "a drawing of {c}.")


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'mini-comon'; did you mean mini-common"):
        load_dataset("mini-comon")


def test_the_catalog_has_a_group_a_metric_and_a_place_for_each():
    assert {"mini-common", "mini-fine", "mini-rare", "mini-novel", "cars", "imagenet1k"} <= set(dataset_names())
    for entry in _catalog().values():
        assert entry["group"] in {"common", "fine", "rare", "novel"}
        assert entry["metric"] in {"accuracy", "mean_per_class"}
        assert entry["location"].startswith(("world:", "hf://datasets/clip-benchmark/wds_"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "classnames.txt").unlink(), r"has no classnames\.txt"),
        (lambda folder: (folder / "classnames.txt").write_text("\n"), r"classnames\.txt is empty"),
        (
            lambda folder: (folder / "zeroshot_classification_templates.txt").write_text("a photo\n"),
            r"template 'a photo' lacks \{c\}",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_refused(tmp_path: Path, spoil, message: str):
    folder = tiny.write_dataset(tmp_path / "things", ("a", "b"))
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_dataset(str(folder))


def test_templates_may_be_missing(tmp_path: Path):
    folder = tiny.write_dataset(tmp_path / "things", ("a", "b"))
    (folder / "zeroshot_classification_templates.txt").unlink()
    assert load_dataset(str(folder)).templates == ("a photo of {c}.",)
