"""Stage `safety check`: the score of a safety checker, kept as a column of its own."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.models.safety import CheckerFacts, SafetyChecker


@dataclass
class SafetyCheck:
    """Adds a score from 0 (safe) to 1 to each image. No image is rejected: those who read the images compare it with a threshold."""

    facts: CheckerFacts
    batch_size: int = 16
    num_gpus: float = 0.25
    needs_gpu: bool = False
    rejects: bool = False
    name: str = "safety check"
    inputs: tuple[str, ...] = ()
    preprocessing: None = None
    _checker: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_checker": None}

    @property
    def columns(self) -> pa.Schema:
        """The column of scores; its metadata names the checker."""
        return pa.schema([pa.field(self.facts.column, pa.float32(), metadata={"checker": self.facts.name})])

    def load(self, device: str) -> None:
        """Loads the checker."""
        self._checker = SafetyChecker(self.facts, device, self.batch_size)

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        """One score per image; gives a reason for a score that is not finite."""
        scores = self._checker.score(list(pixels))
        reasons = [None if good else "the safety score is not finite" for good in np.isfinite(scores)]
        return pa.RecordBatch.from_arrays(
            [pa.array(scores, pa.float32()), pa.array(reasons, pa.string())],
            schema=self.columns.append(pa.field("reason", pa.string())),
        )
