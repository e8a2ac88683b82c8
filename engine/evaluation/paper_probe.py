"""The linear probe as GenBench's toolkit trains it: SGD on a BatchNorm and a head that starts from the text embeddings.

The paper says no more than "linear probing" (section 2.4). The settings are those of the toolkit that it builds on, ELEVATER
(github.com/Computer-Vision-in-the-Wild/Elevater_Toolkit_IC, its copy in github.com/Luodian/GenBench; read 2026-11): BatchNorm without affine
parameters, head started from the text embeddings with bias 0 and logit scale 1, cross entropy (binary cross entropy for VOC), SGD with momentum 0.9, batches
of 64, a constant learning rate; 10 epochs for each point of the search on 80 % of the training set, then 50 on all of it. Learning rates
are 10^-6 … 10^-1; for each of them 7 weight decays 10^-6 … 10^6, then finer ones (97 to the same range) around the best, at
half the distance each round.

Where the toolkit leaves something open or is unsound:

- Batch size, epochs and plain momentum are those of its ViT-B/32 configuration for REACT (`react_vitb32_CLIP.yaml`), the one that could be
  read; its defaults, which a configuration overrides, are batches of 32, 100 epochs and Nesterov momentum. That file also names a
  warm-up and a cosine schedule, which the code that trains the probe does not read.
- It keeps the epoch with the best score on the very set that it reports; here the last epoch counts, in the search and at the end.
- Its BatchNorm sees CLIP's raw features; stored embeddings have unit norm, so they are scaled by sqrt(D) to keep the
  BatchNorm's epsilon as small beside them.
- With one shot per class it uses a second one to search on; here nothing is held out, and `DEFAULT_LR` and `DEFAULT_WEIGHT_DECAY`
  (those of its scripts) are used.
- A learning rate and a weight decay whose product is 3.8 or more make the weights diverge for any data
  (heavy-ball: `lr * decay < 2 (1 + momentum)`), so these points are left out.
- It does not say which of equal scores wins; here it is the one with the lowest held-out cross entropy.
"""

from dataclasses import dataclass

import torch

from engine.evaluation.class_scores import DatasetMetric, score_classes
from engine.evaluation.features import unit_norm

LEARNING_RATES: tuple[float, ...] = tuple(10.0**power for power in range(-6, 0))
NUM_WEIGHT_DECAYS = 97
"""From 10^-6 to 10^6 in equal steps of the logarithm."""
COARSE_STEP = 16
"""The search starts with every sixteenth weight decay and ends with neighbours."""
DEFAULT_LR = 0.1
DEFAULT_WEIGHT_DECAY = 1e-6
MOMENTUM = 0.9
BATCH_SIZE = 64
SEARCH_EPOCHS = 10
FINAL_EPOCHS = 50

_EPSILON = 1e-5
"""BatchNorm's."""
_RUNNING_SHARE = 0.1
"""Weight of a batch in BatchNorm's running statistics."""


