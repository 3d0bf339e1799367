"""Ownership: one tile decides for all voxels of an object, and its neighbours follow.

For objects that tiles describe differently at any halo: those of a segmenter that is not quite
local. Tiles take turns, so that neighbours never decide at the same time::

    0 1 0 1     a tile's turn depends on whether its index along each axis is odd or even:
    2 3 2 3     2^ndim turns for any number of tiles
    0 1 0 1

1. A tile may claim the objects that reach into its core and have their middle in it, or in the core
of a tile that had its turn and left them. At first it claims only objects that its region contains
completely. When all tiles have had their turn, each gets a second one for objects that are cut by
its region: an object that some tile sees whole is never divided among others. 2. An object that is
already mostly claimed, within the region of an earlier tile, belongs to that tile: its other voxels
there become background. What lies beyond that region is the same object, of which the earlier tile
saw only a part, and is claimed under its name. 3. Any other object is claimed, except for voxels
that are taken.

An object is therefore never duplicated, and is lost only if the tile that owns it does not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Earlier = tuple[tuple[slice, ...], NDArray[np.uint64]]
"""A part of a region, and the names for which one earlier tile claimed its voxels; 0 for none."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What one tile claims; p pairs of names."""

    ids: NDArray[np.uint64]
    """(*region) the name of the object that each voxel is claimed for; 0 for none."""
    given: NDArray[np.uint64]
    """New names given by this tile, ascending; all others are names of earlier tiles."""
    same: NDArray[np.uint64]
    """(p, 2) names of earlier tiles that turned out to denote one object."""


def turn(index: Sequence[int]) -> int:
    """The turn in which a tile may claim: 0, 1, ... 2^ndim - 1."""
    return sum((place & 1) << axis for axis, place in enumerate(reversed(index)))


def claim(
    labels: NDArray[np.unsignedinteger],
    names: NDArray[np.uint64],
    free: NDArray[np.bool_],
    near: NDArray[np.bool_],
    taken: NDArray[np.uint64],
    earlier: Sequence[Earlier],
) -> Claims:
    """Claim objects of a region, after earlier tiles.

    Parameters
    ----------
    labels
        (*region) the tile's own labels 1..m, 0 for background.
    names
        (m,) name of each object.
    free
        (m,) whether the tile may claim it under a new name, see step 1.
    near
        (m,) whether it reaches into the tile's core.
    taken
        (*region) names that earlier tiles claimed voxels for, 0 for none.
    earlier
        The part of the region that each of them saw, and what it claimed there.
    """
    sizes = np.bincount(labels.reshape(-1), minlength=names.size + 1)
    known_as = np.concatenate([np.zeros(1, np.uint64), names])
    claimable, close = (np.concatenate([np.zeros(1, np.bool_), flags]) for flags in (free, near))
    left = taken == 0
    matched = np.zeros(known_as.size, np.bool_)
    same: list[tuple[int, int]] = []
    for part, theirs in earlier:
        match = _mostly_taken(labels[part], theirs, names.size)
        left[part] &= ~match.covered[labels[part]]
        beyond = match.covered & (match.inside < sizes)
        for own in np.flatnonzero(beyond).tolist():
            if matched[own] and known_as[own] != match.partner[own]:
                same.append((int(known_as[own]), int(match.partner[own])))
            matched[own] = True
            known_as[own] = match.partner[own]
            claimable[own] = close[own]
    ids = np.where(left, np.where(claimable, known_as, np.uint64(0))[labels], np.uint64(0))
    found = np.unique(ids)
    given = found[np.isin(found, names) & ~np.isin(found, np.unique(taken)) & (found > 0)]
    return Claims(ids, given, np.array(same, np.uint64).reshape(-1, 2))


@dataclass(frozen=True, slots=True)
class _Match:
    """Voxels of each label that are taken in a part of the region; (m + 1,), background first."""

    inside: NDArray[np.int64]
    covered: NDArray[np.bool_]
    partner: NDArray[np.uint64]
    """For labels that are mostly taken, the name that has the largest part; ties go to the
    smallest."""


def _mostly_taken(
    labels: NDArray[np.unsignedinteger], taken: NDArray[np.uint64], count: int
) -> _Match:
    labels, taken = labels.reshape(-1), taken.reshape(-1)
    inside = np.bincount(labels, minlength=count + 1)
    both = np.flatnonzero((labels > 0) & (taken > 0))
    covered = 2 * np.bincount(labels[both], minlength=count + 1) > inside
    covered[0] = False
    others, other = np.unique(taken[both], return_inverse=True)
    pairs, overlap = np.unique(
        labels[both].astype(np.int64) * others.size + other, return_counts=True
    )
    own, at = np.divmod(pairs, max(1, others.size))
    order = np.lexsort((at, -overlap, own))
    mine, first = np.unique(own[order], return_index=True)
    partner = np.zeros(count + 1, np.uint64)
    partner[mine] = others[at[order][first]]
    return _Match(inside, covered, partner)
