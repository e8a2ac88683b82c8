"""CLIP with the class names alone, the same for every set of training images."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Share of test images whose class name is nearest."""
    from engine.evaluation.zero_shot import zero_shot_score

    assert inputs.text_features is not None, "zero-shot needs the class names"
    score = zero_shot_score(inputs.test_features, inputs.test_labels, inputs.text_features, metric=inputs.metric)
    return {"zero_shot": score}


ZERO_SHOT = Metric(
    name="zero_shot", heading="Zero-shot", unit="share", higher_is_better=True, compute=compute, in_tradeoff=True
)
