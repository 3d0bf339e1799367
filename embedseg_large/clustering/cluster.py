"""Cluster the foreground of a region into instances.

Shape legend: n foreground voxels. Every region has three axes here: a 2D one gets a z axis of
length 1, with offset 0, so that one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.greedy import build_cells, grow
from embedseg_large.clustering.settings import DEFAULT_MARGIN, ClusteringSettings
from embedseg_large.embedding import Embedding, nan_voxel, seeds_of, sigmas_of
from embedseg_large.errors import UsageError

AXES = 3
"""Of every array in a compiled loop, see `three_axes`."""
_INFINITY = 0xFC00
"""Key of positive infinity, see `_key`; those above are not numbers."""


def three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a region of two or three axes as one of three."""
    return (1,) * (AXES - len(shape)) + shape


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

    If tables are given, values are indices into them.
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


OpenFaces = tuple[tuple[bool, bool], ...]
"""Per axis: whether the volume continues below the low face and above the high face of a region."""


@dataclass(frozen=True, slots=True)
class Clustering:
    """Instances of a region; n foreground voxels, m instances."""

    labels: NDArray[np.uint32]
    """(*region) 0 for background, else the 1-based number of the instance."""
    seeds: NDArray[np.int64]
    """(m,) position of each instance's seed voxel in the raveled region, in order of seediness."""
    seediness: NDArray[np.float32]
    """(m,) seediness of each seed voxel."""
    certain: NDArray[np.bool_]
    """(m,) whether nothing outside the region could have changed the instance."""
    doubtful: NDArray[np.int64]
    """Positions, in the raveled region, of the voxels that something outside could change."""


def cluster(
    embedding: Embedding,
    min_object_size: int = 1,
    foreground: float = 0.5,
    seed: float = 0.9,
    margin: float = DEFAULT_MARGIN,
) -> NDArray[np.uint32]:
    """Cluster the embedding of a whole image or volume into instances.

    Parameters
    ----------
    embedding
        Offsets, sigmas and seeds in voxels, 2D or 3D.
    min_object_size
        A proposal must have more voxels than this to be accepted.
    foreground, seed
        Seediness above which a voxel is foreground, and from which it may be a seed.
    margin
        A voxel belongs to an instance when the seed's Gaussian is above this at its embedding:
        between 0 and 1, 0.5 in the paper; lower makes objects larger.

    Returns
    -------
    (*spatial) uint32, ids 1..n in order of seediness, 0 for background.

    Raises
    ------
    UsageError
        If a threshold is out of range, or the embedding contains NaN.

    Notes
    -----
    The rule is that of Lalit et al. 2021 (section 2.3); see `embedseg_large.clustering.greedy`.
    """
    settings = ClusteringSettings(
        min_object_size=min_object_size, foreground=foreground, seed=seed, margin=margin
    )
    _refuse_nan(embedding)
    points = points_of_embedding(embedding, settings)
    result = cluster_points(points, settings, ((False, False),) * AXES)
    present = np.bincount(result.labels.reshape(-1), minlength=result.seeds.size + 1) > 0
    present[0] = True
    numbers = np.cumsum(present, dtype=np.uint32) - np.uint32(1)
    return numbers[result.labels].reshape(embedding.shape)


def _refuse_nan(embedding: Embedding) -> None:
    parts = {"offsets": embedding.offsets, "sigmas": embedding.sigmas, "seeds": embedding.seeds}
    for name, part in parts.items():
        voxel = nan_voxel(part if part.ndim > embedding.ndim else part[np.newaxis])
        if voxel is not None:
            raise UsageError(
                f"the {name} of the embedding are NaN (not a number) at voxel {voxel}; "
                "fix what computed them"
            )


def cluster_points(
    points: Points, settings: ClusteringSettings, open_faces: OpenFaces
) -> Clustering:
    """Cluster the foreground of a region, and determine which instances are certain.

    Parameters
    ----------
    points
        Foreground voxels of the region.
    settings
        Thresholds.
    open_faces
        Faces beyond which the volume continues unseen, three axes.
    """
    cells = build_cells(points.embedding, points.shape, _cell_size(points, settings))
    uncertain = _uncertain(points, settings, open_faces)[cells.origin]
    turns = cells.place[_turns(points.seed, settings.seed)]
    grown = grow(cells, points.sigma, turns, uncertain, settings)
    labels = np.zeros(points.shape, dtype=np.uint32)
    labels.reshape(-1)[points.index] = grown.label[cells.place]
    doubtful = points.index[uncertain[cells.place]]  # `grow` extended the initial uncertainty
    seeds = cells.origin[grown.seed]
    return Clustering(labels, points.index[seeds], points.seed[seeds], grown.certain, doubtful)


def cluster_stored(
    stored: NDArray[np.float16], settings: ClusteringSettings, open_faces: OpenFaces
) -> Clustering:
    """Cluster stored embeddings of a region.

    Parameters
    ----------
    stored
        ``(2·ndim + 1, *region)``, see `embedseg_large.embedding.quantise`.
    settings
        Thresholds.
    open_faces
        Faces of the region beyond which the volume continues unseen, one entry per axis.
    """
    faces = ((False, False),) * (AXES - len(open_faces)) + tuple(open_faces)
    found = cluster_points(points_of_stored(stored, settings), settings, faces)
    return replace(found, labels=found.labels.reshape(stored.shape[1:]))


def _cell_size(points: Points, settings: ClusteringSettings) -> NDArray[np.float64]:
    """Half a typical bandwidth, so that a neighbourhood is about five cells wide."""
    seeds = np.flatnonzero(points.seed >= np.float32(settings.seed))
    if seeds.size == 0:
        return np.ones(AXES)
    some = seeds[:: max(1, seeds.size // 10_000)]
    typical: NDArray[np.float64] = np.median(points.sigma[some], axis=0)
    return settings.radius * typical


def _turns(seeds: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Points of at least the threshold, in descending order, ties in raster order.

    Positive floats sort like their bits. A stable sort of 16-bit integers is numpy's radix sort, so
    two of them, low half first, sort in linear time.
    """
    able = np.flatnonzero(seeds >= np.float32(threshold))
    key = ~seeds[able].view(np.uint32)
    turns = np.argsort(key.astype(np.uint16), kind="stable")
    high = (key >> np.uint32(16)).astype(np.uint16)
    turns = turns[np.argsort(high[turns], kind="stable")]
    return able[turns]


def _uncertain(
    points: Points, settings: ClusteringSettings, open_faces: OpenFaces
) -> NDArray[np.bool_]:
    """Points that a voxel beyond an open face could claim.

    Such a voxel lies at -1 or below (at n or above), its embedding within reach of that position,
    and it claims within its bandwidth. The sums are exact: embeddings are multiples of a tiny
    float16.
    """
    uncertain = np.zeros(points.index.size, dtype=np.bool_)
    if not any(face for faces in open_faces for face in faces):
        return uncertain
    if settings.farthest is None:
        return ~uncertain
    missing = AXES - len(settings.farthest)
    for axis, (low, high) in enumerate(open_faces):
        if axis < missing:
            continue
        far = settings.farthest[axis - missing]
        at = points.embedding[:, axis]
        if low:
            uncertain |= at + 1 <= far
        if high:
            uncertain |= points.shape[axis] - at <= far
    return uncertain
