"""Final labels 1..N: the rank of each instance's seed voxel in raster order.

Ids are seed indices plus one, so that their order is raster order and a *layer*, the planes of the
first axis between two tile boundaries, holds a contiguous range of them. Layers are ranked
independently, out of core, and the numbers do not depend on the tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import RunError
from embedseg_large.stitching.join import Joins


@dataclass(frozen=True, slots=True)
class Layers:
    """Division of all ids of a volume into layers along its first axis."""

    depth: int
    """Planes per layer."""
    plane: int
    """Voxels per plane."""

    def of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Layer of each id."""
        span = np.uint64(self.depth * self.plane)
        return ((ids - np.uint64(1)) // span).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Final label of every instance of a volume."""

    layers: Layers
    before: NDArray[np.int64]
    """(layers + 1,) number of instances in the layers before each."""
    load: Callable[[int], NDArray[np.uint64]]
    """Returns the ascending ids of a layer."""

    @property
    def count(self) -> int:
        """Number of instances in the volume."""
        return int(self.before[-1])

    def labels(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Final labels of ids.

        Raises
        ------
        RunError
            If an id is unknown, which would be a bug.
        """
        labels = np.zeros(ids.shape, dtype=np.uint64)
        layer = self.layers.of(ids)
        for number in np.unique(layer):
            here = np.flatnonzero(layer == number)
            known = self.load(int(number))
            rank = np.searchsorted(known, ids[here])
            if known.size <= rank.max() or not np.array_equal(known[rank], ids[here]):
                raise RunError(f"layer {number} does not know an instance that a tile wrote")
            labels[here] = rank + self.before[number] + 1
        return labels


def occurring(labels: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Which of the labels 0..count - 1 an array of two or three axes holds."""
    seen = np.zeros(count, dtype=np.bool_)
    _mark(_three_axes(labels), seen)
    return seen


def rename(labels: NDArray[Any], names: NDArray[Any], into: NDArray[Any]) -> None:
    """Write ``names[labels]`` into an array of the same shape, of two or three axes.

    Parameters
    ----------
    labels
        Unsigned integers below the length of `names`.
    names
        The new value of each label.
    into
        Dtype of `names`; need not be contiguous.
    """
    _look_up(_three_axes(labels), names, _three_axes(into))


def _three_axes(array: NDArray[Any]) -> NDArray[Any]:
    return array[np.newaxis] if array.ndim == 2 else array


# numpy takes three times as long for both: it sorts, or copies indices to 64 bits.
@numba.njit(cache=True, nogil=True)
def _mark(labels: NDArray[Any], seen: NDArray[np.bool_]) -> None:  # pragma: no cover - compiled
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                seen[labels[z, y, x]] = True


@numba.njit(cache=True, nogil=True)
def _look_up(
    labels: NDArray[Any], names: NDArray[Any], into: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                into[z, y, x] = names[labels[z, y, x]]


def label_dtype(count: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest of uint32 and uint64 that holds labels 1..count."""
    return np.dtype(np.uint32 if count <= np.iinfo(np.uint32).max else np.uint64)


def offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    """Number of instances before each layer, and in total, from the number in each layer."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def settle(
    alive: NDArray[np.uint64],
    layer: int,
    layers: Layers,
    joins: Joins,
    joined_alive: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Ids of a layer after joining: replaced ids are removed, ids that represent others are added.

    Parameters
    ----------
    alive
        Ids of the layer that own a voxel, ascending.
    joined_alive
        Ids of any layer that own a voxel and are replaced by another.
    """
    standing = joins.apply(joined_alive)
    standing = standing[layers.of(standing) == layer]
    return np.union1d(alive[~np.isin(alive, joins.ids)], standing)
