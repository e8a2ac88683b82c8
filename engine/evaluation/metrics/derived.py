"""Numbers that the GenBench studies derive from metrics, shown in the same units."""

from engine.evaluation.metrics.metric import Metric

CLER_CHANGE = Metric(name="cler_change", heading="CLER less zero-shot", unit="share", higher_is_better=True)
IMPROVEMENT = Metric(name="improvement", heading="Gain on zero-shot", unit="share", higher_is_better=True)
EXPECTED = Metric(name="expected", heading="Expected accuracy", unit="share", higher_is_better=True)
MEAN_TEXT_SIMILARITY = Metric(name="mts", heading="Mean text similarity", unit="cosine", higher_is_better=True)
