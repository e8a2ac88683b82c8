"""Images with several labels: exported with all of them, read back by those who will, balanced by label, refused where lists are missing."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_dataset as load_own
from engine.catalog.corpus import read_images
from engine.export.audit import AuditConfig, audit
from engine.export.config import ExportConfig
from engine.export.export import Exported, export_images
from engine.images import decode_image
from engine.recipe import Recipe
from engine.store.labels import LABEL_COLUMNS
from tests.export.helpers import MINI, Filled, fill, row

FORMATS = ("parquet", "webdataset", "folder")
NAMES = ("sky", "Sea: a/b?", "boat", "no one")
SHOWN = {
    "train": (*[[]] * 7, [0, 1], [0], [1, 2], [0, 1, 2], [2]),
    "test": ([0, 2], [], [1]),
}
"""Split → labels of its originals; the first seven of `train` have none, since readers take types from the first rows."""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Filled, dict[str, list[int]]]:
    """Originals with any number of labels and two generated images with one each; id → labels."""
    rows, labels = [], {}
    for split, lists in SHOWN.items():
        for number, shown in enumerate(lists):
            index = shown[-1] if shown else 0
            named = {"class_index": index, "class_name": NAMES[index] if shown else ""}
            rows.append(row(Recipe(source="original", dataset="s", split=split, corpus="s", key=f"{number}", **named)))
            labels[rows[-1]["id"]] = list(shown)
    listed = dict(labels)
    for index in (0, 3):
        made = row(Recipe(source="generative", dataset="s", class_index=index, class_name=NAMES[index], **MINI))
        rows.append(made)
        labels[made["id"]] = [index]
    filled = fill(tmp_path_factory.mktemp("several") / "workspace", rows)
    add_lists(filled, listed)
    return filled, labels


def add_lists(filled: Filled, listed: dict[str, list[int]]) -> None:
    filled.workspace.ensure_columns(LABEL_COLUMNS)
    names = [[NAMES[one] for one in shown] for shown in listed.values()]
    columns = [
        pa.array(values, field.type) for values, field in zip((listed.values(), names), LABEL_COLUMNS, strict=True)
    ]
    filled.workspace.fill_columns(pa.table([pa.array(listed), *columns], names=["id", *LABEL_COLUMNS.names]))


@pytest.fixture(scope="module", params=FORMATS)
def exported(request: pytest.FixtureRequest, several, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("several") / request.param
    config = ExportConfig(workspace=several[0].workspace.uri, output=folder, format=request.param, audit=False)
    return export_images(config)


def expected(several, split: str) -> Counter:
    """Pixels and names of the labels of each image of a split."""
    filled, labels = several
    return Counter(
        (filled.pixels(one).tobytes(), tuple(NAMES[label] for label in labels[one]))
        for one, stored in filled.rows.items()
        if stored["split"] == split
    )


def test_our_own_reader_finds_the_same_labels(several, exported: Exported):
    dataset = load_own(str(exported.output))
    assert (dataset.task, dataset.class_names) == ("multilabel", NAMES)
    for split in SHOWN:
        index = dataset.index(split)
        shown = index.labels(dataset.class_names, dataset.location)
        pixels = [decode_image(image).tobytes() for image in read_images(dataset.location, list(index.keys))]
        names = [tuple(NAMES[label] for label in np.flatnonzero(one)) for one in shown]
        assert Counter(zip(pixels, names, strict=True)) == expected(several, split)
        assert not [tally for _, tally in index.account.lost()]


def test_datasets_reads_the_same_labels(several, exported: Exported, load_dataset):
    for split, rows in load_dataset(exported.output).items():
        found = Counter()
        for one in rows:
            if "json" in one:
                image = next(one[suffix] for suffix in ("png", "webp", "jpg") if suffix in one)
                assert np.flatnonzero(one["npy"]).tolist() == [NAMES.index(name) for name in one["json"]["labels"]]
                names = one["json"]["labels"]
            else:
                image = one["image"]
                names = rows.features["labels"].feature.int2str(one["labels"]) if "id" in one else one["labels"]
            found[np.asarray(image.convert("RGB")).tobytes(), tuple(names)] += 1
        assert found == expected(several, split)
    card = (exported.output / "README.md").read_text()
    assert "multi-label-image-classification" in card
    assert "An image has any number of labels." in card


def test_webdataset_and_croissant_read_them(several, exported: Exported, mlcroissant):
    filled, labels = several
    described = mlcroissant.Dataset(str(exported.output / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    assert not described.metadata.ctx.issues.warnings
    records = list(described.records("images"))
    found = Counter(np.asarray(one["images/image"].convert("RGB")).tobytes() for one in records)
    assert found == Counter(filled.pixels(one).tobytes() for one in filled.rows)
    if (exported.output / "data").exists():
        shown = {one["images/id"].decode(): [int(label) for label in one["images/labels"]] for one in records}
        assert shown == labels
    if (exported.output / "train" / "0.tar").exists():
        import webdataset

        samples = list(webdataset.WebDataset(str(exported.output / "train" / "0.tar"), shardshuffle=False).decode())
        assert len({frozenset(sample) for sample in samples}) == 1
        assert all(np.flatnonzero(sample["npy"]).tolist() == labels[sample["__key__"]] for sample in samples)
        assert all(sample["json"]["labels"] == [NAMES[one] for one in labels[sample["__key__"]]] for sample in samples)


def test_the_balance_counts_every_label(several):
    found = audit(AuditConfig(several[0].workspace.uri)).balance
    # sky 4, sea 3, boat 3 and the generated one of "no one"
    assert {name: found["train"][name] for name in ("classes", "fewest", "median", "most")} == {
        "classes": 4,
        "fewest": 1,
        "median": 3.0,
        "most": 4,
    }
    assert (found["test"]["classes"], found["test"]["most"], found["test"]["without_images"]) == (3, 1, 1)


def test_a_split_without_any_label_is_said_to_be_one(several):
    ids = [one for one, shown in several[1].items() if not shown]
    only = audit(AuditConfig(several[0].workspace.uri, where=f"id IN ({', '.join(map(repr, ids))})"))
    assert only.balance["train"]["classes"] == 0
    assert any(line.startswith("Balance (train): no image has a label") for line in only.lines())


def test_one_label_per_image_stays_one_label(several, tmp_path: Path):
    place = tmp_path / "one"
    where = "source = 'generative'"
    export_images(ExportConfig(workspace=several[0].workspace.uri, output=place, where=where, audit=False))
    schema = pq.read_schema(place / "data" / "train-00000-of-00001.parquet")
    assert "label" in schema.names
    assert "labels" not in schema.names
    assert not (place / "dataset_type.txt").exists()


def test_rows_that_lack_their_lists_are_refused(several, tmp_path: Path):
    filled, labels = several
    rows = list(filled.rows.values())
    half = fill(tmp_path / "half", rows)
    add_lists(
        half, dict([next((one, shown) for one, shown in labels.items() if filled.rows[one]["source"] == "original")])
    )
    config = ExportConfig(workspace=half.workspace.uri, output=tmp_path / "out")
    with pytest.raises(ValueError, match="images of s have several labels each, and some rows of this workspace"):
        export_images(config)
    # a release before wrote no lists: the catalog knows that VOC 2007 has several
    voc = [row(Recipe(source="original", dataset="voc2007", class_index=0, class_name="aeroplane", key="a"))]
    old = fill(tmp_path / "old", voc)
    with pytest.raises(ValueError, match=r"images of voc2007 .* which adds them, or leave them out with --where"):
        export_images(ExportConfig(workspace=old.workspace.uri, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_bad_list_of_labels_is_refused_line_by_line(several, tmp_path: Path):
    place = tmp_path / "folder"
    export_images(
        ExportConfig(
            workspace=several[0].workspace.uri, output=place, format="folder", audit=False, where="split = 'train'"
        )
    )
    path = place / "train" / "metadata.jsonl"
    lines = path.read_text("utf-8").splitlines()
    first = json.loads(lines[1])
    bad = [lines[1], json.dumps(first | {"file_name": "none.png"}), "{", json.dumps([1])]
    lines[2] = json.dumps(json.loads(lines[2]) | {"labels": ["cloud"]})
    path.write_text("\n".join([*lines[:-1], *bad]), "utf-8")
    account = load_own(str(place)).index("train").account
    reasons = {reason: tally.count for reason, tally in account.lost()}
    assert reasons == {
        "its labels are no list of names of classnames.txt": 1,
        "a line of an image that is listed before": 1,
        "a line without an image": 3,
        "an image without a line in metadata.jsonl": 1,
    }
