"""Memory of large tensors, used again by the passes of one prediction.

The system clears a large new tensor and maps it page by page, which takes longer than many of the
operators that fill it. So what a pass no longer needs is kept for the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

_LARGE = 1 << 20
"""Bytes from which a tensor is worth keeping; the allocator has smaller ones at hand."""


class Memory:
    """Large CPU tensors to be used again, by any thread.

    On a GPU torch's allocator does the same, so tensors there are simply new.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = Lock()

    def take(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a contiguous tensor with arbitrary content.

        Parameters
        ----------
        like
            A tensor of the dtype and on the device wanted.
        shape
            Shape of the result.
        """
        count = math.prod(shape)
        if not _is_kept(like, count):
            return like.new_empty(tuple(shape))
        flat = self._found(count, like.dtype)
        if flat is None:
            flat = like.new_empty(count)
        return flat[:count].view(tuple(shape))

    def take_channels_last(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the same for ``(n, c, *spatial)``, the channels of a voxel adjacent in memory."""
        return self.take(like, (shape[0], *shape[2:], shape[1])).movedim(-1, 1)

    def give(self, tensor: Tensor) -> None:
        """Accept a tensor that nobody reads any more; its whole storage may be used again.

        A network may return its own input, so the same storage may be given twice.
        """
        if not _is_kept(tensor, tensor.numel()):
            return
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        flat = tensor.as_strided((count,), (1,), 0)
        with self._lock:
            if all(flat.data_ptr() != other.data_ptr() for other in self._free):
                self._free.append(flat)

    def _found(self, count: int, dtype: torch.dtype) -> Tensor | None:
        """Remove and return the smallest free tensor that fits, if it is not far too large."""
        with self._lock:
            sizes = {
                n: len(flat)
                for n, flat in enumerate(self._free)
                if flat.dtype == dtype and count <= len(flat) <= 2 * count
            }
            return self._free.pop(min(sizes, key=sizes.__getitem__)) if sizes else None


def _is_kept(like: Tensor, count: int) -> bool:
    return like.device.type == "cpu" and count * like.element_size() >= _LARGE
