"""Fixtures that tests share: tiny models and data sets, made once, and one local Ray."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny

CLASSES = ("red apple", "green tree", "blue boat")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices and captions of throw-away data sets stay out of the user's cache; a world that is drawn there is used."""
    from engine.catalog.worlds import world_folder

    world = world_folder()
    folder = tmp_path_factory.mktemp("cache")
    if (world / "world.json").exists():
        (folder / world.name).symlink_to(world)
    previous = os.environ.get("IMAGEFOUNDRY_CACHE")
    os.environ["IMAGEFOUNDRY_CACHE"] = str(folder)
    yield
    if previous is None:
        del os.environ["IMAGEFOUNDRY_CACHE"]
    else:
        os.environ["IMAGEFOUNDRY_CACHE"] = previous


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_encoder(tmp_path_factory.mktemp("models") / "encoder"))


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_pipeline(tmp_path_factory.mktemp("models") / "pipeline"))


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("data") / "things", CLASSES)


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pool(tmp_path_factory.mktemp("data") / "pool", CLASSES)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests that need one."""
    from engine.dataflow.cluster import connected_cluster

    with connected_cluster():
        yield
