"""The foreground voxels of a region, as a list of points.

Shape legend: n foreground voxels. Every region has three axes here: a 2D one gets a z axis of
length 1, with offset 0, so that one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    offsets = flat[:ndim, index].astype(np.float32)
    sigmas = sigmas_of(flat[ndim : 2 * ndim, index])
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
    if settings.reach is not None:
        limit = np.asarray(settings.reach, dtype=np.float32)[:, None]
        keep = np.flatnonzero((np.abs(offsets) <= limit).all(axis=0))
        if keep.size < index.size:
            index, seeds = index[keep], seeds[keep]
            offsets, sigmas = offsets[:, keep], sigmas[:, keep]
    embedding = np.empty((AXES, index.size))
    rest, embedding[2] = np.divmod(index, x)
    embedding[0], embedding[1] = np.divmod(rest, y)
    embedding[missing:] += offsets
    sigma = np.ones((AXES, index.size))
    sigma[missing:] = sigmas
    if settings.bandwidth is not None:
        cap = np.asarray(settings.bandwidth)[:, None] / HALF_MAXIMUM
        np.minimum(sigma[missing:], cap, out=sigma[missing:])
    return Points((z, y, x), index, embedding, sigma, seeds)
