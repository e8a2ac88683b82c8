"""What images are worth: zero-shot, CLER and linear-probe scores of frozen features (arrays in, numbers out)."""

from engine.evaluation.cler import ClerScore, class_centers, cler_score
from engine.evaluation.linear_probe import (
    PROTOCOLS,
    LinearProbe,
    PaperProbe,
    ProbeScore,
    check_protocol,
    fit_linear_probe,
    fit_paper_probe,
    linear_probe_score,
)
from engine.evaluation.metrics import METRICS, score_predictions
from engine.evaluation.scores import Scores, score
from engine.evaluation.zero_shot import class_embeddings, predict, zero_shot_score

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "ClerScore",
    "LinearProbe",
    "PaperProbe",
    "ProbeScore",
    "Scores",
    "check_protocol",
    "class_centers",
    "class_embeddings",
    "cler_score",
    "fit_linear_probe",
    "fit_paper_probe",
    "linear_probe_score",
    "predict",
    "score",
    "score_predictions",
    "zero_shot_score",
]
