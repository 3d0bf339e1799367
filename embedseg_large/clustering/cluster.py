"""Cluster the foreground of a region into instances."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.celllist import build_cells
from embedseg_large.clustering.greedy import grow
from embedseg_large.clustering.points import (
    AXES,
    Points,
    points_of_embedding,
    points_of_stored,
)
from embedseg_large.clustering.settings import DEFAULT_MARGIN, ClusteringSettings
from embedseg_large.embedding import Embedding, nan_voxel
from embedseg_large.errors import UsageError

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
        A proposal must have more voxels than this.
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
    doubtful = points.index[uncertain[cells.place]]  # `grow` added to those uncertain at first
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
        Faces of the region beyond which the volume goes on unseen, an entry for each of its axes.
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
