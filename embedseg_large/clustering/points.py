"""The foreground voxels of a region, as a list of points.

Shape legend: n foreground voxels. Every region has three axes here: a 2D one gets a z axis of
length 1, with offset 0, so that one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import Embedding, seeds_of, sigmas_of

AXES = 3
_INFINITY = 0xFC00
"""Key of positive infinity, see `_key`; those above are not numbers."""


@dataclass(frozen=True, slots=True)
class Points:
    """Foreground voxels in raster order.

    The embedding of a voxel is formed in float64 from its integer coordinate and its offset. This
    loses nothing of an offset that was stored as float16, so differences of embeddings, and
    everything derived from them, are bit-identical wherever the region begins.
    """

    shape: tuple[int, int, int]
    """Shape of the region (z, y, x)."""
    index: NDArray[np.int64]
    """(n,) position in the raveled region, ascending."""
    embedding: NDArray[np.float64]
    """(n, 3) coordinate plus offset, in voxels of the region."""
    sigma: NDArray[np.float32]
    """(n, 3) bandwidth in voxels, capped."""
    seed: NDArray[np.float32]
    """(n,) seediness."""


def points_of_embedding(embedding: Embedding, settings: ClusteringSettings) -> Points:
    """The foreground of an :class:`~embedseg_large.Embedding`."""
    ndim = embedding.ndim
    index = np.flatnonzero(embedding.seeds.reshape(-1) > np.float32(settings.foreground))
    offsets = np.ascontiguousarray(embedding.offsets).reshape(ndim, -1)
    sigmas = np.ascontiguousarray(embedding.sigmas).reshape(ndim, -1)
    parts = _Parts(offsets, sigmas, embedding.seeds.reshape(-1))
    return _points(embedding.shape, index, parts, settings, _Parts(None, None, None))


def points_of_stored(stored: NDArray[np.float16], settings: ClusteringSettings) -> Points:
    """The foreground of stored predictions, (2·ndim + 1, *spatial) float16.

    Equal to `points_of_embedding` of the dequantised predictions, without unpacking background.
    """
    bits = np.ascontiguousarray(stored).view(np.uint16).reshape(len(stored), -1)
    index = _select(bits[-1], _least_key(settings.foreground))
    ndim = stored.ndim - 1
    parts = _Parts(bits[:ndim], bits[ndim:-1], bits[-1])
    return _points(stored.shape[1:], index, parts, settings, _tables())


class _Parts(NamedTuple):
    """Offsets (ndim, voxels), sigmas (ndim, voxels) and seeds (voxels), or their tables."""

    offsets: NDArray[Any] | None
    sigmas: NDArray[Any] | None
    seeds: NDArray[Any] | None


@cache
def _tables() -> _Parts:
    """The offset, sigma and seediness that each float16 represents, indexed by its bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return _Parts(every.astype(np.float32), sigmas_of(every), seeds_of(every))


@cache
def _least_key(foreground: float) -> int:
    """Smallest key (see `_key`) of a logit whose seediness is above a threshold."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    seeds = seeds_of(bits.view(np.float16))
    above = bits[seeds > np.float32(foreground)]
    return min((_key(int(b)) for b in above), default=1 << 16)


@numba.njit(cache=True)
def _key(bits: int) -> int:  # pragma: no cover - compiled
    """Integers that sort like the float16 with these bits."""
    return bits ^ 0xFFFF if bits & 0x8000 else bits | 0x8000


@numba.njit(cache=True, nogil=True)
def _select(bits: NDArray[np.uint16], least: int) -> NDArray[np.int64]:  # pragma: no cover
    """Positions of the float16 with a key of at least `least`; NaN is never one of them."""
    count = 0
    for b in bits:
        count += least <= _key(b) <= _INFINITY
    index = np.empty(count, np.int64)
    at = 0
    for i in range(bits.size):
        if least <= _key(bits[i]) <= _INFINITY:
            index[at] = i
            at += 1
    return index


def _points(
    shape: tuple[int, ...],
    index: NDArray[np.int64],
    parts: _Parts,
    settings: ClusteringSettings,
    tables: _Parts,
) -> Points:
    missing = AXES - len(shape)
    z, y, x = (1,) * missing + tuple(shape)
    reach = np.full(AXES, np.inf)
    cap = np.full(AXES, np.inf, np.float32)
    if settings.reach is not None and settings.largest_sigma is not None:
        reach[missing:] = settings.reach
        cap[missing:] = settings.largest_sigma
    return Points((z, y, x), *_compact(index, *parts, *tables, y, x, reach, cap))


@numba.njit(cache=True, nogil=True)
def _compact(
    index: NDArray[np.int64],
    offsets: Any,
    sigmas: Any,
    seeds: Any,
    offset_table: NDArray[np.float32] | None,
    sigma_table: NDArray[np.float32] | None,
    seed_table: NDArray[np.float32] | None,
    rows: int,
    columns: int,
    reach: NDArray[np.float64],
    cap: NDArray[np.float32],
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]
]:  # pragma: no cover - compiled
    """Gather the voxels with acceptable offsets; add coordinates, cap sigmas.

    If there is a table, values are indices into it.
    """
    ndim = len(offsets)
    missing = 3 - ndim
    n = index.size
    kept_index = np.empty(n, np.int64)
    kept_seed = np.empty(n, np.float32)
    embedding = np.empty((n, 3))
    sigma = np.ones((n, 3), np.float32)
    kept = 0
    z, y, row = 0, 0, 0  # the current row, and its first index
    for at in index:
        while at >= row + columns:  # positions ascend: no division
            row += columns
            y += 1
            if y == rows:
                y, z = 0, z + 1
        embedding[kept, 0] = z
        embedding[kept, 1] = y
        embedding[kept, 2] = at - row
        believable = True
        for axis in range(ndim):
            offset = offsets[axis, at] if offset_table is None else offset_table[offsets[axis, at]]
            width = sigmas[axis, at] if sigma_table is None else sigma_table[sigmas[axis, at]]
            # excludes NaN and infinity, which fit into no cell
            finite = abs(offset) < np.inf and 0 < width < np.inf
            believable &= finite and abs(offset) <= reach[missing + axis]
            embedding[kept, missing + axis] += offset
            sigma[kept, missing + axis] = min(width, cap[missing + axis])
        kept_index[kept] = at
        kept_seed[kept] = seeds[at] if seed_table is None else seed_table[seeds[at]]
        kept += believable
    return kept_index[:kept], embedding[:kept], sigma[:kept], kept_seed[:kept]
