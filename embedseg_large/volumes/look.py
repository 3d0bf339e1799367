"""Whether voxels look like labels or an image, which files other than OME-Zarr do not state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.volumes.volume import Volume

_EDGE = {2: 512, 3: 64}
"""Width of the examined pieces, by the number of spatial axes."""
_PAIRS = 1000
"""Number of neighbours needed for a decision."""
_EQUAL = 0.75
"""Fraction of equal neighbours above 0 in labels, whose objects are 4 voxels wide or more. Noise
makes it far smaller in any image."""


def looks_like_labels(volume: Volume) -> bool:
    """Whether neighbouring voxels are mostly equal where they are not 0, as in labels and masks.

    Examines a few pieces of the first timepoint and channel; False if there is too little evidence.
    """
    if volume.is_labels or volume.dtype.kind == "b":
        return True
    if volume.dtype.kind not in "ui":
        return False
    equal = pairs = 0
    for box in places(volume):
        found = equal_neighbours(voxels_at(volume, box))
        equal, pairs = equal + found[0], pairs + found[1]
    return pairs >= _PAIRS and equal >= _EQUAL * pairs


def voxels_at(volume: Volume, box: Box) -> NDArray[Any]:
    """Read a place of the first timepoint."""
    return volume.read(box, 0 if volume.timepoint is None else None)


def equal_neighbours(voxels: NDArray[Any]) -> tuple[int, int]:
    """Count neighbours along y and x that are equal, and all, where neither is 0."""
    equal = pairs = 0
    for axis in (-1, -2):
        first, second = (np.moveaxis(voxels, axis, 0)[s] for s in (slice(1, None), slice(-1)))
        inside = (first != 0) & (second != 0)
        pairs += int(np.count_nonzero(inside))
        equal += int(np.count_nonzero(inside & (first == second)))
    return equal, pairs


def places(volume: Volume) -> Iterator[Box]:
    """The centre of the volume, and the centres of its halves."""
    shape, edge = volume.spatial_shape, _EDGE[volume.ndim]
    starts = (
        sorted({max(0, min(n * at // 4 - edge // 2, n - edge)) for at in (1, 2, 3)})
        if n > 2 * edge
        else [max(0, n - edge) // 2]
        for n in shape
    )
    for start in product(*starts):
        yield Box(start, tuple(a + edge for a in start)).clip(shape)
