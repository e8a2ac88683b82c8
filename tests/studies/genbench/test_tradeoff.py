"""The study from configuration to report, on tiny real things."""

import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.failures import RunFailed
from engine.models.prompt_weights import read_weights
from engine.prompts import load_sentences
from engine.store import Workspace
from engine.studies import study
from engine.studies.genbench.tradeoff import GenBench, GenBenchConfig, run_genbench
from engine.testing.data import class_image, encode, multi_hot, write_dataset, write_shards
from engine.testing.models import save_t5

TRADEOFF = {
    "dataset",
    "group",
    "source",
    "strategy",
    "shots",
    "seed",
    "zero_shot",
    "cler",
    "cler_ensemble",
    "linear_probe",
    "images",
    "usd_busy",
    "usd_billed",
    "usd_per_image",
}


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_images_are_made_scored_priced_and_shown_once(config: GenBenchConfig):
    run_genbench(config)
    workspace = Workspace.open(config.workspace, create=False)
    # 3 classes: 2 seeds x 2 shots generated; 2 shots retrieved, the same for both seeds; originals drawn twice, maybe alike
    assert workspace.count("source = 'generative'") == 12
    assert workspace.count("source = 'retrieval'") == 6
    assert 6 <= workspace.count("source = 'original' AND split = 'train'") <= 12
    assert workspace.count("split = 'test'") == 12
    tables = json.loads((config.report / "report.json").read_text())["tables"]
    rows = tables["tradeoff"]
    assert {(row["source"], row["shots"], row["seed"]) for row in rows} == {
        (source, shots, seed) for source in config.sources for shots in (1, 2) for seed in (0, 1)
    }
    assert all(set(row) == TRADEOFF for row in rows)
    assert {row["images"] for row in rows if row["shots"] == 2} == {6}
    for row in rows:
        assert all(0 <= row[name] <= 1 for name in ("zero_shot", "cler", "cler_ensemble", "linear_probe"))
        assert row["usd_billed"] >= row["usd_busy"] > 0
        assert row["usd_per_image"] == pytest.approx(row["usd_busy"] / row["images"])
        if row["source"] == "original":
            assert row["usd_per_image"] == pytest.approx(0.012, rel=1e-3)
    # colours tell the three classes apart, and even a random encoder sees colours
    assert all(row["linear_probe"] == 1 for row in rows if row["source"] == "original" and row["shots"] == 2)
    assert "index.html" in {path.name for path in config.report.iterdir()}

    before = workspace.count()
    run_genbench(replace(config, finetune=(2,)))
    assert workspace.count() == before
    again = json.loads((config.report / "report.json").read_text())["tables"]
    tuned = {(row["source"], row["shots"]): row.pop("finetune", None) for row in again["tradeoff"]}
    assert again["tradeoff"] == rows
    assert all(score is None if shots == 1 else 0 <= score <= 1 for (_, shots), score in tuned.items())
    assert len(again["runs"]) == 1


