"""FID: the Fréchet distance between the training and the test images."""

from engine.evaluation.metrics.metric import Metric, MetricInputs


def compute(inputs: MetricInputs) -> dict[str, float | None]:
    """Distance of the two sets of FID features."""
    from engine.evaluation.fid import fid_score

    assert inputs.fid_features is not None, "FID needs its own features"
    return {"fid": fid_score(*inputs.fid_features, of=inputs.fid_name).fid}


FID = Metric(name="fid", heading="FID", unit="distance", higher_is_better=False, compute=compute, is_proxy=True)
