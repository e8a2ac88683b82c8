"""CLER, the class-centre recognition rate, alone and averaged with the text (GenBench Eq. 1)."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Share of test images whose nearest class centre is their own, and the same with the text added."""
    from engine.evaluation.cler import cler_score

    found = cler_score(
        inputs.train_features,
        inputs.train_labels,
        inputs.test_features,
        inputs.test_labels,
        num_classes=inputs.num_classes,
        text_features=inputs.text_features,
        metric=inputs.metric,
        normalise_ensemble=inputs.normalise_ensemble,
    )
    return {"cler": found.cler, "cler_ensemble": found.cler_ensemble}


CLER = Metric(
    name="cler",
    heading="CLER",
    unit="share",
    higher_is_better=True,
    compute=compute,
    in_tradeoff=True,
    is_proxy=True,
)
CLER_ENSEMBLE = Metric(
    name="cler_ensemble",
    heading="CLER ensemble",
    unit="share",
    higher_is_better=True,
    compute=compute,
    timing="cler",
    in_tradeoff=True,
    is_proxy=True,
)
