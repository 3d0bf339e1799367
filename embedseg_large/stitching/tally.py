"""Account for every instance: it has one owner, and as many voxels as its owner saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.stitching.relabel import Layers


class Roster(NamedTuple):
    """The n instances of one layer that keep a voxel."""

    ids: NDArray[np.uint64]
    """(n,) names, ascending."""
    sure: NDArray[np.bool_]
    """(n,) whether every tile that holds a voxel of each is certain of it, and so is its owner."""
    seediness: NDArray[np.float32]
    """(n,) seediness of each seed voxel; NaN if unknown."""

    def of(self, ids: NDArray[np.uint64]) -> Roster:
        """Return what is known of some ascending ids; unknown for those not in it."""
        sure = np.zeros(ids.size, np.bool_)
        seediness = np.full(ids.size, np.nan, np.float32)
        _, here, there = np.intersect1d(ids, self.ids, assume_unique=True, return_indices=True)
        sure[here], seediness[here] = self.sure[there], self.seediness[there]
        return Roster(ids, sure, seediness)


@dataclass(frozen=True, slots=True)
class Entries:
    """What tiles state about instances of one layer; e statements, one per instance and tile."""

    ids: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    core_sizes: NDArray[np.int64]
    owned: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    seediness: NDArray[np.float32]
    tile: NDArray[np.int64]
    """(e,) number of the tile that makes the statement."""

    def select(self, kept: NDArray[np.bool_]) -> Entries:
        """The statements for which `kept` is true."""
        return Entries(
            self.ids[kept],
            self.sizes[kept],
            self.core_sizes[kept],
            self.owned[kept],
            self.certain[kept],
            self.seediness[kept],
            self.tile[kept],
        )

    @classmethod
    def none(cls) -> Entries:
        """No statements."""
        ids, sizes, flags = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.bool_)
        return cls(ids, sizes, sizes, flags, flags, np.empty(0, np.float32), sizes)

    @classmethod
    def joined(cls, parts: Iterable[Entries]) -> Entries:
        """All statements of several tiles."""
        columns = zip(
            *(
                (p.ids, p.sizes, p.core_sizes, p.owned, p.certain, p.seediness, p.tile)
                for p in parts
            ),
            strict=True,
        )
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True, slots=True)
class Tally:
    """Account of one layer."""

    alive: Roster
    """Instances with at least one voxel in the cores."""
    wrong: NDArray[np.uint64]
    """Ids without an owner, or whose number of voxels differs from what their owner saw,
    ascending."""
    wrong_tiles: NDArray[np.int64]
    """Numbers of the tiles with statements about them, ascending."""


def tally(
    entries: Entries, layers: Layers, layer: int, ownerless: NDArray[np.uint64] | None = None
) -> Tally:
    """Account for the instances whose seed lies in a layer.

    Parameters
    ----------
    entries
        Statements of every tile whose region reaches into the layer; others are ignored.
    layers, layer
        The division into layers, and the layer.
    ownerless
        Ids whose seed lies in no core, in a run over part of the volume: their voxels are not
        accounted for.
    """
    here = entries.select(layers.of(entries.ids) == layer)
    ids, number = np.unique(here.ids, return_inverse=True)
    voxels = np.bincount(number, here.core_sizes, ids.size).astype(np.int64)
    owners = np.bincount(number[here.owned], minlength=ids.size)
    expected = np.zeros(ids.size, dtype=np.int64)
    np.add.at(expected, number[here.owned], here.sizes[here.owned])
    # The owner knows which voxels it has, and each tile that it has them: one lost and one gained
    # would cancel in their number.
    certain = np.zeros(ids.size, dtype=np.bool_)
    certain[number[here.owned & here.certain]] = True
    certain[number[(here.core_sizes > 0) & ~here.certain]] = False
    seediness = np.empty(ids.size, dtype=np.float32)
    seediness[number] = here.seediness  # all tiles agree: it is the value of one voxel

    alive = voxels > 0
    wrong = (alive & (owners != 1)) | (voxels != expected)
    if ownerless is not None:
        wrong &= ~np.isin(ids, ownerless)
    return Tally(
        alive=Roster(ids[alive], (certain & ~wrong)[alive], seediness[alive]),
        wrong=ids[wrong],
        wrong_tiles=np.unique(here.tile[wrong[number]]),
    )
