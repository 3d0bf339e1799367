"""The Lovász hinge extends the Jaccard loss, instance by instance."""

from __future__ import annotations

import torch
from torch import Tensor

from embedseg_large.training.loss.lovasz import lovasz_hinge


def plain_hinge(logits: Tensor, inside: Tensor) -> Tensor:
    """One instance, as the paper writes it: increases of the Jaccard loss along sorted errors."""
    signs = torch.where(inside, 1.0, -1.0)
    errors = 1 - logits * signs
    order = errors.argsort(descending=True)
    mask = inside[order].double()
    both = mask.sum() - mask.cumsum(0)
    either = mask.sum() + (1 - mask).cumsum(0)
    jaccard = 1 - both / either
    increases = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return errors[order].clamp(min=0) @ increases


def some(n: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, generator=generator, dtype=torch.float64)
    inside = torch.rand(n, generator=generator) < 0.3
    inside[:count] = True
    instances = torch.randint(count, (n,), generator=generator)
    instances[:count] = torch.arange(count)
    return logits, inside, instances


def test_all_instances_at_once_are_each_alone() -> None:
    logits, inside, instances = some(500, 7)
    found = lovasz_hinge(logits, inside, instances, 7)
    for k in range(7):
        mine = instances == k
        torch.testing.assert_close(found[k], plain_hinge(logits[mine], inside[mine]))


def test_wholly_wrong_voxels_cost_twice_the_jaccard_loss() -> None:
    inside = torch.tensor([True, True, True, False, False, False])
    predicted = torch.tensor([True, False, True, True, False, False])
    logits = torch.where(predicted, 1.0, -1.0)
    loss = lovasz_hinge(logits, inside, torch.zeros(6, dtype=torch.long), 1)
    torch.testing.assert_close(loss, torch.tensor([2 * (1 - 2 / 4)]))


def test_voxels_that_are_right_by_the_margin_cost_nothing() -> None:
    inside = torch.tensor([True, False])
    loss = lovasz_hinge(torch.tensor([1.5, -3.0]), inside, torch.zeros(2, dtype=torch.long), 1)
    assert loss.item() == 0


def test_an_empty_mask_has_no_loss() -> None:
    inside = torch.tensor([True, False, False])
    instances = torch.tensor([0, 1, 1])
    loss = lovasz_hinge(torch.tensor([0.0, 1.0, 2.0]), inside, instances, 3)
    assert loss.tolist() == [1, 0, 0]


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits, inside, instances = some(60, 4)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lovasz_hinge(x, inside, instances, 4), logits)


def test_the_weights_of_float32_are_those_of_float64() -> None:
    logits, inside, instances = some(20_000, 3)
    exact = logits.clone().requires_grad_()
    rounded = logits.float().requires_grad_()
    (fine,) = torch.autograd.grad(lovasz_hinge(exact, inside, instances, 3).sum(), exact)
    (found,) = torch.autograd.grad(lovasz_hinge(rounded, inside, instances, 3).sum(), rounded)
    away = (1 - logits.abs()).abs() > 1e-3  # from the kink of the hinge
    torch.testing.assert_close(found[away].double(), fine[away], rtol=1e-3, atol=0)