REPORT_AGAIN = """
import pickle, sys
from engine.studies.genbench.tradeoff import GenBench
from engine.store import Workspace
config, folder = pickle.loads(sys.stdin.buffer.read())
study = GenBench(config)
study.check()
list(study.work())
study.build_report(Workspace.open(config.workspace, create=False)).write(folder)
print([name for name in ("torch", "open_clip", "matplotlib", "ray") if name in sys.modules])
"""


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_the_report_of_a_finished_run_is_the_same_and_loads_no_model(config: GenBenchConfig, tmp_path: Path):
    config = replace(config, finetune=(2,))
    run_genbench(config)
    again = tmp_path / "again"
    found = subprocess.run(
        [sys.executable, "-c", REPORT_AGAIN], input=pickle.dumps((config, again)), capture_output=True, check=True
    )
    assert found.stdout.decode().splitlines()[-1] == "[]"
    for name in ("report.json", "index.html"):
        assert (again / name).read_text() == (config.report / name).read_text()


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_corrupt_image_is_a_row_of_errors_and_not_an_image(config: GenBenchConfig, tmp_path: Path):
    folder = tmp_path / "spoiled"
    images = [(encode(class_image(number % 2, number)), str(number % 2)) for number in range(8)]
    images[0] = (b"RIFF but no picture", "0")
    write_dataset(folder, ("cat", "dog"))
    write_shards(folder / "train", images, shards=2)
    report = run_genbench(replace(config, datasets=(str(folder),), sources=("original",), shots=(4,), seeds=(0,)))
    (error,) = report.tables["errors"]
    assert (error["stage"], error["source"], error["count"]) == ("make", "original", 1)
    assert "cannot be decoded" in error["reason"]
    assert error["examples"] == "train/0.tar: s0000000"
    assert [row["images"] for row in report.tables["tradeoff"]] == [7]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_run_that_lost_all_images_of_a_kind_reports_and_fails(config: GenBenchConfig, tmp_path: Path):
    folder = write_dataset(tmp_path / "spoiled", ("cat", "dog"))
    write_shards(folder / "train", [(b"<html>", "0"), (b"<html>", "1")])
    changed = replace(config, datasets=(str(folder),), sources=("original",), shots=(1,), seeds=(0,))
    with pytest.raises(
        RunFailed, match=r"2 of 2 train original images of spoiled failed, one of them with: train/0\.tar: s"
    ):
        run_genbench(changed)
    tables = json.loads((config.report / "report.json").read_text())["tables"]
    (error,) = tables["errors"]
    assert error["count"] == 2
    assert sorted(error["examples"].split(", ")) == ["train/0.tar: s0000000", "train/0.tar: s0000001"]
    assert {(row["split"], row["verdict"], row["count"]) for row in tables["files"]} == {
        ("train", "used", 2),
        ("test", "used", 8),
        ("", "ignored", 4),
        ("", "refused", 1),  # the second shard of the writer before
    }


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_images_with_several_labels_are_scored_by_average_precision(config: GenBenchConfig, tmp_path: Path):
    folder = write_dataset(tmp_path / "several", ("left", "right"))
    (folder / "dataset_type.txt").write_text("multilabel\n")
    for split, first in (("train", 0), ("test", 100)):
        samples = []
        for number in range(12):
            shown = ((1, 0), (0, 1), (1, 1))[number % 3]
            # a class is seen by the colour of its half; a half without one is dark
            halves = [class_image(side, first + number)[:, :16] // (1 if shown[side] else 8) for side in (0, 1)]
            samples.append((encode(np.concatenate(halves, axis=1)), multi_hot(shown)))
        write_shards(folder / split, samples, "npy")
    several = replace(
        config, datasets=(str(folder),), sources=("original",), shots=(2, 10), seeds=(0,), allow_fewer_shots=True
    )
    report = run_genbench(several)
    rows = {row["shots"]: row for row in report.tables["tradeoff"]}
    # 8 of the 12 training images show each class
    assert {shots: row["images"] for shots, row in rows.items()} == {2: 4, 10: 16}
    # two of three images show a class, so a ranking at random has an average precision of about 0.7
    assert rows[10]["linear_probe"] > 0.95
    assert all(0 <= row[name] <= 1 for row in rows.values() for name in ("zero_shot", "cler_ensemble", "linear_probe"))
    assert [len(sheet.images) for sheet in report.sheets] == [4, 16]  # two lines of a real and an original one
    # the table has all labels of an image, whichever of them it was sampled for
    columns = ["key", "split", "class_name", "label_indices", "label_names"]
    stored = Workspace.open(config.workspace).scan(columns).read_all().to_pylist()
    shown = [([0], ["left"]), ([1], ["right"]), ([0, 1], ["left", "right"])]
    for one in stored:
        number = int(one["key"].rpartition("s")[2])
        assert (one["label_indices"], one["label_names"]) == shown[number % 3]
        assert one["class_name"] in one["label_names"]
    assert Counter(one["split"] for one in stored) == {"train": 16, "test": 12}
    # the authors' definition counts the same images in another way, and so does their probe
    again = run_genbench(replace(several, voc="paper", cler_ensemble="normalised", probe="paper"))
    theirs = {row["shots"]: row for row in again.tables["tradeoff"]}[10]
    assert theirs["zero_shot"] != rows[10]["zero_shot"]
    assert theirs["linear_probe"] > 0.9
    with pytest.raises(ValueError, match="several has 8 train images of class 'left', fewer than 10 shots"):
        run_genbench(replace(config, datasets=(str(folder),), shots=(10,), sources=("original",)))


BAD = {
    "data set": ({"datasets": ("nothing-like-it",)}, "unknown data set"),
    "source": ({"sources": ("generativ",)}, "unknown source 'generativ'; did you mean generative"),
    "generator": ({"generator": "minni"}, "unknown generator 'minni'; did you mean mini"),
    "generator source": ({"generator": "sd21", "generator_source": "nowhere"}, "neither a folder nor a Hub id"),
    "auxiliary": ({"generator_auxiliaries": ("controlnet",)}, "generator auxiliary controlnet is no PURPOSE=SOURCE"),
    "speed": ({"speed": "fast"}, "generator .* does not support --speed fast; choose from: exact"),
    "editor": ({"generator": "qwen-image-edit"}, r"requires a reference image; add \+retrieval_augmented"),
    "generator without weights": (
        {"generator": "glide"},
        "generator glide (needs OpenAI's package|has no weights on the Hub)",
    ),
    "encoder": ({"encoder": "mini-clap"}, "unknown encoder 'mini-clap'; did you mean mini-clip"),
    "strategy": ({"strategy": "defined"}, "unknown prompt strategy 'defined'; did you mean defined_template"),
    "no shots": ({"shots": (0, 5)}, "shots 0 is not a number of images"),
    "too many shots": ({"shots": (9,)}, "fewer than 9 shots"),
    "empty": ({"shots": ()}, "shots is empty"),
    "seed": ({"seeds": (-1,)}, "seed -1 is negative"),
    "batch size": ({"batch_size": 0}, "batch size 0"),
    "generator steps": ({"generator_steps": 0}, "generator steps 0"),
    "generator size": ({"generator_size": 0}, "generator size 0"),
    "price book": ({"price_book": Path("/nowhere.toml")}, "nowhere.toml"),
    "instance": ({"instance": "azure-nc24ads"}, "azure-nc24ads-a100-v4"),
    "pool": ({"pool": "/nowhere"}, "nowhere"),
    "large seed": ({"seeds": (2**64,)}, "seed 18446744073709551616 is larger than"),
    "odd generator size": ({"generator_size": 33}, "generator size 33 is no multiple of 2"),
    "no name of a data set": ({"datasets": ("",)}, "the name of a data set is empty"),
    "a report that is a file": ({"report": Path(__file__)}, "cannot be made, since .* is no folder"),
    "fine-tuning": ({"finetune": (9,)}, "fine-tuning on 9 shots needs them among the shots"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_and_touches_nothing(
    config: GenBenchConfig, changes: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message) as caught:
        run_genbench(replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert not Path(config.workspace).exists()


def test_a_price_book_with_a_negative_price_is_refused(config: GenBenchConfig, tmp_path: Path):
    from importlib.resources import files

    book = files("engine.costs").joinpath("price_book.toml").read_text()
    (tmp_path / "book.toml").write_text(book.replace("usd_per_hour = 0.21", "usd_per_hour = -0.21", 1))
    with pytest.raises(ValueError, match="usd_per_hour"):
        run_genbench(replace(config, price_book=tmp_path / "book.toml"))


@pytest.mark.parametrize("kind", ["file", "schema"])
def test_a_workspace_that_is_none_is_refused_and_left_alone(config: GenBenchConfig, tmp_path: Path, kind: str):
    if kind == "file":
        Path(config.workspace).write_text("precious")
        with pytest.raises(ValueError, match="file"):
            run_genbench(config)
        assert Path(config.workspace).read_text() == "precious"
    else:
        import lance
        import pyarrow as pa

        lance.write_dataset(pa.table({"id": ["a"]}), f"{config.workspace}/images.lance")
        with pytest.raises(ValueError, match=r"schema|column|version"):
            run_genbench(config)
        assert lance.dataset(f"{config.workspace}/images.lance").count_rows() == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "train" / "1.tar").unlink(), "is missing"),
        (
            lambda folder: (folder / "train" / "0.tar").write_bytes((folder / "train" / "0.tar").read_bytes()[:3000]),
            "is broken",
        ),
        (lambda folder: write_shards(folder / "train", [(b"RIFF", "7")]), "class index 7 is out of range"),
        (lambda folder: write_shards(folder / "train", [(b"RIFF", "0"), (b"RIFF", "1")]), "has no image"),
    ],
    ids=["missing shard", "truncated tar", "class out of range", "empty class"],
)
def test_a_spoiled_data_set_is_refused_before_anything_is_made(
    config: GenBenchConfig, tiny_dataset: Path, tmp_path: Path, spoil, message: str
):
    folder = tmp_path / "spoiled"
    shutil.copytree(tiny_dataset, folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        run_genbench(replace(config, datasets=(str(folder),)))
    assert not Path(config.workspace).exists()


def test_two_folders_of_one_name_are_refused(config: GenBenchConfig, tiny_dataset: Path, tmp_path: Path):
    shutil.copytree(tiny_dataset, tmp_path / "other" / "things")
    with pytest.raises(ValueError, match="two data sets have the same name"):
        run_genbench(replace(config, datasets=(str(tiny_dataset), str(tmp_path / "other" / "things"))))


def test_a_generator_with_pickled_weights_is_refused(config: GenBenchConfig, tiny_pipeline: str, tmp_path: Path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="pickled weights"):
        run_genbench(replace(config, generator=str(folder)))


def test_sentences_are_made_before_the_plan_that_uses_them(
    config: GenBenchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(study, "load_sentences", partial(load_sentences, num_sentences=2))
    writer = str(save_t5(tmp_path / "t5"))
    made_by = GenBench(
        replace(config, sources=("generative",), strategy="category_enhancement", sentence_model=writer, seeds=(0,))
    )
    (plan,) = made_by.plans["generative"].values()
    sentences = load_sentences(made_by.datasets[0], writer, num_sentences=2)
    made = [read_weights(plan[index].prompt).text for index in range(6)]
    assert made == [sentences[index % 3][index // 3] for index in range(6)]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_retrieved_images_are_the_references_of_generated_ones(config: GenBenchConfig):
    changed = replace(config, sources=("generative",), strategy="retrieval_augmented", seeds=(0,), shots=(1,))
    report = run_genbench(changed)
    assert report.tables["errors"] == []
    workspace = Workspace.open(config.workspace, create=False)
    columns = ["reference_id", "reference_mode", "reference_scale", "class_index"]
    made = workspace.scan(columns, "source = 'generative'").read_all().to_pylist()
    retrieved = workspace.scan(["id", "class_index"], "source = 'retrieval'").read_all().to_pylist()
    found = {row["id"]: row["class_index"] for row in retrieved}
    assert len(made) == 3
    assert all(found[row["reference_id"]] == row["class_index"] for row in made)
    assert {(row["reference_mode"], row["reference_scale"]) for row in made} == {("img2img", 0.4)}


def test_reference_images_are_retrieved_before_images_are_generated_from_them(config: GenBenchConfig):
    study = GenBench(replace(config, sources=("generative",), strategy="retrieval_augmented"))
    (first, retrieved, _), (second, generated, _) = study.work()
    assert (first, second) == ("read", "generate")
    ids = {retrieved[index].id for index in range(len(retrieved)) if retrieved[index].source == "retrieval"}
    references = [generated[index].reference_id for index in range(len(generated))]
    assert len(ids) == 6
    assert set(references) == ids
    assert generated[0].strategy == "defined_template+retrieval_augmented"


def test_a_generator_can_take_its_weights_from_elsewhere(config: GenBenchConfig, tiny_pipeline: str):
    elsewhere = replace(config, generator="sd21", generator_source=tiny_pipeline)
    study = GenBench(elsewhere)
    study.check()
    (plan, *_) = study.plans["generative"].values()
    assert (plan[0].generator, plan[0].num_inference_steps, plan[0].height) == ("sd21", 50, 768)
    smaller = GenBench(replace(elsewhere, generator_steps=2, generator_size=16)).generator
    assert (smaller.num_inference_steps, smaller.height, smaller.width) == (2, 16, 16)
    assert plan[0].revision == study.generator.revision != "main"
