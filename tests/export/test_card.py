"""The card, Croissant, licences, and what an export refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from engine.cli.main import main
from engine.export.card import size_category
from engine.export.config import ExportConfig
from engine.export.export import export_images
from engine.models.registry import generator_entries
from engine.recipe import IMAGE_SCHEMA, Recipe
from engine.store.snapshot import Snapshot
from tests.export.helpers import MINI, Filled, fill, row
from tests.store.helpers import add

LICENSES = {
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "openrail++",
    "other",
    "unknown",
}
"""Identifiers of the Hub's list that we write (huggingface.co/docs/hub/repositories-licenses)."""


def card(output: Path) -> tuple[dict, str]:
    _, block, prose = (output / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(block), prose


@pytest.mark.parametrize("name", ["parquet", "webdataset", "folder"])
def test_the_card_has_what_the_hub_reads(exported, name: str):
    found, prose = card(exported(name).output)
    assert found["license"] in LICENSES
    assert found["annotations_creators"] == ["machine-generated", "found"]
    assert found["task_categories"] == ["image-classification"]
    assert found["size_categories"] == ["n<1K"]
    assert "synthetic" in found["tags"]
    assert [one["split"] for one in found["configs"][0]["data_files"]] == ["train", "test"]
    for words in ("3 recipes that could not be made", "zoo", "Licences", "DigitalSourceType", "21c74a5a3421e737"):
        assert words in prose


def test_the_hubs_library_finds_the_same_in_the_card(exported):
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import DatasetCard

    output = exported("parquet").output
    block = DatasetCard.load(output / "README.md").data
    info = datasets.info.DatasetInfosDict.from_dataset_card_data(block)["default"]
    assert {name: split.num_examples for name, split in info.splits.items()} == exported("parquet").splits
    assert info.features["label"].names == (output / "classnames.txt").read_text("utf-8").splitlines()
    assert isinstance(info.features["image"], datasets.Image)


def test_a_wrong_count_in_the_card_is_noticed_by_the_library(filled: Filled, tmp_path: Path, load_dataset):
    from datasets.utils.info_utils import NonMatchingSplitsSizesError

    export_images(ExportConfig(workspace=filled.workspace.uri, output=tmp_path / "out", audit=False))
    path = tmp_path / "out" / "README.md"
    path.write_text(path.read_text("utf-8").replace("num_examples: 13", "num_examples: 14"), "utf-8")
    with pytest.raises(NonMatchingSplitsSizesError):
        load_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "name"), [(1, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**10, "n>1B")]
)
def test_sizes_have_the_hubs_names(number: int, name: str):
    assert size_category(number) == name


