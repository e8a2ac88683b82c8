"""Metrics of image sets: zero-shot, CLER, linear probe, fine-tuning, FID, similarities, correlations and ratings; arrays in, numbers out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.evaluation.metrics import METRICS, Metric, MetricInputs, measure
from engine.evaluation.protocols import PROTOCOLS, check_protocol

if TYPE_CHECKING:
    from engine.evaluation.choice import ClassChoice, choose_by_class
    from engine.evaluation.class_scores import DATASET_METRICS, score_classes, score_predictions
    from engine.evaluation.cler import ClerScore, class_centers, cler_score
    from engine.evaluation.correlation import correlation_rows
    from engine.evaluation.diversity import vendi_score
    from engine.evaluation.fid import FidScore, Inception, check_inception, fid_score
    from engine.evaluation.finetune import FinetuneScore, finetune_score
    from engine.evaluation.linear_probe import (
        LinearProbe,
        PaperProbe,
        ProbeScore,
        fit_linear_probe,
        fit_paper_probe,
        linear_probe_score,
    )
    from engine.evaluation.near_duplicates import CopyFinder, Matches
    from engine.evaluation.similarity import (
        RetrievalScore,
        clip_score,
        image_retrieval_score,
        mean_text_similarity,
    )
    from engine.evaluation.zero_shot import class_embeddings, predict, zero_shot_score

__all__ = [
    "DATASET_METRICS",
    "METRICS",
    "PROTOCOLS",
    "ClassChoice",
    "ClerScore",
    "CopyFinder",
    "FidScore",
    "FinetuneScore",
    "Inception",
    "LinearProbe",
    "Matches",
    "Metric",
    "MetricInputs",
    "PaperProbe",
    "ProbeScore",
    "RetrievalScore",
    "check_inception",
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
    "measure",
    "predict",
    "score_classes",
    "score_predictions",
    "vendi_score",
    "zero_shot_score",
]

_FILES = (
    "choice",
    "class_scores",
    "cler",
    "correlation",
    "diversity",
    "fid",
    "finetune",
    "linear_probe",
    "near_duplicates",
    "similarity",
    "zero_shot",
)
"""Files of this package that define the names above."""


def __getattr__(name: str) -> Any:
    """Imports the names above at their first use: they need torch, which the report of a finished run never loads."""
    if name in __all__:
        for file in _FILES:
            module = import_module(f"engine.evaluation.{file}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
