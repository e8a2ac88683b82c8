"""Image-to-image retrieval: how many of the test images nearest to a training image show its class (GenBench section 12.2)."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Precision and recall among the five nearest test images."""
    from engine.evaluation.similarity import image_retrieval_score

    found = image_retrieval_score(
        inputs.train_features,
        inputs.train_classes,
        inputs.test_features,
        inputs.test_labels,
        num_classes=inputs.num_classes,
        k=5,
    )
    return {"precision_at_5": found.precision, "recall_at_5": found.recall}


PRECISION_AT_5 = Metric(
    name="precision_at_5",
    heading="Precision@5",
    unit="share",
    higher_is_better=True,
    compute=compute,
    timing="retrieval",
    is_proxy=True,
)
RECALL_AT_5 = Metric(
    name="recall_at_5",
    heading="Recall@5",
    unit="share",
    higher_is_better=True,
    compute=compute,
    timing="retrieval",
    is_proxy=True,
)
