"""Eq. 7 and 8 against plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from engine.retriever.loss import reflective_loss


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def plain_loss(queries, images, classes, reflective, present, tau, divide) -> torch.Tensor:
    """Eq. 8 as a person would write it down."""
    losses = []
    for b, query in enumerate(queries):
        positive = math.e ** (query @ images[b] / tau)
        normal = sum(math.e ** (query @ images[j] / tau) for j in range(len(images)) if classes[j] != classes[b])
        hard = [reflective[b, k] for k in range(reflective.shape[1]) if present[b, k]]
        mirrored = sum(math.e ** (query @ vector / (tau if divide else 1)) for vector in hard)
        losses.append(-torch.log(positive / (positive + normal + mirrored)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("divide", [True, False])
def test_values_and_gradients_are_those_of_a_plain_loop(divide: bool):
    queries, images, reflective = unit(6, 8), unit(6, 8, seed=1), unit(6, 3, 8, seed=2)
    classes = torch.tensor([0, 1, 0, 2, 1, 0])
    present = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]]).bool()
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    our_hard, their_hard = (reflective.clone().requires_grad_() for _ in range(2))
    loss = reflective_loss(
        queries, ours, classes, our_hard, present, temperature=0.07, temperature_on_reflective=divide
    )
    expected = plain_loss(queries, theirs, classes, their_hard, present, 0.07, divide)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(our_hard.grad, their_hard.grad)


def test_without_reflective_negatives_it_is_the_normal_loss():
    queries, images = unit(4, 8), unit(4, 8, seed=1)
    classes = torch.arange(4)
    expected = F.cross_entropy(queries @ images.T / 0.1, classes)
    nothing = torch.zeros(4, 2, dtype=torch.bool)
    torch.testing.assert_close(reflective_loss(queries, images, classes, temperature=0.1), expected)
    torch.testing.assert_close(
        reflective_loss(queries, images, classes, unit(4, 2, 8), nothing, temperature=0.1), expected
    )


def test_images_of_one_class_are_not_each_others_negatives():
    queries, images = unit(2, 8), unit(2, 8, seed=1)
    assert float(reflective_loss(queries, images, torch.tensor([3, 3]), temperature=0.07)) == 0


def test_as_printed_the_reflective_term_is_a_near_no_op():
    """A negative that is nearer than the positive: with the temperature it rules the loss, as printed it hardly counts."""
    queries = F.normalize(torch.ones(4, 8), dim=-1)
    images = F.normalize(torch.ones(4, 8) + unit(4, 8).float(), dim=-1)
    classes = torch.arange(4)

    def push(divide: bool) -> float:
        hard = queries.unsqueeze(1).clone().requires_grad_()
        reflective_loss(queries, images, classes, hard, temperature=0.07, temperature_on_reflective=divide).backward()
        return float(hard.grad.norm())

    assert push(True) > 1000 * push(False) > 0


def test_the_mean_over_workers_is_the_loss_of_the_whole_batch():
    queries, images, reflective = unit(6, 8), unit(6, 8, seed=1), unit(6, 2, 8, seed=2)
    classes = torch.tensor([0, 1, 0, 2, 1, 0])
    whole = reflective_loss(queries, images, classes, reflective, temperature=0.07)
    parts = [
        reflective_loss(queries[s : s + 3], images, classes, reflective[s : s + 3], temperature=0.07, first=s)
        for s in (0, 3)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)
