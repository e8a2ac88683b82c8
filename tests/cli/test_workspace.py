"""`imagefoundry status` and `imagefoundry show` against small workspaces."""

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.cli.show import ShowConfig, show
from engine.cli.status import StatusConfig, status
from engine.images import content_hash, decode_image
from engine.store import Workspace
from tests.store.helpers import add, error_rows, recipe_ids, sound_rows


@pytest.fixture
def filled(tmp_path: Path) -> Workspace:
    """Five images (plan indices 0 to 4, two data sets), two errors, one run."""
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    add(workspace, sound_rows(range(3)))
    add(workspace, sound_rows(range(3, 5)))
    add(workspace, error_rows(range(5, 7)), "errors")
    run = {
        "run_id": "run-1",
        "started_at": 0,
        "wall_seconds": 60.0,
        "nodes": 2.0,
        "instance": "e32",
        "usd_per_hour": 0.2,
    }
    run |= {"busy_seconds": 30.0, "usd_busy": 0.5, "usd_billed": 0.75, "images": 5, "errors": 2}
    workspace.put_run(run | {"status": "finished", "config": "{}"})
    return workspace


def test_status_counts_images_errors_runs_and_tables(filled: Workspace):
    found = status(StatusConfig(filled.uri))
    assert [(row["dataset"], row["images"], row["usd_compute"]) for row in found.images] == [
        ("birds", 2, 1.0),
        ("cars", 3, 1.5),
    ]
    assert {(row["source"], row["split"], row["strategy"]) for row in found.images} == {("generative", "train", "")}
    assert found.embeddings == [{"column": "embedding_a", "dimension": 4, "images": 5}]
    assert found.errors == [{"stage": "x", "reason": "x", "count": 2, "example_id": found.errors[0]["example_id"]}]
    assert found.errors[0]["example_id"] in recipe_ids(range(5, 7))
    assert [(row["run_id"], row["status"], row["usd_billed"]) for row in found.runs] == [("run-1", "finished", 0.75)]
    sizes = {row["table"]: row for row in found.tables}
    assert sizes["images"]["rows"] == 5
    on_disk = sum(path.stat().st_size for path in (filled.table_path("images") / "data").iterdir())
    assert 0 < sizes["images"]["bytes"] <= on_disk
    assert sizes["images"]["files"] >= 2


def test_status_lists_the_newest_runs_first(filled: Workspace):
    row = filled.runs().to_pylist()[0]
    filled.put_run(row | {"run_id": "run-2", "started_at": 10**6, "status": "failed"})
    assert [run["run_id"] for run in status(StatusConfig(filled.uri)).runs] == ["run-2", "run-1"]
    assert [run["run_id"] for run in status(StatusConfig(filled.uri, runs=1)).runs] == ["run-2"]
    assert main(["status", filled.uri, "--runs", "-1"]) == 2


def test_status_is_printed_as_tables_or_json(filled: Workspace, capsys):
    assert main(["status", filled.uri]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("birds", "embedding_a", "run-1", "finished", "MiB", filled.uri))
    assert main(["status", filled.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["dataset"] == "birds"


def test_status_of_an_empty_workspace_and_of_none(tmp_path: Path, capsys):
    Workspace.open(tmp_path / "empty")
    assert main(["status", str(tmp_path / "empty")]) == 0
    assert "No images yet." in capsys.readouterr().out
    assert main(["status", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_show_writes_the_bytes_that_the_table_holds(filled: Workspace, tmp_path: Path, capsys):
    (wanted,) = recipe_ids([3])
    assert main(["show", filled.uri, wanted, "--output", str(tmp_path / "out")]) == 0
    stored = filled.fetch([wanted], ["image", "content_hash"]).to_pylist()[0]
    written = (tmp_path / "out" / f"{wanted}.png").read_bytes()
    assert written == stored["image"]
    assert content_hash(decode_image(written)) == stored["content_hash"]
    said = capsys.readouterr().out
    for words in (wanted, "class 3", "birds", "seed", "usd_compute", "device_seconds", "run-1", "index.html"):
        assert words in said
    assert "negative_prompt" not in said, "fields at their default are left out"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "data:image/png;base64," in page
    assert "class 3" in page


def test_show_reads_a_table_of_an_older_release(filled: Workspace, tmp_path: Path, capsys):
    (wanted,) = recipe_ids([3])
    assert main(["show", filled.uri, wanted, "--output", str(tmp_path / "out")]) == 0
    assert "image_format" in capsys.readouterr().out
    filled.dataset("images").drop_columns(["image_format"])
    assert main(["show", filled.uri, wanted, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "image_format" not in said
    assert "class 3" in said


def test_a_sample_is_the_same_for_the_same_seed(filled: Workspace, tmp_path: Path):
    def sample(num: int, **settings) -> list[str]:
        config = ShowConfig(filled.uri, sample=num, output=tmp_path / "out", **settings)
        return [row["id"] for row in show(config).rows]

    assert sample(2) == sample(2)
    assert len({tuple(sample(2, seed=seed)) for seed in range(8)}) > 1
    assert sorted(sample(9)) == sorted(recipe_ids(range(5)))
    assert sorted(sample(9, where="dataset = 'birds'")) == sorted(recipe_ids([1, 3]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either the ids of images or --sample N"),
        (["--sample", "-1"], "give either the ids of images or --sample N"),
        (["0" * 32], "has no image 00000000000000000000000000000000; `imagefoundry show"),
        (recipe_ids([6]), "could not be made: x (stage x)"),
        (["--sample", "1", "--where", "dataset = 'boats'"], "has no images for which --where holds"),
        (["--sample", "1", "--where", "colour = 'red'"], "is no condition on the images"),
        ([*recipe_ids([1]), "--where", "dataset = 'cars'"], "--where filters a sample"),
    ],
)
def test_a_mistake_is_one_sentence(filled: Workspace, tmp_path: Path, capsys, flags: list[str], message: str):
    assert main(["show", filled.uri, *flags, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
