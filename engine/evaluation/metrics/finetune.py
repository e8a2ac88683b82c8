"""The accuracy of CLIP's image tower fine-tuned on the images; the study computes it, since it needs pixels."""

from engine.evaluation.metrics.metric import Metric

FINETUNE = Metric(name="finetune", heading="Fine-tuned", unit="share", higher_is_better=True, in_tradeoff=True)
