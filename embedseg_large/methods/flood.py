"""Pieces of a mask, flooded layer by layer: the labels do not depend on the region processed.

::

    1  pieces     connected components of a mask, each named by its most central voxel
    2  layers     voxels of a wider mask take the label of a neighbour, one layer at a time;
                  where several labels compete, the one with the smallest name wins

A flood from a priority queue breaks ties by the order in which voxels were visited, which depends
on where the region begins. Layers and names do not. Since the number of layers is limited, voxels
outside the region can affect only labels near its border: all others are certain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.clustering.cluster import AXES, Clustering, OpenFaces, three_axes
from embedseg_large.stitching.middle import middles, numbered


def flooded(
    pieces: NDArray[np.bool_],
    foreground: NDArray[np.bool_],
    seediness: NDArray[np.float32],
    *,
    layers: int,
    least: int,
    open_faces: OpenFaces,
) -> Clustering:
    """Find pieces of a mask and grow them into the surrounding foreground.

    Parameters
    ----------
    pieces
        ``(*region)``: each component connected by faces is one instance.
    foreground
        ``(*region)``: what an instance may grow into; ignored where there is a piece.
    seediness
        ``(*region)``: 0 to 1; the value at the voxel that names an instance is recorded.
    layers
        How far instances grow, in voxels along the axes.
    least
        Only instances that have, or may have, more voxels than this are kept.
    open_faces
        For each axis: whether the volume continues below the low and above the high face.
    """
    labels, seeds = named_pieces(pieces)
    mask = foreground | pieces
    doubt = _doubt(labels, mask, layers, open_faces)
    grown = flood(labels, mask, layers)
    return settled(grown, seeds, doubt, seediness, least, open_faces)


def named_pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number connected pieces in the raster order of the voxels that name them.

    Returns
    -------
    labels, seeds
        int32 ``(*region)``, 1..n; ``(n,)`` positions in the raveled region, ascending.
    """
    found, count = numbered(ndimage.label(mask)[0])
    middle = middles(found, count)
    order = np.argsort(middle)
    numbers = np.zeros(count + 1, np.int32)
    numbers[order + 1] = np.arange(1, count + 1)
    return numbers[found], middle[order]


def flood(labels: NDArray[np.int32], mask: NDArray[np.bool_], layers: int) -> NDArray[np.int32]:
    """Grow labels into a mask by up to `layers` layers; of several labels the smallest wins."""
    grown = labels.copy()
    _flood(grown.reshape(three_axes(labels.shape)), mask.reshape(three_axes(mask.shape)), layers)
    return grown


@numba.njit(cache=True, nogil=True)
def _flood(
    labels: NDArray[np.int32], mask: NDArray[np.bool_], layers: int
) -> None:  # pragma: no cover - compiled
    shape = labels.shape
    step = (shape[1] * shape[2], shape[2], 1)
    flat, inside = labels.reshape(-1), mask.reshape(-1)
    offered = np.zeros(flat.size, np.int32)
    front = np.flatnonzero(flat)
    for _ in range(layers):
        reached = np.empty(min(2 * AXES * front.size, flat.size), np.int64)
        count = 0
        for i in front:
            for axis in range(AXES):
                at = i // step[axis] % shape[axis]
                for side in (-1, 1):
                    if not 0 <= at + side < shape[axis]:
                        continue
                    j = i + side * step[axis]
                    if flat[j] or not inside[j]:
                        continue
                    if offered[j] == 0:
                        offered[j] = flat[i]
                        reached[count] = j
                        count += 1
                    elif flat[i] < offered[j]:
                        offered[j] = flat[i]
        front = reached[:count]
        if count == 0:
            break
        for j in front:
            flat[j] = offered[j]


def _doubt(
    labels: NDArray[np.int32], mask: NDArray[np.bool_], layers: int, open_faces: OpenFaces
) -> NDArray[np.bool_]:
    """Find voxels whose label could change through voxels beyond open faces, ``(*region)``.

    A piece at such a face may continue beyond it and then has another name. The change spreads from
    there, and from outside the region, by one voxel per layer.
    """
    border = at_open_faces(labels.shape, open_faces)
    cut = np.unique(labels[border])
    unsure = np.isin(labels, cut[cut > 0])
    near = flood(unsure.astype(np.int32), mask, layers) > 0
    if layers:
        near |= flood((border & mask).astype(np.int32), mask, layers - 1) > 0
    return near


def at_open_faces(shape: tuple[int, ...], open_faces: OpenFaces) -> NDArray[np.bool_]:
    """Find voxels of a region at a face beyond which the volume continues."""
    border = np.zeros(shape, np.bool_)
    for axis, faces in enumerate(open_faces[-len(shape) :]):
        for end, is_open in zip((0, -1), faces, strict=True):
            if is_open:
                border[(slice(None),) * axis + (end,)] = True
    return border


def near_open_faces(
    shape: tuple[int, ...], reach: Sequence[int], open_faces: OpenFaces
) -> NDArray[np.bool_]:
    """Find voxels of a region that a voxel beyond an open face could reach or touch."""
    near = np.zeros(shape, np.bool_)
    for axis, (faces, far) in enumerate(zip(open_faces[-len(shape) :], reach, strict=True)):
        every = (slice(None),) * axis
        low, high = faces
        if low:
            near[(*every, slice(0, far + 1))] = True
        if high:
            near[(*every, slice(max(0, shape[axis] - far - 1), None))] = True
    return near


def settled(
    labels: NDArray[np.int32],
    seeds: NDArray[np.int64],
    doubt: NDArray[np.bool_],
    seediness: NDArray[np.float32],
    least: int,
    open_faces: OpenFaces,
) -> Clustering:
    """Drop instances that are too small, and determine which are certain.

    An instance is certain if none of its voxels and none of their neighbours is in doubt: it can
    neither lose nor gain voxels. The size of any other instance is unknown, so all its voxels are
    in doubt, even if it is dropped. An instance at an open face is kept, because it may continue
    beyond it; any other is dropped according to its visible size. Tiles that see different sizes
    disagree and are computed again with a larger halo.

    Parameters
    ----------
    labels
        ``(*region)`` 1..n.
    seeds
        ``(n,)`` positions of the voxels that name the instances.
    doubt
        ``(*region)``: voxels whose label is not certain.
    seediness
        ``(*region)``: 0 to 1.
    least
        Only instances with more voxels than this are kept.
    open_faces
        For each axis: whether the volume continues below the low and above the high face.
    """
    near = ndimage.binary_dilation(doubt) if doubt.any() else doubt
    certain = np.ones(seeds.size + 1, np.bool_)
    certain[labels[near]] = False
    sizes = np.bincount(labels.reshape(-1), minlength=seeds.size + 1)
    kept = sizes > least
    kept[labels[at_open_faces(labels.shape, open_faces)]] = True
    kept[0] = False
    doubt = doubt | (~certain[labels] & (labels > 0))
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    at = seeds[kept[1:]]
    return Clustering(
        labels=numbers[labels],
        seeds=at,
        seediness=seediness.reshape(-1)[at],
        certain=certain[1:][kept[1:]],
        doubtful=np.flatnonzero(doubt),
    )
