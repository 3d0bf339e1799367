"""Clean masks: drop loose pieces of an instance, fill the holes in it.

1. *Pieces* are connected by faces, edges and corners. The largest is kept (ties: that of the first
   voxel in raster order); the others become background.
2. A *hole* is what an instance encloses: voxels that are not its own, from which no walk over faces
   leads out of its bounding box. So a cavity that is open at the border of the volume is no hole.
   Background in it becomes the instance's, loose pieces that were dropped included; voxels of other
   instances stay theirs. Of two instances that enclose a voxel, that with the smaller hole, which
   lies within the other's, gets it.

Both are decided on the whole instance, so that tiles leave no trace: `changes_of` says what becomes
of some instances, from an array that holds them whole, and `apply` makes it so in any part.
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
    """Whether background that one instance encloses becomes its own."""

    def __bool__(self) -> bool:
        return self.keep_largest_piece or self.fill_holes


class Changes(NamedTuple):
    """What becomes of some instances; d voxels dropped, e voxels enclosed."""

    dropped: NDArray[np.int64]
    """(d,) positions of voxels of loose pieces in the raveled array."""
    enclosed: NDArray[np.int64]
    """(e,) positions of voxels that an instance encloses, whosever they are."""
    numbers: NDArray[np.int64]
    """(e,) the instance that does."""
    holes: NDArray[np.int64]
    """(e,) size of the hole they lie in, in voxels."""
    pieces: int
    """Pieces that are dropped."""
    instances: int
    """Instances that lose some."""


def clean(
    labels: NDArray[Any], keep_largest_piece: bool = True, fill_holes: bool = True
) -> NDArray[Any]:
    """Drop loose pieces of instances, and fill the holes in them.

    Parameters
    ----------
    labels
        ``(*spatial)`` integers, 2D or 3D, 0 for background; not changed.
    keep_largest_piece
        Keep only the largest piece of each instance. Pieces are connected by faces, edges and
        corners; of equal ones that of the first voxel in raster order is kept.
    fill_holes
        Give background that one instance encloses, so that no walk over faces leads out, to it.
        Cavities that are open at the border of the array stay. It is done after the first.

    Returns
    -------
    The dtype and shape of `labels`. Every instance stays, under its label.

    Raises
    ------
    UsageError
        When labels are no integers.
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
    """Find what becomes of instances.

    Parameters
    ----------
    numbers
        ``(*region)`` 1..n, each of them whole; 0 for all else.
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
    """Find the instances that reach a face of an array behind which there is more.

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
    """Make changes so, in place.

    Parameters
    ----------
    labels
        ``(*region)`` contiguous, with the `numbers` of the changes, or other names that these were
        replaced by; positions are of this array.
    changes
        Of all instances that have some there.

    Returns
    -------
    ``(f,)`` the instance that each voxel which was filled has gone to.
    """
    flat = labels.reshape(-1)
    flat[changes.dropped] = 0
    free = np.flatnonzero(flat[changes.enclosed] == 0)
    at, numbers = changes.enclosed[free], changes.numbers[free]
    order = np.lexsort((numbers, changes.holes[free], at))
    at, first = np.unique(at[order], return_index=True)  # of each voxel, the smallest hole
    filled: NDArray[Any] = numbers[order][first]
    flat[at] = filled
    return filled


def _largest(
    own: NDArray[np.bool_], settings: CleanSettings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Split an instance into its largest piece and the rest, of so many pieces."""
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
    """Find what an instance encloses in its bounding box, and the size of the hole of each voxel.

    Sizes are in raster order of the voxels.
    """
    regions, _ = ndimage.label(np.pad(~own, 1, constant_values=True))  # over faces
    regions = regions[(slice(1, -1),) * own.ndim]
    within = regions > 1  # the first region holds the first voxel, which is outside
    sizes = np.bincount(regions.reshape(-1))
    return within, sizes[regions[within]]


def _positions(mask: NDArray[np.bool_], box: Slices, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the voxels of a mask of a box are in the raveled array."""
    at = tuple(a + s.start for a, s in zip(np.nonzero(mask), box, strict=True))
    positions: NDArray[np.int64] = np.ravel_multi_index(at, shape)
    return positions
