"""A tile's result for its core and the seams around it, and how two results compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box


@dataclass(frozen=True, slots=True)
class TileResult:
    """Instances as seen by one tile: m that touch the core or a seam, or have their seed in it.

    Labels are local, 1..m in ascending order of `ids`; 0 is background.
    """

    core: NDArray[np.uint32]
    """(*core) local labels of the core."""
    seams: tuple[NDArray[np.uint32], ...]
    """Local labels of the seam regions around the core, in the requested order."""
    ids: NDArray[np.uint64]
    """(m,) name of each instance: the global index of its seed voxel, plus one; ascending."""
    sizes: NDArray[np.int64]
    """(m,) voxels of the instance in the visible part of the cores of all tiles."""
    core_sizes: NDArray[np.int64]
    """(m,) voxels of the instance in the core."""
    owned: NDArray[np.bool_]
    """(m,) whether the seed voxel lies in the core."""
    certain: NDArray[np.bool_]
    """(m,) whether nothing unseen by the tile could have changed the instance."""
    seediness: NDArray[np.float32]
    """(m,) seediness of the seed voxel, the same in every view; NaN if it was not predicted."""
    exact: bool
    """Whether nothing unseen by the tile could have changed any voxel of the core."""

    @classmethod
    def plain(
        cls,
        core: NDArray[np.uint32],
        ids: NDArray[np.uint64],
        sizes: NDArray[np.int64] | None = None,
        owned: NDArray[np.bool_] | None = None,
    ) -> TileResult:
        """Return a result without seams, about which nothing is certain.

        Parameters
        ----------
        core, ids, sizes, owned
            As in the class. Without sizes, those in the core; by default nothing is owned.
        """
        core_sizes = np.bincount(core.reshape(-1), minlength=ids.size + 1)[1:]
        unknown = np.zeros(ids.size, np.bool_)
        return cls(
            core=core,
            seams=(),
            ids=ids,
            sizes=core_sizes if sizes is None else sizes,
            core_sizes=core_sizes,
            owned=unknown if owned is None else owned,
            certain=unknown,
            seediness=np.full(ids.size, np.nan, np.float32),
            exact=False,
        )


def numbered(voxels: NDArray[np.uint64], names: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return local labels: the position, from 1, of the name of each voxel among all, ascending."""
    return np.where(voxels > 0, np.searchsorted(names, voxels) + 1, 0).astype(np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a clustered region lies; all boxes in the volume."""

    region: Box
    """What was clustered."""
    core: Box
    """What the tile owns."""
    seams: Sequence[Box]
    """Where it will be compared with others."""
    volume_shape: Sequence[int]
    """Shape of the volume, which gives each voxel its global index."""
    covered: Box | None = None
    """What the cores of all tiles cover, if that is not the volume."""


def make_result(
    labels: NDArray[np.uint32],
    seeds: NDArray[np.int64],
    certain: NDArray[np.bool_],
    doubtful: NDArray[np.int64],
    seediness: NDArray[np.float32],
    *,
    frame: Frame,
) -> TileResult:
    """Reduce a clustered region to the view of its tile.

    Parameters
    ----------
    labels
        (*region) labels 1..k, 0 for background.
    seeds
        (k,) position of each seed voxel in the raveled region.
    certain
        (k,) see :class:`TileResult`.
    doubtful
        Positions in the raveled region of voxels that something unseen could change.
    seediness
        (k,) seediness of each seed voxel; NaN if it was not predicted.
    frame
        Where the region lies.
    """
    region, core = frame.region, frame.core
    at = np.unravel_index(seeds, region.shape)
    voxel = tuple(a + start for a, start in zip(at, region.start, strict=True))
    names = np.ravel_multi_index(voxel, tuple(frame.volume_shape)).astype(np.uint64) + np.uint64(1)
    owned = _inside(at, region, core)

    pieces = [labels[box.slices_in(region)] for box in (core, *frame.seams)]
    said = np.zeros(seeds.size + 1, dtype=np.bool_)
    for piece in pieces:
        said[piece.reshape(-1)] = True
    kept = np.flatnonzero(said[1:] | owned)
    kept = kept[np.argsort(names[kept], kind="stable")]
    local = np.zeros(seeds.size + 1, dtype=np.uint32)
    local[kept + 1] = np.arange(1, kept.size + 1)

    core_labels, *seam_labels = (local[piece] for piece in pieces)
    counted = labels
    if frame.covered is not None:
        counted = labels[frame.covered.intersect(region).slices_in(region)]
    return TileResult(
        core=core_labels,
        seams=tuple(seam_labels),
        ids=names[kept],
        sizes=np.bincount(counted.reshape(-1), minlength=seeds.size + 1)[1:][kept],
        core_sizes=np.bincount(core_labels.reshape(-1), minlength=kept.size + 1)[1:],
        owned=owned[kept],
        certain=certain[kept],
        seediness=seediness[kept],
        exact=not _inside(np.unravel_index(doubtful, region.shape), region, core).any(),
    )


def _inside(at: Sequence[NDArray[np.int64]], region: Box, core: Box) -> NDArray[np.bool_]:
    """Return which positions of a region lie in the core."""
    inside = np.ones(at[0].size, dtype=np.bool_)
    for a, origin, start, stop in zip(at, region.start, core.start, core.stop, strict=True):
        inside &= (a + origin >= start) & (a + origin < stop)
    return inside


SEAM_DEPTH = 2
"""Layers of voxels compared on either side of a face."""


@dataclass(frozen=True, slots=True)
class SeamComparison:
    """Two views of one seam; p pairs of ids that lie on each other."""

    voxels: int
    """Voxels compared."""
    disagreeing: int
    """Voxels with different ids."""
    low: NDArray[np.uint64]
    """(p,) id in the view of the tile below; 0 for background."""
    high: NDArray[np.uint64]
    """(p,) id in the view of the tile above."""
    overlap: NDArray[np.int64]
    """(p,) voxels they share. Pairs that agree everywhere are left out."""

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Ids that differ between the two views, ascending."""
        differ = self.low != self.high
        ids = np.unique(np.concatenate([self.low[differ], self.high[differ]]))
        return ids[ids > 0]


def compare(low: NDArray[np.uint64], high: NDArray[np.uint64]) -> SeamComparison:
    """Compare the ids that two tiles assign to the voxels of a seam.

    Parameters
    ----------
    low, high
        Ids of the same voxels, 0 for background, in the view of the tile below and above the face.
    """
    low, high = low.reshape(-1), high.reshape(-1)
    differ = low != high
    disagreeing = int(np.count_nonzero(differ))
    if not disagreeing:
        none = np.empty(0, np.uint64)
        return SeamComparison(low.size, 0, none, none, np.empty(0, np.int64))
    doubtful = np.unique(np.concatenate([low[differ], high[differ]]))
    doubtful = doubtful[doubtful > 0]
    about = np.isin(low, doubtful) | np.isin(high, doubtful)
    pairs, overlap = np.unique(np.stack([low[about], high[about]]), axis=1, return_counts=True)
    return SeamComparison(low.size, disagreeing, pairs[0], pairs[1], overlap)
