"""Test-time augmentation: the mean of the network's outputs for an image in all orientations.

Most of an embryo's surroundings is background, where further orientations only confirm the first:
`embedseg_large.embedding.Quiet` decides when one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.fields import Field, channel_turns, shifted_slices
from embedseg_large.network.memory import Memory
from embedseg_large.symmetry import SignedPermutation

Forward = Callable[[Tensor, Memory], Tensor]
Batch = tuple[SignedPermutation, ...]
Each = Callable[[Callable[[Batch], list[Tensor]], Iterable[Batch]], Iterator[list[Tensor]]]
Enough = Callable[[Tensor], bool]


def turn(tensor: Tensor, p: SignedPermutation, memory: Memory | None = None) -> Tensor:
    """Turn a tensor about its last axes, like `SignedPermutation.apply`, into a copy."""
    leading = tensor.ndim - p.ndim
    shape = (*tensor.shape[:leading], *(tensor.shape[leading + d] for d in p.axes))
    turned = (memory or Memory()).take(tensor, shape)
    _multiply(_turned_view(tensor, p), 1.0, turned)
    return turned


def turn_raw(
    raw: Tensor, fields: Sequence[Field], p: SignedPermutation, memory: Memory | None = None
) -> Tensor:
    """Turn raw channels ``(channels, *spatial)``, as `embedseg_large.fields.turn_fields` does."""
    turned = (memory or Memory()).take(raw, (len(raw), *(raw.shape[1 + d] for d in p.axes)))
    # one channel at a time stays in the cache between reversal and transposition
    for channel, (source, sign, shift) in enumerate(channel_turns(fields, p)):
        if shift is None:
            _multiply(_turned_view(raw[source], p), sign, turned[channel])
        else:
            near, far = shifted_slices(shift, turned.shape[1:])
            turned[channel].zero_()[near] = turn(raw[source], p)[far]
    return turned


def _turned_view(tensor: Tensor, p: SignedPermutation) -> Tensor | NDArray[np.floating]:
    """Turn the last axes; on the CPU as an array, because numpy reverses an axis without a copy."""
    leading = tensor.ndim - p.ndim
    axes = (*range(leading), *(leading + d for d in p.axes))
    if tensor.device.type == "cpu":
        array: NDArray[np.floating] = tensor.numpy().transpose(axes)
        steps = [slice(None, None, -1 if flip else 1) for flip in p.flips]
        return array[tuple([slice(None)] * leading + steps)]
    flipped = [leading + d for d, flip in enumerate(p.flips) if flip]
    return tensor.permute(axes).flip(flipped)


def _multiply(view: Tensor | NDArray[np.floating], factor: float, out: Tensor) -> None:
    if isinstance(view, Tensor):
        torch.mul(view, factor, out=out)
    else:
        np.multiply(view, view.dtype.type(factor), out=out.numpy())


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """Return ``(n, ...)``, without a copy if there is only one."""
    return images[0][None] if len(images) == 1 else torch.stack(list(images))


def batches(
    elements: Iterable[SignedPermutation], shape: Sequence[int], size: int
) -> Iterator[Batch]:
    """Divide a group into batches of at most `size` whose turned images have one shape.

    Parameters
    ----------
    elements
        The group.
    shape
        Spatial shape of the image.
    size
        At least 1. It does not affect the order.
    """

    def turned(p: SignedPermutation) -> tuple[int, ...]:
        return tuple(shape[d] for d in p.axes)

    for _, alike in groupby(sorted(elements, key=turned), key=turned):
        together = tuple(alike)
        yield from (together[i : i + size] for i in range(0, len(together), size))


def _first_alone(planned: Iterator[Batch]) -> Iterator[Batch]:
    """Put the very first element into a batch of its own; the order is kept."""
    first = next(planned)
    yield first[:1]
    if first[1:]:
        yield first[1:]
    yield from planned


@torch.inference_mode()
def mean_raw(
    forward: Forward,
    image: Tensor,
    fields: Sequence[Field],
    elements: Sequence[SignedPermutation],
    each: Each,
    batch: int = 1,
    enough: Enough | None = None,
) -> Tensor:
    """Average the raw channels over a group, each turned back before it is added.

    Everything stays on the device of the image.

    Parameters
    ----------
    forward
        Maps ``(n, c, *spatial)`` to raw channels ``(n, channels, *spatial)``, float32, in memory
        that it may take from the one it is given.
    image
        float32 ``(c, *spatial)``.
    fields
        What the raw channels mean.
    elements
        The group.
    each
        How the passes are run: like `map`, it must keep the order.
    batch
        Maximum number of turned images per pass.
    enough
        Whether the raw channels of the first pass, turned back, need no further ones; they are
        returned then.
    """
    memory = Memory()

    @torch.inference_mode()  # a property of the thread, and `each` may use other threads
    def turned_passes(together: Batch) -> list[Tensor]:
        images = _stacked([turn(image, p, memory) for p in together])
        raws = forward(images, memory)
        pairs = zip(raws, together, strict=True)
        turned = [turn_raw(raw, fields, p.inverse, memory) for raw, p in pairs]
        memory.give(images)
        memory.give(raws)
        return turned

    # added in the same order for any batch size: sums of sums would differ in the last bits
    planned = batches(elements, image.shape[1:], batch)
    if enough is not None and len(elements) > 1:
        planned = _first_alone(planned)
    running = each(turned_passes, planned)
    results = chain.from_iterable(running)
    total = next(results)
    if enough is not None and enough(total):
        close = getattr(running, "close", None)  # planned passes never start
        if close is not None:
            close()
        return total
    for raw in results:
        total += raw
        memory.give(raw)
    total /= len(elements)
    return total
