"""Histograms of intensities that add up, and what is derived from them; arrays only.

Values are numbered by keys in their order: integers of 8 and 16 bits by themselves, other types by
the 32 bits of their float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 2**16
_STEP = 2**18  # voxels counted at once: the result of np.bincount stays in the cache
_SIGN = np.uint32(2**31)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Number of voxels by key; only occurring keys are kept.

    Parameters
    ----------
    keys
        Distinct keys in ascending order, uint32, shape (n,).
    counts
        Voxels of each key, int64, shape (n,).
    excluded
        Voxels that were left out.
    """

    keys: NDArray[np.uint32]
    counts: NDArray[np.int64]
    excluded: int = 0

    @property
    def voxels(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())

    def __add__(self, other: Histogram) -> Histogram:
        keys = np.concatenate([self.keys, other.keys])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], np.concatenate([self.counts, other.counts])[order]
        first = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint32(1)))
        total = np.add.reduceat(counts, first) if len(first) else counts
        return Histogram(keys[first], total, self.excluded + other.excluded)

    def at(self, ranks: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Keys of the voxels of these ranks, counted from 0 in ascending order."""
        return self.keys[np.searchsorted(np.cumsum(self.counts), ranks, side="right")]

    def below(self, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
        """How many voxels have a smaller key, for each of these keys."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        return ends[np.searchsorted(self.keys, keys, side="left")]


def is_small(dtype: np.dtype[Any]) -> bool:
    """Whether each value has a bin of its own."""
    return dtype.kind in "bui" and dtype.itemsize <= 2


def _slices(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (values[start : start + _STEP] for start in range(0, values.size, _STEP))


def count_values(values: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Count values (8- and 16-bit integers) or upper halves of keys, over a flat array."""
    counts = np.zeros(_BINS, np.int64)
    for part in _slices(values):
        keys = _keys(part) if is_small(values.dtype) else _keys(part) >> np.uint32(16)
        counts += np.bincount(keys, minlength=_BINS)
    found = np.flatnonzero(counts)
    return found.astype(np.uint32), counts[found]


def count_below(
    values: NDArray[Any], bins: Sequence[int]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Count the full keys whose upper halves are among `bins`, over a flat array."""
    counts = np.zeros((len(bins), _BINS), np.int64)
    for part in _slices(values):
        keys = _keys(part)
        upper = keys >> np.uint32(16)
        for row, key in zip(counts, bins, strict=True):
            row += np.bincount(keys[upper == key] & np.uint32(_BINS - 1), minlength=_BINS)
    rows, lower = np.nonzero(counts)
    keys = (np.asarray(bins, np.uint32)[rows] << np.uint32(16)) | lower.astype(np.uint32)
    return keys, counts[rows, lower]


def _keys(values: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    """Number values by unsigned integers in the same order.

    Floats: the bits of a positive IEEE 754 number ascend with its value, those of a negative one
    descend; so flip the sign bit of the former and all bits of the latter.
    """
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if is_small(values.dtype):
        if values.dtype.kind == "u":
            return values
        return (values.astype(np.int32) - np.iinfo(values.dtype).min).view(np.uint32)
    bits = values.astype(np.float32).view(np.int32)
    flip: NDArray[np.uint32] = (bits >> 31).view(np.uint32) | _SIGN
    return bits.view(np.uint32) ^ flip


def values_of(keys: NDArray[np.uint32], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Turn full keys back into values, float64."""
    if is_small(dtype):
        offset = np.iinfo(dtype).min if dtype.kind == "i" else 0
        return keys.astype(np.float64) + offset
    flip = np.where(keys & _SIGN, _SIGN, ~np.uint32(0))
    return (keys ^ flip).view(np.float32).astype(np.float64)


def interpolate(
    below: NDArray[np.float64], above: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate as `numpy.percentile` does, exact at both ends."""
    step = above - below
    return np.where(weight < 0.5, below + step * weight, above - step * (1 - weight))


def otsu_threshold(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Find the threshold between two classes with the largest variance between them.

    Parameters
    ----------
    values
        (n,) distinct intensities in ascending order, at least two.
    counts
        (n,) voxels of each.

    Returns
    -------
    The middle between the brightest value of one class and the darkest of the other.

    Notes
    -----
    Otsu 1979: the variance between classes of weights w0, w1 and means m0, m1 is
    w0·w1·(m0 - m1)².
    """
    below = np.cumsum(counts).astype(np.float64)
    total = np.cumsum(values * counts)
    above = below[-1] - below[:-1]
    means = total[:-1] / below[:-1] - (total[-1] - total[:-1]) / above
    best = int(np.argmax(below[:-1] * above * means**2))
    return float((values[best] + values[best + 1]) / 2)
