"""CLIP score: how near each image is to the name of its class (Hessel et al. 2021)."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Mean cosine, times 100, of each training image with the embedding of its class."""
    from engine.evaluation.similarity import clip_score
    from engine.evaluation.zero_shot import class_embeddings

    assert inputs.text_features is not None, "the CLIP score needs the class names"
    own_text = class_embeddings(inputs.text_features)[inputs.train_classes]
    return {"clip_score": clip_score(inputs.train_features, own_text)}


CLIP_SCORE = Metric(
    name="clip_score", heading="CLIP score", unit="points", higher_is_better=True, compute=compute, is_proxy=True
)
