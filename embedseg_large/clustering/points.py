"""The foreground voxels of a region, as a list of points.

Shape legend: n foreground voxels. Every region has three axes here: a 2D one gets a z axis of
length 1, with offset 0, so that one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """(3, n) coordinate plus offset, in voxels of the region."""
    sigma: NDArray[np.float64]
    """(3, n) bandwidth in voxels, capped."""
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
    seeds = seeds_of(flat[-1])
    index = np.flatnonzero(seeds > np.float32(settings.foreground))
    chosen = np.take(flat[:-1], index, axis=1)
    offsets, sigmas = chosen[:ndim].astype(np.float32), sigmas_of(chosen[ndim:])
    return _points(stored.shape[1:], index, offsets, sigmas, seeds[index], settings)


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
    cap = np.full(AXES, np.inf)
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
    cap: NDArray[np.float64],
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]
]:  # pragma: no cover - compiled
    """Keep the voxels whose offsets are believable; add coordinates, cap sigmas."""
    ndim, n = offsets.shape
    missing = 3 - ndim
    kept_index = np.empty(n, np.int64)
    kept_seed = np.empty(n, np.float32)
    embedding = np.empty((3, n))
    sigma = np.ones((3, n))
    kept = 0
    for i in range(n):
        believable = True
        for axis in range(ndim):
            believable &= abs(offsets[axis, i]) <= reach[missing + axis]
        if not believable:
            continue
        row = index[i] // plane[1]
        embedding[0, kept] = row // plane[0]
        embedding[1, kept] = row % plane[0]
        embedding[2, kept] = index[i] - row * plane[1]
        for axis in range(ndim):
            embedding[missing + axis, kept] += offsets[axis, i]
            sigma[missing + axis, kept] = min(float(sigmas[axis, i]), cap[missing + axis])
        kept_index[kept] = index[i]
        kept_seed[kept] = seeds[i]
        kept += 1
    return kept_index[:kept], embedding[:, :kept], sigma[:, :kept], kept_seed[:kept]
