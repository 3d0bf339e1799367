"""Match the objects that two tiles see in their shared region: one object, one name.

::

    ┌── low ────┬────────┐
    │      ┌────┼────────┼───────┐     An object that reaches over the face lies in the region
    │      │    │ shared │       │     that both tiles see. Two objects there are the same if they
    │      │    │        │       │     overlap by more than half of their union: an object has
    └──────┼────┼────────┘       │     then at most one partner in each neighbour.
           └────┴──── high ──────┘

1. Pairs are matched in descending order of their IoU, unless that would give two objects of one
   tile the same name.
2. Each core keeps the outlines of its own tile, under the shared name.
3. Ownership (`embedseg_large.stitching.ownership`) decides about objects without a partner, objects
   that lie mostly in one of those or hold most of one, refused pairs, and objects that reach into a
   neighbour's core but are background there. In these cases tiles disagree about what is an object,
   and outlines cannot simply be combined.

The result depends only on the set of pairs, not on the order in which tiles were compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from embedseg_large.stitching.join import Joins


class SeamView(NamedTuple):
    """What one tile sees in a shared region."""

    labels: NDArray[np.unsignedinteger]
    """(*shared) local labels, 0 for background."""
    names: NDArray[np.uint64]
    """(m + 1,) name of each label; 0 for background."""
    near: NDArray[np.bool_]
    """(m + 1,) whether each reaches into the core of the tile."""
    other_core: tuple[slice, ...]
    """The part of the shared region that is the core of the other tile."""


class SeamOverlaps(NamedTuple):
    """Pairs of objects, one from each of two tiles, that share most of one of them; p pairs."""

    low: NDArray[np.uint64]
    high: NDArray[np.uint64]
    shared: NDArray[np.int64]
    """(p,) common voxels."""
    low_size: NDArray[np.int64]
    """(p,) voxels in the shared region."""
    high_size: NDArray[np.int64]
    low_near: NDArray[np.bool_]
    """(p,) whether the object reaches into the core of its tile."""
    high_near: NDArray[np.bool_]
    unseen: NDArray[np.uint64]
    """Names, ascending, of objects that reach into the cores of both tiles but are background in
    the other tile."""

    @property
    def iou(self) -> NDArray[np.float64]:
        """(p,) intersection over union."""
        iou: NDArray[np.float64] = self.shared / (self.low_size + self.high_size - self.shared)
        return iou


def overlaps(low: SeamView, high: SeamView) -> SeamOverlaps:
    """Compare the objects of two tiles in their shared region."""
    shape = (low.names.size, high.names.size)
    both = (low.labels.reshape(-1), high.labels.reshape(-1))
    table = coo_array((np.ones(both[0].size, np.int64), both), shape=shape).tocsr().tocoo()
    one, other, shared = table.row, table.col, table.data
    sizes = [np.bincount(labels, minlength=n) for labels, n in zip(both, shape, strict=True)]
    unseen = [
        _unseen(low, one[other == 0], shared[other == 0], sizes[0]),
        _unseen(high, other[one == 0], shared[one == 0], sizes[1]),
    ]
    of_pair = sizes[0][one], sizes[1][other]
    kept = (one > 0) & (other > 0) & (2 * shared > np.minimum(*of_pair))
    one, other = one[kept], other[kept]
    return SeamOverlaps(
        low.names[one],
        high.names[other],
        shared[kept],
        of_pair[0][kept],
        of_pair[1][kept],
        low.near[one],
        high.near[other],
        np.union1d(*unseen),
    )


def _unseen(
    view: SeamView, labels: NDArray[np.int64], voxels: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Names of objects that reach into both cores, most of whose voxels are background to others.

    `labels` have `voxels` that are.
    """
    reaches = np.bincount(view.labels[view.other_core].reshape(-1), minlength=sizes.size) > 0
    lost = (labels > 0) & (2 * voxels > sizes[labels]) & view.near[labels] & reaches[labels]
    return view.names[labels[lost]]


