"""Compare the results of two tiles for the same seam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEAM_DEPTH = 2
"""Layers of voxels compared on either side of a face."""


@dataclass(frozen=True, slots=True)
class SeamComparison:
    """Two views of one seam; p pairs of ids that lie on each other."""

    voxels: int
    """Voxels compared."""
    disagreeing: int
    """Voxels with different ids."""
    low: NDArray[np.uint64]
    """(p,) id in the view of the tile below; 0 for background."""
    high: NDArray[np.uint64]
    """(p,) id in the view of the tile above."""
    overlap: NDArray[np.int64]
    """(p,) voxels they share. Pairs that agree everywhere are left out."""

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Ids that differ between the two views, ascending."""
        differ = self.low != self.high
        ids = np.unique(np.concatenate([self.low[differ], self.high[differ]]))
        return ids[ids > 0]


def compare(low: NDArray[np.uint64], high: NDArray[np.uint64]) -> SeamComparison:
    """Compare the ids that two tiles assign to the voxels of a seam.

    Parameters
    ----------
    low, high
        Ids of the same voxels, 0 for background, in the view of the tile below and above the face.
    """
    low, high = low.reshape(-1), high.reshape(-1)
    differ = low != high
    disagreeing = int(np.count_nonzero(differ))
    if not disagreeing:
        none = np.empty(0, np.uint64)
        return SeamComparison(low.size, 0, none, none, np.empty(0, np.int64))
    doubtful = np.unique(np.concatenate([low[differ], high[differ]]))
    doubtful = doubtful[doubtful > 0]
    about = np.isin(low, doubtful) | np.isin(high, doubtful)
    pairs, overlap = np.unique(np.stack([low[about], high[about]]), axis=1, return_counts=True)
    return SeamComparison(low.size, disagreeing, pairs[0], pairs[1], overlap)
