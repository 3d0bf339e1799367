"""The shape of tiles with the least overlap of network inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod

import numpy as np
from numpy.typing import NDArray

from embedseg_large.tiling.axis import STRIDE, balance, count, round_up, total_grown

_LONGEST = 4
"""Maximum length of a core along an axis, as a multiple of the tile's."""


def economical_tile(
    shape: Sequence[int], tile: Sequence[int], context: Sequence[int]
) -> tuple[int, ...]:
    """Return the best core for a volume among those that need no more memory than `tile`.

    A thin stack gets flat, wide tiles, and a volume that is a little wider than a tile is cut along
    one axis instead of three. The result depends only on the arguments.

    Parameters
    ----------
    shape
        Shape of the volume (z, y, x), in voxels.
    tile
        Core of a tile of a large volume; multiples of 8. With its context it is the largest input
        that the network may have.
    context
        Voxels that the network sees on each side of a core.
    """
    axes = [_candidates(*axis) for axis in zip(shape, tile, context, strict=True)]
    largest = prod(t + 2 * c for t, c in zip(tile, context, strict=True))
    regions = _products([region for _, region, _ in axes])
    seen = _products([ratio for _, _, ratio in axes])
    best = np.argmin(np.where(regions <= largest, seen, np.inf))
    chosen = np.unravel_index(int(best), seen.shape)
    return tuple(int(cores[i]) for (cores, _, _), i in zip(axes, chosen, strict=True))


_Candidates = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _candidates(length: int, tile: int, context: int) -> _Candidates:
    """List possible cores along an axis, longest first, with region length and input per voxel.

    Only equal cores are considered; the network pads the far end of an axis to a multiple of its
    stride.
    """
    padded = round_up(length, STRIDE)
    steps = range(STRIDE, min(padded, _LONGEST * tile) + 1, STRIDE)
    cores = sorted({balance(length, step) for step in steps}, reverse=True)
    counts = [count(length, core) for core in cores]
    regions = [
        min(core + min(n - 1, 2) * context, padded) for core, n in zip(cores, counts, strict=True)
    ]
    seen = [
        total_grown(0, n, padded, core, context, padded) / length
        for core, n in zip(cores, counts, strict=True)
    ]
    return np.array(cores, float), np.array(regions, float), np.array(seen)


def _products(factors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return all products with one factor from each array."""
    return reduce(np.multiply.outer, factors)