@dataclass(slots=True)
class _Groups:
    """Groups of names of the same object, and its name in each tile."""

    above: dict[int, int] = field(default_factory=dict)
    """Links towards the smallest name of the group."""
    called: dict[int, dict[int, int]] = field(default_factory=dict)
    """For each group, by its smallest name: the name in each tile, by tile number."""

    def first(self, name: int) -> int:
        """Return the smallest name of a group."""
        while (above := self.above.setdefault(name, name)) != name:
            self.above[name] = self.above[above]
            name = above
        return name

    def note(self, name: int, tile: int) -> None:
        """Record that a tile has an object with this name."""
        self.called.setdefault(self.first(name), {})[tile] = name

    def unite(self, one: int, other: int) -> bool:
        """Unite two groups, unless a tile has two different objects in them."""
        low, high = sorted((self.first(one), self.first(other)))
        if low == high:
            return True
        names, more = self.called.get(low, {}), self.called.get(high, {})
        fewer, rest = sorted((names, more), key=len)
        if any(rest.get(tile, name) != name for tile, name in fewer.items()):
            return False
        self.above[high] = low
        rest.update(fewer)
        self.called[low] = rest
        self.called.pop(high, None)
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Which names belong to the same object."""

    left: NDArray[np.uint64]
    """Names of objects on which tiles disagree, ascending; ownership decides about them."""
    settled: NDArray[np.uint64]
    """All other names that have a partner, ascending."""
    _groups: _Groups
    """Groups of the settled names only."""

    def joins(self, same: NDArray[np.uint64] | None = None) -> Joins:
        """Return the smallest name of each object as the replacement of all its names.

        Parameters
        ----------
        same
            (p, 2) additional pairs of names of the same object. Two settled objects are not joined
            if a tile sees both.
        """
        if same is not None:
            for one, other in np.unique(np.sort(same, axis=1), axis=0).tolist():
                self._groups.unite(one, other)
        names = np.array(sorted(self._groups.above), np.uint64)
        first = np.array([self._groups.first(n) for n in names.tolist()], np.uint64)
        replaced = names != first
        return Joins(names[replaced], first[replaced])


Seam = tuple[int, int, SeamOverlaps]
"""Numbers of two neighbouring tiles, and their overlaps."""


def match(seams: Sequence[Seam], disputed: NDArray[np.uint64]) -> Matches:
    """Match the objects of neighbouring tiles.

    Parameters
    ----------
    seams
        Neighbours that may disagree, across a face, an edge or a corner; each pair once.
    disputed
        Names on which tiles disagree.
    """
    groups = _Groups()
    pairs = sorted(_pairs(seams))
    for _, low, high, one, other in pairs:
        groups.note(low, one)
        groups.note(high, other)
    refused = [name for _, a, b, *_ in pairs for name in (a, b) if not groups.unite(a, b)]
    partnered = {name for _, *names, _, _ in pairs for name in names}
    alone = set(disputed.tolist()) - partnered
    unseen = [name for *_, found in seams for name in found.unseen.tolist()]
    alone.update(name for name in unseen if name not in partnered)
    doubts = (*refused, *unseen, *_entangled(seams, alone, partnered))
    doubtful = {groups.first(name) for name in doubts}
    left = alone | {name for name in partnered if groups.first(name) in doubtful}
    kept = _Groups()
    for name in sorted(partnered - left):
        first = groups.first(name)
        kept.above[name] = first
        kept.called[first] = groups.called[first]
    return Matches(_sorted(left), _sorted(partnered - left), kept)


def _pairs(seams: Sequence[Seam]) -> Iterator[tuple[float, int, int, int, int]]:
    """Yield pairs that overlap by more than half of their union; the best pair sorts first."""
    for one, other, found in seams:
        iou = found.iou
        best = iou > 0.5
        columns = (-iou[best], found.low[best], found.high[best])
        for score, low, high in zip(*(c.tolist() for c in columns), strict=True):
            yield score, low, high, one, other


def _entangled(seams: Sequence[Seam], alone: set[int], partnered: set[int]) -> Iterator[int]:
    """Find names with a partner that share most of an object in some core that has none."""
    for _, _, found in seams:
        sides = (
            (found.low, found.high, found.low_near),
            (found.high, found.low, found.high_near),
        )
        for names, others, near in sides:
            for name, other in zip(names[near].tolist(), others[near].tolist(), strict=True):
                if name in alone and other in partnered:
                    yield other


def _sorted(names: Iterable[int]) -> NDArray[np.uint64]:
    return np.array(sorted(names), np.uint64)
