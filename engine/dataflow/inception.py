"""Stage `inception`: adds the features that FID compares."""

from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.evaluation.fid import NUM_FEATURES, Inception, check_inception
from engine.store.vectors import from_matrix


@dataclass
class InceptionFeatures:
    """Stage that adds the column of Inception's features, float32, not normalised.

    It takes images at their original size, since the definition of FID resizes in its own way.
    """

    weights: str
    """Absolute path of the weights, which all nodes can read."""
    column: str
    """Name of the column; it holds a hash of the weights."""
    num_gpus: float = 0.25
    needs_gpu: bool = False
    rejects: bool = False
    inputs: tuple[str, ...] = ()
    name: str = "inception"
    preprocessing: None = None
    _network: Inception | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, weights: Path) -> "InceptionFeatures":
        """The stage of a weights file; each worker loads the network itself.

        Raises:
            ValueError: as `check_inception` does.
        """
        check_inception(weights)
        with weights.open("rb") as file:
            digest = file_digest(file, lambda: blake2b(digest_size=8)).hexdigest()
        return cls(str(weights.absolute()), f"features_inception_{digest}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_network": None}

    @property
    def features(self) -> str:
        """Name of the features in reports."""
        return f"inception/{Path(self.weights).name}"

    @property
    def columns(self) -> pa.Schema:
        """The column of features."""
        return pa.schema([pa.field(self.column, pa.list_(pa.float32(), NUM_FEATURES))])

    def load(self, device: str) -> None:
        """Loads the network."""
        self._network = Inception(Path(self.weights), device)

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        """Features of images; gives a reason for features that are not finite."""
        assert self._network is not None, "load() comes first"
        features = np.ascontiguousarray(self._network(pixels).cpu().numpy())
        is_finite = np.isfinite(features).all(1)
        reasons = pa.array(
            [None if good else "the Inception features are not finite" for good in is_finite], pa.string()
        )
        return pa.RecordBatch.from_arrays(
            [from_matrix(features), reasons], schema=self.columns.append(pa.field("reason", pa.string()))
        )
