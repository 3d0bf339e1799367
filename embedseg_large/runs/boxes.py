"""The shape of the boxes in which stored volumes are read, so that few chunks are decoded twice.

A chunk is decoded once for each box that shares a voxel with it. Boxes of whole chunks decode each
of them once. Where the chunks of several volumes do not fit each other, or one is larger than a box
may be, some are decoded more often; memory stays bounded all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

EDGE = {2: 4096, 3: 256}
"""Edge of the boxes that are read at a time, in voxels, by ndim; other boxes are not larger."""

_Floats = NDArray[np.float64]


def box_shape(shape: Sequence[int], chunks: Iterable[Sequence[int] | None]) -> tuple[int, ...]:
    """Choose the shape of boxes, which lie at multiples of it.

    Of the shapes of at most ``EDGE[ndim] ** ndim`` voxels, those that decode the fewest voxels; of
    these, the one with the least surface, since neighbours of a box may be read with it.

    Parameters
    ----------
    shape
        Voxels of the volumes along (z,) y, x.
    chunks
        Shape of the chunks of each volume; None: it is in memory.

    Returns
    -------
    tuple
        Of chunks of 64³ voxels, boxes of 256³; of chunks that are planes of 2000², four planes.
    """
    ndim, sizes = len(shape), [max(n, 1) for n in shape]
    stored = [np.minimum(chunk, sizes).tolist() for chunk in chunks if chunk is not None]
    lengths = [{EDGE[ndim], *(chunk[axis] for chunk in stored)} for axis in range(ndim)]
    edges = [_edges(n, each) for n, each in zip(sizes, lengths, strict=True)]
    voxels = reduce(np.multiply.outer, edges)
    surface = reduce(np.add.outer, [1 / edge for edge in edges])
    decoded = sum((_decoded(edges, chunk, sizes) for chunk in stored), np.zeros(voxels.shape))
    is_too_large = voxels > EDGE[ndim] ** ndim
    best = np.lexsort([table.ravel() for table in (surface, decoded, is_too_large)])[0]
    at: Any = np.unravel_index(best, voxels.shape)
    return tuple(int(edge[i]) for edge, i in zip(edges, at, strict=True))


def _edges(size: int, lengths: Iterable[int]) -> _Floats:
    """Possible edges of a box along an axis: halves and multiples of chunks, and the whole axis."""
    found = {1, size}
    for whole in lengths:
        part = length = whole
        while part > 1:
            found.add(part)
            part = -(-part // 2)
        while length < size:
            found |= {length * 2, length * 3}
            length *= 2
    return np.array(sorted(edge for edge in found if edge <= size), np.float64)


def _decoded(edges: Sequence[_Floats], chunk: Sequence[int], shape: Sequence[int]) -> _Floats:
    """Count the voxels that are decoded of a volume, for each combination of edges of a box."""
    along = [_touched(*each) * each[1] for each in zip(edges, chunk, shape, strict=True)]
    return np.asarray(reduce(np.multiply.outer, along))


def _touched(edges: _Floats, chunk: int, size: int) -> _Floats:
    """Count the pairs of a box and a chunk that share a voxel, along an axis."""
    common = edges * (chunk // np.gcd(edges.astype(np.int64), chunk))  # of both, an end
    pairs = np.ceil(size / edges) + np.ceil(size / chunk) - np.ceil(size / common)
    return np.asarray(pairs)