@pytest.mark.parametrize("name", ["parquet", "webdataset", "folder"])
def test_croissant_is_valid_and_reads_the_images(filled: Filled, exported, mlcroissant, name: str):
    output = exported(name).output
    dataset = mlcroissant.Dataset(str(output / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    document = json.loads((output / "croissant.json").read_text("utf-8"))
    assert {"rai:dataCollection", "rai:dataBiases", "rai:dataLimitations"} <= set(document)
    pixels = {filled.pixels(one).tobytes() for one in filled.rows}
    found = [np.asarray(one["images/image"].convert("RGB")).tobytes() for one in dataset.records("images")]
    assert len(found) == len(filled.rows)
    assert set(found) == pixels


def test_croissants_hashes_are_those_of_the_files(exported):
    import hashlib

    output = exported("parquet").output
    document = json.loads((output / "croissant.json").read_text("utf-8"))
    objects = [one for one in document["distribution"] if one["@type"] == "cr:FileObject"]
    assert len(objects) == 2
    for one in objects:
        assert hashlib.sha256((output / one["contentUrl"]).read_bytes()).hexdigest() == one["sha256"]


def test_where_is_counted_and_said(filled: Filled, tmp_path: Path, capsys):
    where = "source = 'generative' AND class_index < 1000"
    command = ["export", "--workspace", filled.workspace.uri, "--output", str(tmp_path / "out"), "--where", where]
    assert main([*command, "--no-audit"]) == 0
    said = capsys.readouterr().out
    kept = sum(row["source"] == "generative" for row in filled.rows.values())
    assert f"Exported {kept} images ({kept} train)" in said
    assert f"{len(filled.rows) - kept} images were left out by --where; 3 recipes could not be made" in said
    assert f"The condition `{where}` left out {len(filled.rows) - kept} other images" in card(tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--where", "colour = 'red'"], "is no condition on the images"),
        (["--where", "dataset = 'none'"], "has no images for which --where holds"),
        (["--shard-mb", "0"], "are too small"),
        (["--licence-of", "zoo"], "is not NAME=LICENCE"),
        (["--licence-of", "zoo=CC BY 5"], "unknown licence 'CC BY 5'; did you mean CC BY"),
        (["--allow-licence", "MIT"], "unknown licence in this export 'MIT'"),
        (["--licence-of", "zoo=non-commercial research and education only"], "forbids passing them on"),
        (["--licence-of", "zoo=CC BY-ND 4.0"], "forbids what is derived from them"),
        (["--licence-of", "zoo=CC BY-NC 4.0", "--commercial"], "forbids commercial use"),
        (["--licence-of", "zoo=CC BY-SA 4.0", "park=CC BY-NC 4.0"], "cannot be mixed"),
    ],
)
def test_a_refusal_is_one_sentence_and_writes_nothing(
    filled: Filled, tmp_path: Path, capsys, flags: list[str], message: str
):
    assert main(["export", "--workspace", filled.workspace.uri, "--output", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_holds_files_is_refused_and_an_empty_one_is_filled(filled: Filled, tmp_path: Path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    command = ["export", "--workspace", filled.workspace.uri, "--output", str(output), "--no-audit"]
    assert main([*command, "--where", "split = 'test'"]) == 0
    before = sorted(path.name for path in output.rglob("*"))
    assert main(command) == 2
    assert "exists and holds files; give a new folder" in capsys.readouterr().err
    assert sorted(path.name for path in output.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_half_way_leaves_nothing(tmp_path: Path):
    rows = [
        row(Recipe(source="generative", dataset="d", class_index=0, class_name="a", **MINI, seed=seed))
        for seed in range(3)
    ]
    rows[2]["image"] = b"GIF89a"
    workspace = fill(tmp_path / "workspace", rows).workspace
    with pytest.raises(ValueError, match="cannot hold its marks"):
        export_images(ExportConfig(workspace=workspace.uri, output=tmp_path / "out", audit=False))
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


def test_allowing_a_licence_by_name_puts_it_aside_and_says_why(filled: Filled, tmp_path: Path):
    licence = "non-commercial research and education only"
    config = ExportConfig(
        workspace=filled.workspace.uri,
        output=tmp_path / "out",
        licence_of=(f"zoo={licence}",),
        allow_licence=(licence,),
        audit=False,
    )
    (reason,) = export_images(config).put_aside
    assert "forbids passing them on" in reason
    found, prose = card(tmp_path / "out")
    assert "Put aside on request" in prose
    assert found["license"] == "unknown", "park's licence is not stated"


def test_every_licence_of_the_registry_and_the_catalog_is_known():
    from engine.catalog import dataset_licence, dataset_names
    from engine.export.licences import known_licences

    stated = {entry["licence"] for entry in generator_entries().values() if entry.get("licence")}
    stated |= {licence for name in dataset_names() if (licence := dataset_licence(name))}
    assert stated <= set(known_licences())
    assert {one.hub for one in known_licences().values()} <= LICENSES
    assert all(
        set(one.forbids) <= {"commercial", "redistribution", "derivatives", "other-terms"}
        for one in known_licences().values()
    )
    assert all(one.why and one.source and one.date and one.checked for one in known_licences().values())


def test_an_export_reads_one_version_of_a_table_that_grows(filled: Filled, tmp_path: Path):
    first = row(Recipe(source="generative", dataset="d", class_index=0, class_name="a", **MINI, seed=1))
    later = row(Recipe(source="generative", dataset="d", class_index=1, class_name="b", **MINI, seed=2))
    workspace = fill(tmp_path / "workspace", [first]).workspace
    snapshot = Snapshot(workspace)
    add(workspace, pa.Table.from_pylist([later], schema=IMAGE_SCHEMA))
    assert [one for batch in snapshot.scan(["id"]) for one in batch.column("id").to_pylist()] == [first["id"]]


def test_permissions_are_those_of_a_new_folder(exported):
    mask = os.umask(0)
    os.umask(mask)
    assert exported("folder").output.stat().st_mode & 0o777 == 0o777 & ~mask
