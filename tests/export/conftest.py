import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from engine.export.config import ExportConfig
from engine.export.export import Exported, export_images
from tests.export.helpers import Filled, every_kind, fill

os.environ["HF_HUB_OFFLINE"] = "1"  # before datasets is imported

FORMATS = ("parquet", "webdataset", "folder")


@pytest.fixture(scope="package")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return fill(tmp_path_factory.mktemp("export") / "workspace", every_kind(), errors=3)


@pytest.fixture(scope="package")
def exported(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each format's export of all images, made once."""
    folder = tmp_path_factory.mktemp("exported")
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            config = ExportConfig(workspace=filled.workspace.uri, output=folder / name, format=name, audit=False)
            made[name] = export_images(config)
        return made[name]

    return export


@pytest.fixture
def load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`datasets.load_dataset` with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def load(path: Path, **more):
        return datasets.load_dataset(str(path), cache_dir=str(tmp_path / "cache"), **more)

    return load


@pytest.fixture
def mlcroissant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library with a cache of its own: it takes tars of before for those of the same relative path."""
    found = pytest.importorskip("mlcroissant")
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "extracted"))
    return found
