"""The written world: webdataset layout, exact counts, complete or absent."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.catalog import worlds
from engine.world import write
from engine.world.classes import APART, DATASETS, MANY, PAIRS, class_names, dataset_classes
from engine.world.render import render
from engine.world.write import WEB, WorldConfig, write_world

TINY = WorldConfig(shots=3, test_images=2, pool_images=300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    assert write_world(folder, TINY, num_processes=1)
    return folder


def _samples(folder: Path) -> list[tuple[str, bytes]]:
    entries = []
    for number in range(int((folder / "nshards.txt").read_text())):
        with tarfile.open(folder / f"{number}.tar") as tar:
            entries += [(member.name, tar.extractfile(member).read()) for member in tar]
    return entries


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(("split", "shots"), [("train", 3), ("test", 2)])
def test_shards_hold_every_class_shot_by_shot(world: Path, dataset: str, split: str, shots: int) -> None:
    entries = _samples(world / dataset / split)
    num = len(class_names(dataset))
    assert [name for name, _ in entries] == [f"s{i:07d}.{e}" for i in range(shots * num) for e in ("webp", "cls")]
    assert [int(data) for name, data in entries if name.endswith(".cls")] == list(range(num)) * shots
    for name, data in entries:
        if name.endswith(".webp"):
            assert Image.open(io.BytesIO(data)).size == (32, 32)


def test_the_picture_is_the_one_the_label_names(world: Path) -> None:
    entries = dict(_samples(world / "mini-common" / "train"))
    items = dataset_classes("mini-common")
    for sample in (0, 7, 45):
        shown = np.asarray(Image.open(io.BytesIO(entries[f"s{sample:07d}.webp"])).convert("RGB")).astype(int)
        drawn = render(items[sample % 20], "train", np.array([sample // 20]))[0].astype(int)
        assert np.abs(shown - drawn).mean() < 12


def test_names_and_templates_lie_beside_the_shards(world: Path) -> None:
    for dataset in DATASETS:
        assert (world / dataset / "classnames.txt").read_text().splitlines() == class_names(dataset)
        templates = (world / dataset / "zeroshot_classification_templates.txt").read_text().splitlines()
        assert len(templates) >= 3
        assert all("{c}" in template for template in templates)


def test_the_pool_has_captions(world: Path) -> None:
    entries = _samples(world / WEB / "train")
    assert [name for name, _ in entries] == [f"s{i:07d}.{e}" for i in range(300) for e in ("webp", "txt")]
    captions = [data.decode() for name, data in entries if name.endswith(".txt")]
    assert len(set(captions)) > 200
    novel = class_names("mini-novel")
    assert not any(name in caption for caption in captions for name in novel)


def test_equal_settings_give_equal_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "again", TINY, num_processes=2)

    def digest(folder: Path) -> dict[str, str]:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    assert digest(tmp_path / "again") == digest(world)


def test_a_second_call_does_nothing(world: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in world.rglob("*")}
    assert not write_world(world, TINY)
    assert {file: file.stat().st_mtime_ns for file in world.rglob("*")} == before


def test_another_world_in_the_folder_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a world with shots 3, not 4"):
        write_world(world, WorldConfig(shots=4, test_images=2, pool_images=300))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are not a world"):
        write_world(tmp_path, TINY)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_no_half_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(folder: Path, tasks: list) -> None:
        assert list(folder.rglob("*.tar"))
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_write_lists", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", WorldConfig(shots=1, test_images=1, pool_images=10), num_processes=1)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two finds the folder taken by the same world and is content."""
    config = WorldConfig(shots=1, test_images=1, pool_images=10)
    write_lists = write._write_lists

    def be_overtaken(folder: Path, tasks: list) -> None:
        write_lists(folder, tasks)
        for dataset in write.WORLD:
            (tmp_path / "world" / dataset).mkdir(parents=True)
        quicker = {"version": write.VERSION, "shots": 1, "test_images": 1, "pool_images": 10, "size": 32, "seed": 0}
        (tmp_path / "world" / "world.json").write_text(json.dumps(quicker))

    monkeypatch.setattr(write, "_write_lists", be_overtaken)
    assert not write_world(tmp_path / "world", config, num_processes=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["world"]


def test_the_mark_tells_the_counts(world: Path) -> None:
    mark = json.loads((world / "world.json").read_text())
    assert mark["version"] == write.VERSION
    assert mark["images"]["mini-fine/train"] == 3 * 48
    assert mark["images"]["mini-web/train"] == 300


def test_nonsense_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="shots is 0"):
        WorldConfig(shots=0)


def test_the_catalog_asks_for_the_world_that_is_drawn() -> None:
    assert worlds.VERSION == write.VERSION


def test_many_are_drawn_apart_and_when_asked_for() -> None:
    assert MANY not in write.WORLD
    assert worlds.APART[MANY][:2] == ("--datasets", MANY)
    assert worlds.APART[PAIRS][:2] == ("--datasets", PAIRS)
    assert set(worlds.APART) == set(APART)
    assert len({worlds.world_folder(MANY), worlds.world_folder(PAIRS), worlds.world_folder()}) == 3
    assert worlds.world_folder() == worlds.world_folder("mini-rare")


def test_a_data_set_can_be_drawn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path))
    monkeypatch.setitem(
        worlds.APART, "mini-rare", ("--datasets", "mini-rare", "--shots", "1", "--test-images", "1", "--processes", "1")
    )
    folder = Path(worlds.resolve_location("world:mini-rare"))
    assert [entry.name for entry in tmp_path.iterdir()] == [worlds.world_folder("mini-rare").name]
    assert sorted(entry.name for entry in folder.parent.iterdir()) == ["mini-rare", "world.json"]
    assert [int(data) for name, data in _samples(folder / "train") if name.endswith(".cls")] == list(range(24))
    with pytest.raises(ValueError, match="holds a world without mini-common"):
        write_world(folder.parent, WorldConfig(shots=1, test_images=1))
