"""The last resort: join by overlap the objects that tiles could not agree on.

Only objects larger than the largest halo get here. Each of the two views of a seam has its own
name for such an object; names are joined when one lies mostly on the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embedseg_large.stitching.tile_result import SeamComparison


@dataclass(frozen=True, slots=True)
class Joins:
    """Names that stand for the same object."""

    ids: NDArray[np.uint64]
    """(j,) names that are replaced, ascending."""
    representative: NDArray[np.uint64]
    """(j,) the replacement of each: the smallest name of its object."""

    @classmethod
    def none(cls) -> Joins:
        """No names are replaced."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.uint64))

    def apply(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Replace every name by the one that represents it."""
        if self.ids.size == 0 or ids.size == 0:
            return ids
        at = np.minimum(np.searchsorted(self.ids, ids), self.ids.size - 1)
        return np.where(self.ids[at] == ids, self.representative[at], ids)

    def among(self, alive: NDArray[np.uint64]) -> Joins:
        """The same for those of its names that own a voxel, which are given ascending."""
        _, first, group = np.unique(self.apply(alive), return_index=True, return_inverse=True)
        representative = alive[first[group]]
        replaced = alive != representative
        return Joins(alive[replaced], representative[replaced])


def join(
    comparisons: Iterable[SeamComparison],
    proven: NDArray[np.uint64] | None = None,
    complete: NDArray[np.uint64] | None = None,
) -> Joins:
    """Join the names that lie mostly on each other in seams that disagree.

    An id is tied to the id of the other view that covers most of it, unless that is itself or
    background. Ties of equal overlap go to the smaller id. Connected components are joined.

    Parameters
    ----------
    comparisons
        Comparisons of the seams.
    proven
        Names in cores that equal those of the whole volume, and which therefore denote different
        objects: no two of them are joined, and whatever is joined with one takes its name. Pairs
        with the largest overlap are joined first.
    complete
        Names of which every voxel is known: nothing is joined with them.
    """
    edges = [
        edge
        for c in comparisons
        for edge in (_best(c.low, c.high, c.overlap), _best(c.high, c.low, c.overlap))
    ]
    if not edges:
        return Joins.none()
    a, b, overlap = (np.concatenate(side) for side in zip(*edges, strict=True))
    if complete is not None:
        kept = ~np.isin(a, complete) & ~np.isin(b, complete)
        a, b, overlap = a[kept], b[kept], overlap[kept]
    if proven is not None and proven.size:
        return _join_apart(a, b, overlap, set(proven.tolist()))
    return join_pairs(a, b)


def _join_apart(
    a: NDArray[np.uint64], b: NDArray[np.uint64], overlap: NDArray[np.int64], proven: set[int]
) -> Joins:
    """Join names, but never two proven ones; pairs with the largest overlap come first."""
    first: dict[int, int] = {}  # links towards the name that represents the object

    def standing(name: int) -> int:
        while (above := first.setdefault(name, name)) != name:
            first[name] = first[above]
            name = above
        return name

    order = np.lexsort((np.maximum(a, b), np.minimum(a, b), -overlap))
    for one, other in zip(a[order].tolist(), b[order].tolist(), strict=True):
        low, high = sorted((standing(one), standing(other)))
        if low != high and not (low in proven and high in proven):
            low, high = (high, low) if high in proven else (low, high)
            first[high] = low
    joined = [name for name in sorted(first) if standing(name) != name]
    return Joins(np.array(joined, np.uint64), np.array(list(map(standing, joined)), np.uint64))


def join_pairs(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Joins:
    """Join names of the same object, (p,) and (p,): connected components."""
    if a.size == 0:
        return Joins.none()
    ids, numbers = np.unique(np.concatenate([a, b]), return_inverse=True)
    row, column = numbers[: a.size], numbers[a.size :]
    graph = coo_array((np.ones(a.size), (row, column)), shape=(ids.size, ids.size))
    _, component = connected_components(graph, directed=False)
    first = np.full(int(component.max()) + 1, ids.size)
    np.minimum.at(first, component, np.arange(ids.size))
    representative = ids[first[component]]
    replaced = representative != ids
    return Joins(ids[replaced], representative[replaced])


def _best(
    one: NDArray[np.uint64], other: NDArray[np.uint64], overlap: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """For each id of one view, the id of the other view that covers most of it, if they differ.

    Return both, and the number of voxels they share.
    """
    order = np.lexsort((other, -overlap, one))
    ids, first = np.unique(one[order], return_index=True)
    partner, shared = other[order][first], overlap[order][first]
    tied = (ids > 0) & (partner > 0) & (ids != partner)
    return ids[tied], partner[tied], shared[tied]
