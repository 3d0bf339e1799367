"""Clean masks: drop loose pieces of an instance and fill its holes.

1. *Pieces* are connected by faces, edges and corners. The largest is kept (ties: the one with the
first voxel in raster order); the others become background. 2. A *hole* consists of voxels enclosed
by an instance: voxels of other labels from which no path over faces leads out of its bounding box.
A cavity that is open at the border of the volume is therefore not a hole. Background in a hole is
assigned to the instance, including dropped loose pieces; voxels of other instances keep their
labels. Of two instances that enclose a voxel, the one with the smaller hole, which lies within the
other's, gets it.

Both are decided for the whole instance, so tiles leave no trace: `changes_of` computes the changes
of some instances from an array that contains them completely, and `apply` applies them to any part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError

Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """What is cleaned."""

    keep_largest_piece: bool = False
    """Whether only the largest connected piece of each instance is kept."""

    fill_holes: bool = False
    """Whether background enclosed by one instance becomes part of it."""

    def __bool__(self) -> bool:
        return self.keep_largest_piece or self.fill_holes


class Changes(NamedTuple):
    """Changes of some instances; d voxels dropped, e voxels enclosed."""

    dropped: NDArray[np.int64]
    """(d,) positions of voxels of loose pieces in the raveled array."""
    enclosed: NDArray[np.int64]
    """(e,) positions of voxels that an instance encloses, of any label."""
    numbers: NDArray[np.int64]
    """(e,) the enclosing instance."""
    holes: NDArray[np.int64]
    """(e,) size of the hole they lie in, in voxels."""
    pieces: int
    """Number of dropped pieces."""
    instances: int
    """Number of instances that lose pieces."""


def clean(
    labels: NDArray[Any], keep_largest_piece: bool = True, fill_holes: bool = True
) -> NDArray[Any]:
    """Drop loose pieces of instances, and fill the holes in them.

    Parameters
    ----------
    labels
        ``(*spatial)`` integers, 2D or 3D, 0 for background; not changed.
    keep_largest_piece
        Keep only the largest piece of each instance. Voxels of a piece are connected by faces,
        edges and corners; of equally large pieces, the one with the first voxel in raster order is
        kept.
    fill_holes
        Assign background that is enclosed by one instance, so that no path over faces leads out, to
        that instance. Cavities that are open at the border of the array are not filled. Applied
        after `keep_largest_piece`.

    Returns
    -------
    An array with the dtype and shape of `labels`. Every instance remains, with its label.

    Raises
    ------
    UsageError
        If labels are not integers.
    """
    if labels.dtype.kind not in "bui":
        raise UsageError(f"labels are {labels.dtype}; pass integers")
    settings = CleanSettings(keep_largest_piece=keep_largest_piece, fill_holes=fill_holes)
    names = np.unique(labels[labels != 0])
    numbers = np.where(labels == 0, 0, np.searchsorted(names, labels) + 1).astype(np.int32)
    changes = changes_of(numbers, settings)
    apply(numbers, changes)
    cleaned: NDArray[Any] = np.concatenate([np.zeros(1, labels.dtype), names])[numbers]
    return cleaned


def changes_of(numbers: NDArray[np.integer[Any]], settings: CleanSettings) -> Changes:
    """Compute the changes of instances.

    Parameters
    ----------
    numbers
        ``(*region)`` 1..n, each complete; 0 elsewhere.
    settings
        What is cleaned.
    """
    dropped, enclosed, inside, holes = ([np.empty(0, np.int64)] for _ in range(4))
    pieces = instances = 0
    for number, box in enumerate(ndimage.find_objects(numbers) if numbers.size else [], 1):
        if box is None:
            continue
        own, loose, count = _largest(numbers[box] == number, settings)
        if count:
            dropped.append(_positions(loose, box, numbers.shape))
            pieces, instances = pieces + count, instances + 1
        if settings.fill_holes:
            within, sizes = _holes(own)
            enclosed.append(_positions(within, box, numbers.shape))
            inside.append(np.full(sizes.size, number))
            holes.append(sizes)
    parts = [np.concatenate(part) for part in (dropped, enclosed, inside, holes)]
    return Changes(parts[0], parts[1], parts[2], parts[3], pieces, instances)


def cut_by(
    numbers: NDArray[np.integer[Any]], open_faces: Sequence[tuple[bool, bool]], count: int
) -> NDArray[np.bool_]:
    """Find the instances that reach a face of an array behind which the volume continues.

    Parameters
    ----------
    numbers
        ``(*region)`` 1..count, 0 for background.
    open_faces
        For each axis, whether there is more below the low and above the high face.
    count
        Number of instances.

    Returns
    -------
    ``(count + 1,)``; the first, background, is not cut.
    """
    cut = np.zeros(count + 1, np.bool_)
    for axis, (low, high) in enumerate(open_faces):
        if low:
            cut[np.take(numbers, 0, axis)] = True
        if high:
            cut[np.take(numbers, -1, axis)] = True
    cut[0] = False
    return cut


def apply(labels: NDArray[Any], changes: Changes) -> NDArray[Any]:
    """Apply changes in place.

    Parameters
    ----------
    labels
        ``(*region)`` contiguous, with the `numbers` of the changes, or with names that replaced
        them; positions refer to this array.
    changes
        Changes of all instances with voxels there.

    Returns
    -------
    ``(f,)`` the instance to which each filled voxel was assigned.
    """
    flat = labels.reshape(-1)
    flat[changes.dropped] = 0
    free = np.flatnonzero(flat[changes.enclosed] == 0)
    at, numbers = changes.enclosed[free], changes.numbers[free]
    order = np.lexsort((numbers, changes.holes[free], at))
    at, first = np.unique(at[order], return_index=True)  # for each voxel, the smallest hole
    filled: NDArray[Any] = numbers[order][first]
    flat[at] = filled
    return filled


def _largest(
    own: NDArray[np.bool_], settings: CleanSettings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Split an instance into its largest piece and the rest, with the number of other pieces."""
    if settings.keep_largest_piece:
        pieces, count = ndimage.label(own, np.ones((3,) * own.ndim))
        if count > 1:
            sizes = np.bincount(pieces.reshape(-1))
            sizes[0] = 0
            in_order = pieces[own]
            kept = in_order[np.argmax(sizes[in_order] == sizes.max())]
            return pieces == kept, own & (pieces != kept), count - 1
    return own, np.zeros_like(own), 0


def _holes(own: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find the voxels that an instance encloses in its bounding box, and the sizes of their holes.

    Sizes are in raster order of the voxels.
    """
    regions, _ = ndimage.label(np.pad(~own, 1, constant_values=True))  # over faces
    regions = regions[(slice(1, -1),) * own.ndim]
    within = regions > 1  # the first region holds the first voxel, which is outside
    sizes = np.bincount(regions.reshape(-1))
    return within, sizes[regions[within]]


def _positions(mask: NDArray[np.bool_], box: Slices, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions of the voxels of a box's mask in the raveled array."""
    at = tuple(a + s.start for a, s in zip(np.nonzero(mask), box, strict=True))
    positions: NDArray[np.int64] = np.ravel_multi_index(at, shape)
    return positions
