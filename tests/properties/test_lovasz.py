"""Properties of the Lovász hinge, whatever the voxels."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedseg_large.training.loss.lovasz import lovasz_hinge

Voxels = list[tuple[float, bool, int]]
COUNT = 4

voxels = st.lists(
    st.tuples(
        st.floats(-2, 2, width=32),
        st.booleans(),
        st.integers(0, COUNT - 1),
    ),
    min_size=1,
    max_size=40,
)


def tensors(drawn: Voxels) -> tuple[Tensor, Tensor, Tensor]:
    logits, inside, instances = zip(*drawn, strict=True)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(inside), torch.tensor(instances)


def hinge(drawn: Voxels) -> Tensor:
    return lovasz_hinge(*tensors(drawn), COUNT)


@given(voxels, st.randoms(use_true_random=False))
def test_the_order_of_voxels_does_not_matter(drawn: Voxels, random: st.DataObject) -> None:
    shuffled = drawn.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    torch.testing.assert_close(hinge(shuffled), hinge(drawn))


@given(voxels)
def test_a_loss_lies_between_none_and_the_largest_error(drawn: Voxels) -> None:
    logits, inside, instances = tensors(drawn)
    errors = torch.where(inside, 1 - logits, 1 + logits).clamp(min=0)
    for k, loss in enumerate(hinge(drawn)):
        largest = errors[instances == k].max() if (instances == k).any() else 0
        assert 0 <= loss <= largest + 1e-12


@given(voxels)
def test_voxels_outside_below_every_error_of_the_mask_do_not_count(drawn: Voxels) -> None:
    logits, inside, instances = tensors(drawn)
    errors = torch.where(inside, 1 - logits, 1 + logits)
    least = torch.full((COUNT,), torch.inf, dtype=errors.dtype)
    least = least.scatter_reduce(0, instances[inside], errors[inside], "amin")
    kept = inside | (errors >= least[instances])
    fewer = lovasz_hinge(logits[kept], inside[kept], instances[kept], COUNT)
    torch.testing.assert_close(fewer, hinge(drawn))
