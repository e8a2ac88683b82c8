"""Multinomial logistic regression for a whole grid of L2 strengths at once."""

from typing import TypeAlias

import torch

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A step `[G, K, P]`, the gradient's change over it, and `1 / (step · change)` `[G]`; 0 for a step not taken."""

MAX_STEPS = 150
TOLERANCE = 1e-4
"""A model has converged when its next step is predicted to lower its loss by less than this share."""
MEMORY = 10
"""Step pairs that L-BFGS keeps."""


def fit_logistic(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    c: torch.Tensor,
    max_steps: int = MAX_STEPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimises `C * sum(cross entropy) + |W|^2 / 2` (the bias free), for every C of the grid `c` `[G]`.

    `features`: `[N, D] float32`; `labels`: `[N]` in `range(num_classes)`, each class at least once. Returns weight
    `[G, D, P]` and bias `[G, P]`: the last iterate of L-BFGS, all C in one batch. A step costs two matrix products for
    the whole grid; each C has its own step length, and leaves the batch once it has converged.

    The weights live in the eigenbasis of the features' covariance. There the Hessian at zero weights is diagonal up to
    the class coupling, `variance / P + 1 / (C N)`, which makes a good first guess of the curvature for every C.
    """
    num_rows = len(features)
    mean = features.mean(dim=0)
    x = features - mean  # a centred design keeps the bias out of the weights' Hessian
    variances, basis = torch.linalg.eigh((x.double().T @ x.double()) / num_rows)
    # directions without variance keep weight zero, since only the L2 term acts on them
    kept = variances > variances.max().clamp(min=1e-12) * 1e-7
    variances, basis = variances[kept].float(), basis[:, kept].float()
    x = torch.cat([x @ basis, torch.ones_like(x[:, :1])], dim=1)  # the bias is the last row of the weights

    l2 = (1.0 / (c.to(x.device) * num_rows)).float().view(-1, 1, 1)  # [G, 1, 1], of the mean loss
    decay = torch.cat([l2.expand(-1, len(variances), 1), torch.zeros_like(l2)], dim=1)  # [G, K, 1]
    curvature = torch.cat([variances, variances.new_ones(1)]).view(1, -1, 1) / num_classes + decay
    weights = _minimise(x, labels, num_classes, decay, 1.0 / curvature, max_steps)

    weight = basis @ weights[:, :-1]
    return weight, weights[:, -1] - torch.einsum("d,gdp->gp", mean, weight)


def _minimise(
    x: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    decay: torch.Tensor,
    inverse_curvature: torch.Tensor,
    max_steps: int,
) -> torch.Tensor:
    """Weights `[G, K, P]` that minimise the mean loss on `x` `[N, K]` plus `decay / 2 * W**2`, by batched L-BFGS."""
    result = x.new_zeros(len(decay), x.shape[1], num_classes)
    models = torch.arange(len(decay), device=x.device)  # those still running; the others leave the batch
    weights, length = torch.zeros_like(result), x.new_ones(len(decay))
    loss, gradient = _loss_and_gradient(x, labels, weights, decay)
    direction = -inverse_curvature * gradient
    pairs: list[Pair] = []
    for _ in range(max_steps):
        slope = _dot(gradient, direction)
        running = -slope > TOLERANCE * loss
        if not running.all():
            result[models] = weights
            models, weights, loss, gradient = models[running], weights[running], loss[running], gradient[running]
            direction, length, slope = direction[running], length[running], slope[running]
            decay, inverse_curvature = decay[running], inverse_curvature[running]
            pairs = [(step[running], change[running], inverse[running]) for step, change, inverse in pairs]
            if not len(models):
                break
        step = length.view(-1, 1, 1) * direction
        new_loss, new_gradient = _loss_and_gradient(x, labels, weights + step, decay)
        # Armijo's condition, with room for the rounding of float32; a model that fails it tries half the step next
        taken = new_loss <= loss + 1e-4 * length * slope + 1e-6 * loss
        length = torch.where(taken, 1.0, length / 2)
        loss = torch.where(taken, new_loss, loss)
        moves = taken.view(-1, 1, 1)
        step, change = step * moves, (new_gradient - gradient) * moves
        product = _dot(step, change)
        pairs = [*pairs[1 - MEMORY :], (step, change, torch.where(product > 0, 1 / product, 0.0))]
        weights, gradient = weights + step, gradient + change
        direction = torch.where(moves, -_two_loops(gradient, pairs, inverse_curvature), direction)
    result[models] = weights
    return result


def _loss_and_gradient(
    x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, decay: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss `[G]` and gradient `[G, K, P]` at weights `[G, K, P]`; `x` is `[N, K]`."""
    num_models, rank, num_classes = weights.shape
    rows = torch.arange(len(x), device=x.device)
    logits = (x @ weights.permute(1, 0, 2).reshape(rank, -1)).view(len(x), num_models, num_classes)
    log_likelihood = logits.log_softmax(dim=2)
    loss = _dot(decay * weights, weights) / 2 - log_likelihood[rows, :, labels].mean(dim=0)
    residual = log_likelihood.exp_()
    residual[rows, :, labels] -= 1
    gradient = (x.T @ residual.view(len(x), -1)).view(rank, num_models, num_classes).permute(1, 0, 2)
    return loss, gradient / len(x) + decay * weights


def _two_loops(gradient: torch.Tensor, pairs: list[Pair], inverse_curvature: torch.Tensor) -> torch.Tensor:
    """L-BFGS's inverse Hessian times the gradient (Nocedal and Wright, Alg. 7.4), model by model.

    A pair whose `1 / (s · y)` is 0 (a step not taken) changes nothing.
    """
    result = gradient
    shares = []
    for step, change, inverse in reversed(pairs):
        share = inverse * _dot(step, result)
        result = result - share.view(-1, 1, 1) * change
        shares.append(share)
    scale = torch.ones_like(shares[0])
    for _, change, inverse in pairs:  # the newest step that was taken sets the scale
        size = _dot(change, inverse_curvature * change)
        scale = torch.where(inverse > 0, 1 / (inverse * size).clamp(min=1e-20), scale)
    result = scale.view(-1, 1, 1) * inverse_curvature * result
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        result = result + (share - inverse * _dot(change, result)).view(-1, 1, 1) * step
    return result


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner product of each model's weights, `[G, K, P] x [G, K, P] → [G]`."""
    return (left * right).sum(dim=(1, 2))
