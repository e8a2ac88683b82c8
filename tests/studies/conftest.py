from pathlib import Path
from typing import Any

import pytest

from engine.studies.genbench.tradeoff import GenBenchConfig


@pytest.fixture
def parts(tmp_path: Path, tiny_dataset: Path, tiny_pool: Path, tiny_pipeline: str, tiny_encoder: str) -> dict[str, Any]:
    """Fields of a study's configuration on tiny real things."""
    return {
        "datasets": (str(tiny_dataset),),
        "generator": tiny_pipeline,
        "encoder": tiny_encoder,
        "pool": str(tiny_pool),
        "batch_size": 4,
        "workspace": str(tmp_path / "workspace"),
        "report": tmp_path / "report",
    }


@pytest.fixture
def config(parts: dict[str, Any]) -> GenBenchConfig:
    return GenBenchConfig(**parts, shots=(1, 2), seeds=(0, 1))
