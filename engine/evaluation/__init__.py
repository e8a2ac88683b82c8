"""What images are worth: zero-shot, CLER and linear-probe scores, FID, similarities and what they foretell (arrays in, numbers out)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.evaluation.protocols import PROTOCOLS, check_protocol

if TYPE_CHECKING:
    from engine.evaluation.choice import ClassChoice, choose_by_class
    from engine.evaluation.cler import ClerScore, class_centers, cler_score
    from engine.evaluation.correlation import correlation_rows
    from engine.evaluation.fid import FidScore, Inception, fid_score
    from engine.evaluation.finetune import FinetuneScore, finetune_score
    from engine.evaluation.linear_probe import (
        LinearProbe,
        PaperProbe,
        ProbeScore,
        fit_linear_probe,
        fit_paper_probe,
        linear_probe_score,
    )
    from engine.evaluation.metrics import METRICS, score_classes, score_predictions
    from engine.evaluation.scores import Scores, score
    from engine.evaluation.similarity import (
        RetrievalScore,
        clip_score,
        image_retrieval_score,
        mean_text_similarity,
    )
    from engine.evaluation.zero_shot import class_embeddings, predict, zero_shot_score

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "ClassChoice",
    "ClerScore",
    "FidScore",
    "FinetuneScore",
    "Inception",
    "LinearProbe",
    "PaperProbe",
    "ProbeScore",
    "RetrievalScore",
    "Scores",
    "check_protocol",
    "choose_by_class",
    "class_centers",
    "class_embeddings",
    "cler_score",
    "clip_score",
    "correlation_rows",
    "fid_score",
    "finetune_score",
    "fit_linear_probe",
    "fit_paper_probe",
    "image_retrieval_score",
    "linear_probe_score",
    "mean_text_similarity",
    "predict",
    "score",
    "score_classes",
    "score_predictions",
    "zero_shot_score",
]

_FILES = (
    "choice",
    "cler",
    "correlation",
    "fid",
    "finetune",
    "linear_probe",
    "metrics",
    "scores",
    "similarity",
    "zero_shot",
)
"""Files of this package that define the names above."""


def __getattr__(name: str) -> Any:
    """The names above, imported at their first use: they take torch, which the report of a finished run does without."""
    if name in __all__:
        for file in _FILES:
            module = import_module(f"engine.evaluation.{file}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
