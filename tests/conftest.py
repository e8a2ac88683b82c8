"""Fixtures that tests share: tiny models and data sets, made once, and one local Ray."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else the tests beside them leave them nothing
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and other tests run on the other cores

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import tiny

settings.register_profile("busy machine", deadline=None)  # a test that was slow once is not a wrong one
settings.load_profile("busy machine")

CLASSES = ("red apple", "green tree", "blue boat")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray come first and one after the other; those of a file stay together."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
    for item in items:
        group = "cluster" if item.get_closest_marker("cluster") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


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
