"""The linear probe: a linear classifier trained on frozen features, the score that other metrics should predict."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Share of test images that a probe trained on the training images recognises."""
    from engine.evaluation.linear_probe import linear_probe_score

    found = linear_probe_score(
        (inputs.train_features, inputs.train_labels),
        (inputs.test_features, inputs.test_labels),
        num_classes=inputs.num_classes,
        metric=inputs.metric,
        seed=inputs.seed,
        protocol=inputs.protocol,
        text_features=inputs.text_features,
    )
    return {"linear_probe": found.score}


LINEAR_PROBE = Metric(
    name="linear_probe", heading="Linear probe", unit="share", higher_is_better=True, compute=compute, in_tradeoff=True
)
