"""Tables as people have them: names of splits, labels that are missing, images that are none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_dataset
from tests.catalog.trees import read, table, verdicts, write_files, write_tables

GOOD = table([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_0.parquet", "test_0.parquet"),
        ("Train.parquet", "TEST.parquet"),
        ("data/train-00000-of-00001-abc.parquet", "data/validation-00000-of-00001-def.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("pets.train.0.parquet", "pets.val.0.parquet"),
        ("test_suite/train0.parquet", "test_suite/eval0.parquet"),
        ("my-training-data/0.parquet", "my-testing-data/0.parquet"),
    ],
)
def test_splits_are_found_by_their_keywords(tmp_path: Path, train: str, test: str):
    folder = write_tables(tmp_path / "pets", {train: table([0, 1, 0]), test: table([1, 1, 0, 1])})
    assert (len(read(folder, "train")), len(read(folder, "test"))) == (3, 4)
    assert verdicts(folder) == {"used": {"": 7}, "ignored": {}, "refused": {}}


@pytest.mark.parametrize("name", ["contest", "latest", "trainer", "develop", "pretrained"])
def test_a_keyword_within_a_word_is_none(tmp_path: Path, name: str):
    folder = write_tables(tmp_path / "pets", {f"{name}.parquet": table([0, 1] * 5)})
    assert (len(read(folder, "train")), len(read(folder, "test"))) == (8, 2)


def test_a_name_of_two_splits_is_refused(tmp_path: Path):
    folder = write_tables(tmp_path / "pets", {"train_test.parquet": GOOD})
    with pytest.raises(ValueError, match="'train_test' names the splits test and train; rename it"):
        load_dataset(str(folder)).index("train")


def test_tables_of_no_split_beside_others_are_counted(tmp_path: Path):
    folder = write_tables(
        tmp_path / "pets", {"train.parquet": GOOD, "test.parquet": GOOD, "extra.parquet": GOOD, ".train.parquet": GOOD}
    )
    assert len(read(folder, "train")) == 4
    assert verdicts(folder)["ignored"] == {"a table of no split": 1, "hidden": 1}


@pytest.mark.parametrize("missing", [-1, None])
def test_validation_stands_in_for_a_test_split_without_labels(tmp_path: Path, missing: object):
    unlabelled = table([missing] * 6) if missing is not None else table(pa.array([None] * 6, pa.int64()))
    folder = write_tables(
        tmp_path / "pets", {"train.parquet": GOOD, "validation.parquet": table([1, 0, 1]), "test.parquet": unlabelled}
    )
    index = load_dataset(str(folder)).index("test")
    assert (index.split, len(index.keys)) == ("validation", 3)
    found = verdicts(folder)
    assert (found["used"], found["ignored"]) == ({"": 7}, {"of split test, which is not used": 1})
    assert "validation" in load_dataset(str(folder)).accounts()


def test_a_row_without_a_label_costs_one_image(tmp_path: Path):
    folder = write_tables(tmp_path / "pets", {"train.parquet": table([0, 1, None, 0, -1, 1, 7]), "test.parquet": GOOD})
    assert [content for _, content in read(folder, "train")] == ["0", "3", "1", "5"]
    assert verdicts(folder)["refused"] == {"a row without a label that is a class index": 3}
    rows = load_dataset(str(folder)).accounts()["train"].rows()
    assert rows[-1]["examples"] == "train.parquet: row 2 (None), train.parquet: row 4 (-1), train.parquet: row 6 (7)"


def test_labels_that_became_floats_are_read(tmp_path: Path):
    folder = write_tables(
        tmp_path / "pets", {"train.parquet": table([0.0, 1.0, float("nan"), 1.0, 0.5]), "test.parquet": GOOD}
    )
    assert [content for _, content in read(folder, "train")] == ["0", "1", "3"]
    assert sum(verdicts(folder)["refused"].values()) == 2


def test_each_table_is_read_by_its_own_class_label(tmp_path: Path):
    folder = write_tables(
        tmp_path / "pets", {"train.parquet": table([0, 1]), "test.parquet": table([0, 1], names=("dog", "cat"))}
    )
    assert read(folder, "test") == [("cat", "1"), ("dog", "0")]


def test_a_list_of_class_names_sets_the_order_by_name(tmp_path: Path):
    folder = write_tables(tmp_path / "pets", {"train.parquet": GOOD, "test.parquet": GOOD})
    (folder / "classnames.txt").write_text("dog\ncat\n")
    dataset = load_dataset(str(folder))
    assert dataset.class_names == ("dog", "cat")
    assert dataset.index("train").labels(dataset.class_names, "").tolist() == [1, 0, 1, 0]


def test_plain_bytes_are_images_too(tmp_path: Path):
    binary = GOOD.set_column(0, "image", pa.array([b"0", b"1", b"2", b"3"]))
    folder = write_tables(tmp_path / "pets", {"train.parquet": binary, "test.parquet": GOOD})
    assert [content for _, content in read(folder, "train")] == ["0", "2", "1", "3"]


def test_a_table_that_is_a_link_to_nothing_is_named(tmp_path: Path):
    folder = write_tables(tmp_path / "pets", {"train-0.parquet": GOOD, "test.parquet": GOOD})
    write_files(folder, ["train-1.parquet -> /nowhere"])
    with pytest.raises(ValueError, match=r"table .*train-1\.parquet is a link to nothing; copy it again"):
        load_dataset(str(folder)).index("train")


def test_a_column_that_the_features_promise_and_the_table_lacks_is_named(tmp_path: Path):
    lacking = GOOD.drop_columns(["image"]).replace_schema_metadata(GOOD.schema.metadata)
    pq.write_table(lacking, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet has no column 'image'; write the table again"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b"null", b'{"info": null}', b'{"info": {"features": []}}'])
def test_broken_features_are_one_sentence(tmp_path: Path, metadata: bytes):
    pq.write_table(GOOD.replace_schema_metadata({"huggingface": metadata}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="0 Image and 0 ClassLabel columns"):
        load_dataset(str(tmp_path))
