"""Scores of RealRAG's images and retrievers; its study computes them from the images' classes, prompts and references."""

from engine.evaluation.metrics.metric import Metric

ACCURACY = Metric(name="accuracy", heading="Accuracy", unit="share", higher_is_better=True)
ACCURACY_ON_REAL = Metric(
    name="accuracy_on_real", heading="Accuracy on real images", unit="share", higher_is_better=True
)
ZERO_SHOT_ACCURACY = Metric(
    name="zero_shot_accuracy", heading="Accuracy by class names", unit="share", higher_is_better=True
)
CLIP_I = Metric(name="clip_i", heading="CLIP-I", unit="points", higher_is_better=True)
CLIP_T = Metric(name="clip_t", heading="CLIP-T", unit="points", higher_is_better=True)
JUDGE_I = Metric(name="judge_i", heading="Judge-I", unit="points", higher_is_better=True)
RIGHT_REFERENCES = Metric(name="right_references", heading="Right references", unit="share", higher_is_better=True)
INDEX_RECALL = Metric(name="index_recall", heading="Index recall", unit="share", higher_is_better=True)
PRECISION_AT_1 = Metric(name="precision_at_1", heading="Precision@1", unit="share", higher_is_better=True)
PRECISION_AT_10 = Metric(name="precision_at_10", heading="Precision@10", unit="share", higher_is_better=True)
RECALL_AT_1 = Metric(name="recall_at_1", heading="Recall@1", unit="share", higher_is_better=True)
RECALL_AT_10 = Metric(name="recall_at_10", heading="Recall@10", unit="share", higher_is_better=True)
