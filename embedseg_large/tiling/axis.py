"""All arithmetic of tiles, on one axis.

::

    0                                             length   padded
    |---- core 0 ----|---- core 1 ----|---- core 2 --|.....|
               |margin|---- core 1 ----|margin|
               `------- region of core 1 -----'   (clipped to the axis, never invented)

`STRIDE` is the network's stride: prediction tiles begin on its multiples, and only the far end of
an axis is ever padded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIDE = 8
"""The network halves its input three times; `network.settings` has the same, which knows no tiles,
and a test compares them."""


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple that is not below `value`."""
    return -(-value // multiple) * multiple


def count(length: int, step: int) -> int:
    """Number of cores of `step` voxels that cover an axis."""
    return -(-length // step)


def balance(length: int, step: int, multiple: int = STRIDE) -> int:
    """Core length, at most `step`, that cuts an axis into the same number of nearly equal cores."""
    return min(step, round_up(-(-length // count(length, step)), multiple))


def core(number: int, length: int, step: int) -> tuple[int, int]:
    """Start and stop of core `number`."""
    return number * step, min((number + 1) * step, length)


def span(start: int, stop: int, step: int) -> tuple[int, int]:
    """Half-open range of the cores that share a voxel with ``[start, stop)``."""
    return (start // step, count(stop, step)) if stop > start else (0, 0)


def grown(start: int, stop: int, margin: int, bound: int) -> tuple[int, int]:
    """A core with its margin, clipped to ``[0, bound)``."""
    return max(start - margin, 0), min(stop + margin, bound)


def total_grown(first: int, end: int, length: int, step: int, margin: int, bound: int) -> int:
    """Sum of the lengths of the cores `first` to `end` (exclusive) with their margins.

    By arithmetic: damaged metadata may state an axis of 10^15 voxels.
    """
    top = min(length + margin, bound)
    reached = _clamped((top - margin) // step, first, end)  # cores that do not meet the end
    stops = _sum(first + 1, reached + 1) * step + (reached - first) * margin + (end - reached) * top
    inside = _clamped(-(-margin // step), first, end)  # cores whose margin meets the start
    starts = _sum(inside, end) * step - (end - inside) * margin
    return stops - starts


def _clamped(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _sum(first: int, end: int) -> int:
    """Sum of the integers from `first` to `end`, exclusive."""
    return (end - first) * (first + end - 1) // 2


def padded_sources(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Indices of the axis that hold the values of ``[start, stop)`` of the padded axis.

    The axis is padded once, at its far end, to a multiple of the stride: by reflection without
    repeating the last voxel, or with the last voxel if the axis is too thin to be reflected. This
    depends only on the length of the axis, so every tile sees the same padding.
    """
    index = np.arange(start, stop)
    thin = round_up(length, STRIDE) - length > length - 1
    mirrored = np.full_like(index, length - 1) if thin else 2 * (length - 1) - index
    return np.where(index < length, index, mirrored)
