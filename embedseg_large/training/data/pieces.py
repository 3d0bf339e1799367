"""The extents of objects, ignoring distant pieces.

Halo, reach and crop of a model follow from the extents of its training objects. Two nuclei under
one number, or a slip of the brush far from its object, must not make them three times too large.
For an object in several connected pieces, only the largest therefore counts.

No piece is longer than its object's bounding box, so hardly any object has to be examined:

1. The object with the longest box along an axis is read, and its extent replaced by that of its
   largest piece.
2. This is repeated until the longest one has been read. It counts fully, however large it is.

The largest extent is then that of the largest pieces of all objects, exactly. Boxes of smaller
objects that were not read may still hold several pieces: they are not unusual.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embedseg_large.geometry import Box
from embedseg_large.training.data.objects import ObjectTable, voxels_of
from embedseg_large.training.data.sources import Pair

WARNINGS = 10
"""Objects in pieces that are named in the log; more are only counted."""

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]


def piece_extents(pairs: Sequence[Pair], objects: ObjectTable) -> Int64:
    """Return the objects' extents; of those that might be the largest, that of their largest piece.

    Objects in pieces that were found are named in warnings of the log.

    Parameters
    ----------
    pairs, objects
        The training data and their table, which holds at least one object.

    Returns
    -------
    int64 ``(n, ndim)``: voxels along (z,) y, x.
    """
    extents = objects.extents
    read = np.zeros(len(objects), np.bool_)
    fragmented = []
    for axis in range(extents.shape[1]):
        while not read[row := int(extents[:, axis].argmax())]:
            read[row] = True
            boxes = _boxes_of_pieces(pairs[objects.images[row]], objects, row)
            extents[row] = boxes[0].shape
            if len(boxes) > 1:
                fragmented.append((row, boxes))
    for row, boxes in fragmented[:WARNINGS]:
        _warn(pairs[objects.images[row]], objects, row, boxes)
    if len(fragmented) > WARNINGS:
        logger.warning("%d more objects are in several pieces", len(fragmented) - WARNINGS)
    return extents


def pieces(coordinates: Int64) -> Int64:
    """Number the connected pieces of a set of voxels, which touch by a face, an edge or a corner.

    Parameters
    ----------
    coordinates
        ``(n, ndim)``, each voxel once, in raster order.

    Returns
    -------
    int64 ``(n,)``: the piece of each voxel, 0, 1, ...
    """
    low, high = coordinates.min(axis=0) - 1, coordinates.max(axis=0) + 2
    spans = tuple((high - low).tolist())  # with a margin, so that no row continues in the next
    keys = np.ravel_multi_index(tuple((coordinates - low).T), spans)
    piece, count = np.arange(len(keys)), len(keys)
    for step in _steps(spans):
        at = np.searchsorted(keys, keys + step)
        touch = np.flatnonzero(keys[np.minimum(at, len(keys) - 1)] == keys + step)
        links = (np.ones(len(touch), np.bool_), (piece[touch], piece[at[touch]]))
        count, merged = connected_components(coo_array(links, (count, count)), directed=False)
        piece = merged[piece]
    return piece.astype(np.int64)


def _steps(spans: Sequence[int]) -> Iterator[int]:
    """Yield the distances in raster order to the neighbours behind a voxel, the next one first."""
    strides = [int(np.prod(spans[axis + 1 :])) for axis in range(len(spans))]
    for offset in product((0, 1, -1), repeat=len(spans)):
        if offset > (0,) * len(spans):
            yield sum(a * b for a, b in zip(offset, strides, strict=True))


def _boxes_of_pieces(pair: Pair, objects: ObjectTable, row: int) -> list[Box]:
    """Return the bounding boxes of an object's pieces, that of most voxels first."""
    voxels = voxels_of(pair, int(objects.ids[row]), objects.box(row))
    piece = pieces(voxels)
    order = np.argsort(piece, kind="stable")
    first = np.flatnonzero(np.diff(piece[order], prepend=-1))
    starts = np.minimum.reduceat(voxels[order], first)
    stops = np.maximum.reduceat(voxels[order], first) + 1
    by_size = np.argsort(-np.bincount(piece), kind="stable")
    return [Box(tuple(starts[k].tolist()), tuple(stops[k].tolist())) for k in by_size]


def _warn(pair: Pair, objects: ObjectTable, row: int, boxes: Sequence[Box]) -> None:
    logger.warning(
        "%s: %s %d is in %d pieces in %s; check whether it is one object: only the largest piece, "
        "in %s, counts for halo and crop",
        pair.where,
        "plane" if pair.stacked else "label",
        int(objects.ids[row]),
        len(boxes),
        objects.box(row),
        boxes[0],
    )