@dataclass(frozen=True, slots=True)
class Heads:
    """`G` trained heads on one BatchNorm."""

    mean: torch.Tensor
    """`[D]`, BatchNorm's running mean."""
    scale: torch.Tensor
    """`[D]`, root of its running variance and epsilon."""
    weight: torch.Tensor
    """`[D + 1, G, P]`; the last row is the bias."""

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, G, P]` of `scaled` features `[N, D]`."""
        return torch.einsum("nd,dgp->ngp", _with_one((x - self.mean) / self.scale), self.weight)


def weight_decay(index: int) -> float:
    """Weight decay number `index` of the 97."""
    return float(10 ** (-6 + 12 * index / (NUM_WEIGHT_DECAYS - 1)))


def is_stable(learning_rate: float, decay: float) -> bool:
    """Whether SGD with momentum shrinks what the weight decay shrinks."""
    return learning_rate * decay < 2 * (1 + MOMENTUM)


def scaled(features: torch.Tensor) -> torch.Tensor:
    """Features scaled to the norm sqrt(D), which a BatchNorm expects."""
    return unit_norm(features) * features.shape[1] ** 0.5


def train_probe_heads(
    x: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    learning_rates: list[float],
    decays: list[float],
    *,
    epochs: int,
    seed: int,
) -> Heads:
    """Trains one head per (learning rate, weight decay), all `G` at once on the same minibatches.

    `x`: `scaled` features `[N, D]`; `labels`: `[N]` columns (cross entropy), or `[N, P]` of 0 and 1 (binary cross entropy); `start`: `[P, D]`, where every head starts, with bias 0.
    `seed` decides the order of the rows. A last batch of a single row is left out, as with torch's BatchNorm1d. A head that
    diverges ends with weights that are not finite.
    """
    num_rows, dimension = x.shape
    num_heads, num_classes = len(decays), len(start)
    generator = torch.Generator().manual_seed(seed)
    lr = torch.tensor(learning_rates, device=x.device).repeat_interleave(num_classes)
    decay = torch.tensor(decays, device=x.device).repeat_interleave(num_classes)
    # [D + 1, G * P]: one matrix product per step serves all heads
    weight = torch.cat([start.to(x).T, x.new_zeros(1, num_classes)]).repeat(1, num_heads)
    velocity = torch.zeros_like(weight)
    mean, variance = x.new_zeros(dimension), x.new_ones(dimension)
    for _ in range(epochs):
        for rows in torch.randperm(num_rows, generator=generator).to(x.device).split(BATCH_SIZE):
            if len(rows) == 1 and num_rows > 1:
                continue
            batch = x[rows]
            batch_variance, batch_mean = torch.var_mean(batch, dim=0, correction=0)
            inputs = _with_one((batch - batch_mean) / (batch_variance + _EPSILON).sqrt())
            unbiased = batch_variance * (len(rows) / max(len(rows) - 1, 1))
            mean, variance = mean.lerp(batch_mean, _RUNNING_SHARE), variance.lerp(unbiased, _RUNNING_SHARE)
            logits = (inputs @ weight).view(len(rows), num_heads, num_classes)
            if labels.ndim == 2:  # the mean of the binary cross entropies is over images and classes
                residual = (logits.sigmoid() - labels[rows].unsqueeze(1)) / num_classes
            else:
                residual = logits.softmax(dim=2)
                residual[torch.arange(len(rows), device=x.device), :, labels[rows]] -= 1
            velocity.mul_(MOMENTUM).addcmul_(weight, decay)
            velocity.addmm_(inputs.T, residual.view(len(rows), -1), alpha=1 / len(rows))
            weight.addcmul_(velocity, lr, value=-1)
    return Heads(mean, (variance + _EPSILON).sqrt(), weight.view(dimension + 1, num_heads, num_classes))


@dataclass(frozen=True, slots=True)
class ProbeChoice:
    """The best hyper-parameters of the search."""

    learning_rate: float
    weight_decay: float
    validation_score: float
    num_tried: int
    """Heads trained."""


def search(
    x: torch.Tensor,
    labels: torch.Tensor,
    held_out: torch.Tensor,
    start: torch.Tensor,
    *,
    metric: DatasetMetric,
    seed: int,
) -> ProbeChoice:
    """The best (learning rate, weight decay) by the score on the rows `held_out` `[N] bool`; others as `train_probe_heads`.

    The whole coarse grid is one batch, and so is each of the four finer rounds over all learning rates.
    """
    best: dict[int, tuple[float, float, int]] = {}  # learning rate → (score, -loss, index of the weight decay)
    num_tried = 0

    def try_all(points: list[tuple[int, int]]) -> None:
        nonlocal num_tried
        points = [(rate, index) for rate, index in points if is_stable(LEARNING_RATES[rate], weight_decay(index))]
        rates = [LEARNING_RATES[rate] for rate, _ in points]
        decays = [weight_decay(index) for _, index in points]
        num_tried += len(points)
        heads = train_probe_heads(
            x[~held_out], labels[~held_out], start, rates, decays, epochs=SEARCH_EPOCHS, seed=seed
        )
        logits = heads.logits(x[held_out])
        truth = labels[held_out]
        counted: DatasetMetric = "accuracy" if metric == "roc_auc" and len(truth.unique()) < 2 else metric
        for number, (rate, index) in enumerate(points):
            each = logits[:, number]
            if not torch.isfinite(each).all():
                continue
            score = score_classes(each, truth, metric=counted)
            loss = float(
                torch.nn.functional.binary_cross_entropy_with_logits(each, truth.float())
                if truth.ndim == 2
                else torch.nn.functional.cross_entropy(each, truth)
            )
            best[rate] = max(best.get(rate, (-1.0, 0.0, 0)), (score, -loss, index))

    every_rate = range(len(LEARNING_RATES))
    try_all([(rate, index) for rate in every_rate for index in range(0, NUM_WEIGHT_DECAYS, COARSE_STEP)])
    step = COARSE_STEP // 2
    while step:
        try_all(
            [
                (rate, found[2] + side)
                for rate, found in best.items()
                for side in (-step, step)
                if 0 <= found[2] + side < NUM_WEIGHT_DECAYS
            ]
        )
        step //= 2
    rate = max(best, key=lambda each: best[each][:2])
    score, _, index = best[rate]
    return ProbeChoice(LEARNING_RATES[rate], weight_decay(index), score, num_tried)


def _with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
