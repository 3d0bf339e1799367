"""Name objects of an external segmenter by their most central voxel.

EmbedSeg's instances have a seed voxel; objects of an external segmenter are mere sets of voxels.
The voxel nearest to the centroid serves the same purpose: two tiles that see the same object find
the same voxel, wherever their regions begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRACTION = 8
"""Centroids are rounded down to this fraction of a voxel, so that all arithmetic uses integers."""


def numbered(
    labels: NDArray[Any], least: int = 0, open_faces: Sequence[tuple[bool, bool]] = ()
) -> tuple[NDArray[np.uint32], int]:
    """Renumber labels 1..m in ascending order, dropping those with `least` voxels or fewer.

    Parameters
    ----------
    labels
        Integers of at least 0, any shape; 0 for background.
    least
        Objects have more voxels than this.
    open_faces
        Per axis: whether the volume continues below the low face and above the high face. Objects
        that reach such a face are kept, because they may be larger than the visible part.

    Returns
    -------
    uint32 of that shape, and m.
    """
    values, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (values > 0) & ((sizes > least) | np.isin(values, _at(open_faces, labels)))
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    return numbers[place].reshape(labels.shape), int(np.count_nonzero(kept))


def _at(open_faces: Sequence[tuple[bool, bool]], labels: NDArray[Any]) -> NDArray[Any]:
    """Return the labels that occur at some faces of an array."""
    at = [np.empty(0, labels.dtype)]
    for axis, (low, high) in enumerate(open_faces):
        at += [
            np.unique(np.take(labels, end, axis))
            for end, is_open in ((0, low), (-1, high))
            if is_open
        ]
    return np.concatenate(at)


def middles(labels: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    """Find the voxel of each object that is closest to its centroid.

    Parameters
    ----------
    labels
        1..count, each of which occurs; 0 for background.
    count
        Number of objects.

    Returns
    -------
    (count,) positions in the raveled array. If several are equally close, the first one is used.
    The result moves with the objects: it does not depend on the shape or origin of the array.
    """
    at = np.flatnonzero(labels)
    number = labels.reshape(-1)[at].astype(np.int64) - 1
    sizes = np.bincount(number, minlength=count)
    distance = np.zeros(at.size, np.int64)  # squared, in fractions
    for coordinate in np.unravel_index(at, labels.shape):
        total = np.bincount(number, coordinate, count).astype(np.int64)  # exact below 2^53
        centre = FRACTION * total // sizes
        distance += (FRACTION * coordinate - centre[number]) ** 2
    nearest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(nearest, number, distance)
    found = np.flatnonzero(distance == nearest[number])
    _, first = np.unique(number[found], return_index=True)
    middle: NDArray[np.int64] = at[found[first]]
    return middle
