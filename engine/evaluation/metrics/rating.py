"""Human ratings of images (RealRAG sections 4.3 and A.3); `engine.evaluation.rating` computes them from answers."""

from engine.evaluation.metrics.metric import Metric

MEAN_RATING = Metric(name="mean_rating", heading="Mean rating (1 to 7)", unit="points", higher_is_better=True)
JUDGED_REAL = Metric(name="judged_real", heading="Judged real", unit="share", higher_is_better=True)
