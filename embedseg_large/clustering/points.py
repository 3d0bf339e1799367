"""The foreground voxels of a region, as a list of points.

Shape legend: n foreground voxels. Every region has three axes here: a 2D one gets a z axis of
length 1, with offset 0, so that one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.settings import HALF_MAXIMUM, ClusterSettings
from embedseg_large.embedding import Embedding, seeds_of, sigmas_of

AXES = 3


@dataclass(frozen=True, slots=True)
class Points:
    """Foreground voxels in raster order.

    The embedding of a voxel is formed in float64 from its integer coordinate and its offset. An
    offset that was stored as float16 loses nothing by it, so that differences of embeddings, and
    all that follows from them, are the same bits wherever the region begins.
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


def points_of_embedding(embedding: Embedding, settings: ClusterSettings) -> Points:
    """The foreground of an :class:`~embedseg_large.Embedding`."""
    seeds = embedding.seeds.reshape(-1)
    index = np.flatnonzero(seeds > np.float32(settings.foreground))
    offsets = embedding.offsets.reshape(embedding.ndim, -1)[:, index]
    sigmas = embedding.sigmas.reshape(embedding.ndim, -1)[:, index]
    return _points(embedding.shape, index, offsets, sigmas, seeds[index], settings)


def points_of_stored(stored: NDArray[np.float16], settings: ClusterSettings) -> Points:
    """The foreground of stored predictions, (2·ndim + 1, *spatial) float16.

    Equal to `points_of_embedding` of the dequantised predictions, without unpacking background.
    """
    ndim = stored.ndim - 1
    flat = stored.reshape(2 * ndim + 1, -1)
    index = _select(flat[-1].view(np.uint16), _least_key(settings.foreground))
    chosen = np.take(flat, index, axis=1)
    offsets, sigmas = chosen[:ndim].astype(np.float32), sigmas_of(chosen[ndim:-1])
    return _points(stored.shape[1:], index, offsets, sigmas, seeds_of(chosen[-1]), settings)


@cache
def _least_key(foreground: float) -> int:
    """Smallest key (see `_key`) of a logit whose seediness is above a threshold."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    seeds = seeds_of(bits.view(np.float16))
    return min(_key(int(b)) for b in bits[seeds > np.float32(foreground)])


@numba.njit(cache=True)
def _key(bits: int) -> int:  # pragma: no cover - compiled
    """Integers in the order of the float16 with these bits."""
    return bits ^ 0xFFFF if bits & 0x8000 else bits | 0x8000


@numba.njit(cache=True, nogil=True)
def _select(bits: NDArray[np.uint16], least: int) -> NDArray[np.int64]:  # pragma: no cover
    """Positions of the float16 with a key of at least `least`."""
    count = 0
    for b in bits:
        count += _key(b) >= least
    index = np.empty(count, np.int64)
    at = 0
    for i in range(bits.size):
        if _key(bits[i]) >= least:
            index[at] = i
            at += 1
    return index


def _points(
    shape: tuple[int, ...],
    index: NDArray[np.int64],
    offsets: NDArray[np.float32],
    sigmas: NDArray[np.float32],
    seeds: NDArray[np.float32],
    settings: ClusterSettings,
) -> Points:
    missing = AXES - len(shape)
    z, y, x = (1,) * missing + tuple(shape)
    reach = np.full(AXES, np.inf)
    cap = np.full(AXES, np.inf, np.float32)
    if settings.reach is not None and settings.bandwidth is not None:
        reach[missing:] = settings.reach
        cap[missing:] = np.asarray(settings.bandwidth) / HALF_MAXIMUM
    found = _compact(index, offsets, sigmas, seeds, np.array([y, x]), reach, cap)
    return Points((z, y, x), *found)


@numba.njit(cache=True, nogil=True)
def _compact(
    index: NDArray[np.int64],
    offsets: NDArray[np.float32],
    sigmas: NDArray[np.float32],
    seeds: NDArray[np.float32],
    plane: NDArray[np.int64],
    reach: NDArray[np.float64],
    cap: NDArray[np.float32],
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]
]:  # pragma: no cover - compiled
    """Keep the voxels whose offsets are believable; add coordinates, cap sigmas."""
    ndim, n = offsets.shape
    missing = 3 - ndim
    kept_index = np.empty(n, np.int64)
    kept_seed = np.empty(n, np.float32)
    embedding = np.empty((n, 3))
    sigma = np.ones((n, 3), np.float32)
    kept = 0
    for i in range(n):
        believable = True
        for axis in range(ndim):
            believable &= abs(offsets[axis, i]) <= reach[missing + axis]
        if not believable:
            continue
        row = index[i] // plane[1]
        z = row // plane[0]
        embedding[kept, 0] = z
        embedding[kept, 1] = row - z * plane[0]
        embedding[kept, 2] = index[i] - row * plane[1]
        for axis in range(ndim):
            embedding[kept, missing + axis] += offsets[axis, i]
            sigma[kept, missing + axis] = min(sigmas[axis, i], cap[missing + axis])
        kept_index[kept] = index[i]
        kept_seed[kept] = seeds[i]
        kept += 1
    return kept_index[:kept], embedding[:kept], sigma[:kept], kept_seed[:kept]
