"""Randomness that belongs to a place: equal for a voxel however a volume is cut into tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uniform_at(coordinates: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each voxel, a pure function of its global coordinates.

    Parameters
    ----------
    coordinates
        (ndim, n) int64, global, z, y, x.
    seed, stream
        Choose one of many independent functions.
    """
    state = _mix(np.full(coordinates.shape[1], seed, np.uint64) ^ _mix(np.uint64(stream)))
    for axis in coordinates:
        state = _mix(state ^ axis.astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Scramble 64 bits: the step of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = np.atleast_1d(state) + np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
