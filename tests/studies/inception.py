"""Helpers for tests of studies that compare images by Inception's features."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.dataflow.inception import InceptionFeatures
from engine.evaluation import Inception, fid_score
from engine.store import Workspace
from engine.studies.image_set import pixels_of, stored_images


def forbid_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process unable to load the network; workers are other processes."""

    def never(self: Inception, *arguments: object) -> None:
        raise AssertionError("the driver loads Inception")

    monkeypatch.setattr(Inception, "__init__", never)


def fid_by_hand(workspace: Workspace, weights: Path, real: Sequence[str], judged: Sequence[str]) -> float:
    """FID of stored images, computed in this process from their pixels."""
    encoded = stored_images(workspace, [*real, *judged])
    network = Inception(weights)
    features = [network(pixels_of([encoded[name] for name in ids])(range(len(ids)))).numpy() for ids in (real, judged)]
    return fid_score(*features, of="inception").fid


def rows_by_inception(workspace: Workspace) -> int:
    """Images that the stage has processed, over all runs."""
    return sum(row["rows"] for row in workspace.ledger().to_pylist() if row["stage"] == "inception")


def images_with_features(workspace: Workspace, weights: Path) -> set[str]:
    """Ids of the images that have features of these weights."""
    column = InceptionFeatures.of(weights).column
    return set(workspace.scan(["id"], f"{column} IS NOT NULL").read_all().column("id").to_pylist())
