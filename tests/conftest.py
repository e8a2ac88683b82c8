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

from engine.testing.data import write_dataset, write_pool
from engine.testing.models import save_encoder, save_inception, save_pipeline

settings.register_profile("busy machine", deadline=None)  # a test that was slow once is not a wrong one
settings.load_profile("busy machine")

CLASSES = ("red apple", "green tree", "blue boat")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared Ray come first and one after the other; those of a file stay together; those that start a Ray
    of their own come last, when the process without the shared one has done the others. Servers are processes of their own, so
    whichever process is free tests them."""
    groups = {item: _group(item) for item in items}
    items.sort(key=lambda item: ("shared ray", "", "own ray", "served").index(groups[item]))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item] or str(item.path)))


def _group(item: pytest.Item) -> str:
    if not item.get_closest_marker("cluster"):
        return ""
    if "cluster" in getattr(item, "fixturenames", ()):
        return "shared ray"
    return "served" if item.path.parent.name == "serving" else "own ray"


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices and captions of throw-away data sets stay out of the user's cache; a world that was rendered there is used."""
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
    return str(save_encoder(tmp_path_factory.mktemp("models") / "encoder"))


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pipeline(tmp_path_factory.mktemp("models") / "pipeline"))


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception(tmp_path_factory.mktemp("models") / "pt_inception.safetensors")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "things", CLASSES)


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("data") / "pool", CLASSES)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests that need one, with a logical GPU, so that every job takes the same path as on a real one.

    Its pools are one worker each, as two share the cores while they start. The tests that start a Ray of their own (submitted,
    killed, interrupted, the notebook) have pools of full size, and no GPU; `device="cpu"` leaves the GPU alone.
    """
    from engine.dataflow.cluster import connected_cluster
    from engine.dataflow.run import MAX_WORKERS_VARIABLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 3, "GPU": 1}')
        patch.setenv("IMAGEFOUNDRY_DEVICE", "cpu")
        patch.setenv(MAX_WORKERS_VARIABLE, "1")
        with connected_cluster():
            patch.delenv("RAY_OVERRIDE_RESOURCES")
            yield
