"""Test-time augmentation: the mean of what the network says about an image turned every way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from embedseg_large.embedding import turned_channels
from embedseg_large.symmetry import SignedPermutation

Forward = Callable[[Tensor], Tensor]
Each = Callable[
    [Callable[[SignedPermutation], Tensor], Iterable[SignedPermutation]], Iterator[Tensor]
]


def turn(tensor: Tensor, p: SignedPermutation) -> Tensor:
    """Turn a tensor about its last axes, like `SignedPermutation.apply`, into a copy."""
    leading = tensor.ndim - p.ndim
    turned = tensor.permute(*range(leading), *(leading + d for d in p.axes))
    return turned.flip([leading + d for d, flip in enumerate(p.flips) if flip]).contiguous()


def turn_raw(raw: Tensor, p: SignedPermutation) -> Tensor:
    """Turn raw channels ``(2·ndim + 1, *spatial)``: voxels, offset vectors and sigmas."""
    source, sign = turned_channels(p)
    turned = turn(raw[source], p)
    return turned.mul_(raw.new_tensor(sign).view(-1, *(1,) * p.ndim))


@torch.inference_mode()
def mean_raw(
    forward: Forward, image: Tensor, elements: Sequence[SignedPermutation], each: Each
) -> Tensor:
    """Average the raw channels over a group, each turned back before it is added.

    Parameters
    ----------
    forward
        Maps ``(c, *spatial)`` to raw channels ``(2·ndim + 1, *spatial)``, float32.
    image
        float32 ``(c, *spatial)``.
    elements
        The group, in the order in which results are added up.
    each
        How the passes are run: like `map`, it must keep the order.
    """

    @torch.inference_mode()  # is a property of the thread, and `each` may use others
    def turned_pass(p: SignedPermutation) -> Tensor:
        return turn_raw(forward(turn(image, p)), p.inverse)

    results = each(turned_pass, elements)
    total = next(results)
    for raw in results:
        total += raw
    total /= len(elements)
    return total
