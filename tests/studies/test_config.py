"""Settings: paths that workers find, and what is refused before anything is started."""

from pathlib import Path
from typing import Any

import pytest

from engine.cache import check_writable
from engine.catalog import load_dataset
from engine.images import ImageFormat
from engine.models import reach
from engine.store import Workspace
from engine.studies.config import MAX_SEED, Parts, Settings, check_seeds, expanded
from engine.studies.genbench.tradeoff import GenBenchConfig
from engine.studies.realrag.config import RealRagConfig, TrainRetrieverConfig
from engine.studies.realrag.negatives import MineConfig
from tests.catalog.trees import write_files


def test_a_home_is_expanded_wherever_it_begins_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = GenBenchConfig(
        datasets=("~/pets", "cars=~/cars", "mini-fine"),
        workspace="~/workspace",
        report=Path("~/report"),
        pool="~/pool",
        generator_auxiliaries=("controlnet=~/control",),
        price_book=Path("~/book.toml"),
    )
    assert config.datasets == (f"{tmp_path}/pets", f"cars={tmp_path}/cars", "mini-fine")
    assert (config.workspace, config.pool) == (f"{tmp_path}/workspace", f"{tmp_path}/pool")
    assert (config.report, config.price_book) == (tmp_path / "report", tmp_path / "book.toml")
    assert config.generator_auxiliaries == (f"controlnet={tmp_path}/control",)


def test_a_data_set_is_found_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "pets", ["cat/1.jpg", "dog/1.jpg"])
    assert load_dataset("~/pets").location == str(tmp_path / "pets")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_of_a_data_set_is_refused(name: str):
    with pytest.raises(ValueError, match="the name of a data set is empty; give a name of the catalog, or the path"):
        load_dataset(name)


def test_paths_of_models_are_absolute_before_they_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_clip", "my_sd", "control", "mini-clip"):
        (tmp_path / name).mkdir()
    config = GenBenchConfig(
        encoder="./my_clip",
        generator="my_sd",
        generator_source="my_sd",
        generator_auxiliaries=("controlnet=control", "unet=own/er"),
    )
    assert config.encoder == str(tmp_path / "my_clip")
    assert config.generator == config.generator_source == str(tmp_path / "my_sd")
    assert config.generator_auxiliaries == (f"controlnet={tmp_path}/control", "unet=own/er")
    # a name of the registry stays one, whatever lies here
    assert expanded("mini-clip", resolve=True) == "mini-clip"
    assert expanded("ViT-B-32/openai", resolve=True) == "ViT-B-32/openai"


@pytest.mark.parametrize("config_type", [GenBenchConfig, RealRagConfig, TrainRetrieverConfig, MineConfig])
def test_the_image_format_reaches_the_run(config_type: type[Settings], tmp_path: Path):
    config = config_type(image_format="webp", image_quality=80)
    connection: Any = None
    run = Parts(config).run(Workspace.open(tmp_path / "workspace"), connection)
    assert run.image_format == ImageFormat("webp", 80)
    assert (run.config["image_format"], run.config["image_quality"]) == ("webp", 80)
    assert Parts(config_type()).run(Workspace.open(tmp_path / "workspace"), connection).image_format == ImageFormat()
    with pytest.raises(ValueError, match="image quality 90 has no effect on png"):
        config_type(image_quality=90).check()


def test_seeds_beyond_64_bits_are_refused():
    check_seeds((0, MAX_SEED))
    with pytest.raises(ValueError, match="seed 18446744073709551616 is larger than 9223372036854775807"):
        check_seeds((2**64,))


def test_the_largest_seed_scores():
    import numpy as np

    from engine.evaluation import fit_linear_probe

    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    fit_linear_probe(features, np.arange(20) % 2, num_classes=2, seed=MAX_SEED)


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            ValueError, match=rf"the report {folder} cannot be made, since {tmp_path}/file is no folder; choose"
        ):
            check_writable(folder, "the report", "choose another")
    if Path("/proc/self").is_dir():
        with pytest.raises(ValueError, match=r"the report /proc/self/x cannot be written to \(.*\); choose another"):
            check_writable(Path("/proc/self/x"), "the report", "choose another")
    check_writable(tmp_path / "new" / "folder", "the report", "choose another")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("offline", ["1", ""])
def test_an_encoder_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: bool(offline))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        ValueError, match=r"encoder 'ViT-B-32/openai' is not on this machine, and (HF_HUB_OFFLINE|the Hub is)"
    ) as caught:
        reach.check_encoder("ViT-B-32/openai")
    assert "\n" not in str(caught.value)
    reach.check_encoder("mini-clip")
