"""The truth about objects, and the predictions of a network that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from embedseg_large.embedding import background, split
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.testing.hashing import uniform_at

MAX_ID = 2**24
"""Ids from here on are not exact in float32, in which tiles reach the network."""

_PEAK_LOGIT = 10.0
_PLATEAU_LOGIT = 4.0
_LEAST_SEED = 0.6  # of a voxel far from its centre; foreground all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaws:
    """How predictions differ from perfect ones; every flaw is a function of the global voxel."""

    noise: float = 0.0
    """Offsets err by up to this many voxels along each axis, evenly distributed."""
    jitter: float = 0.5
    """Seed logits vary by up to this much from voxel to voxel, which leaves few ties."""
    plateau: bool = False
    """Whether all seeds are equal, so that raster order alone decides."""
    stray: float = 0.0
    """Fraction of object voxels whose offsets point anywhere."""
    stray_length: float = 100.0
    """Longest component of such an offset, in voxels."""
    seed: int = 0
    """Seed of the random functions."""


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Centre and bandwidth of every object, by its id; row 0, and ids that do not occur, are idle.

    Parameters
    ----------
    centres
        (ids, ndim) int64: global voxel of each centre, z, y, x. Whole numbers stay exact as
        float16 offsets, so that all voxels of an object point at the very same place.
    sigmas
        (ids, ndim) float32: bandwidth, in voxels.
    extent
        Largest object along each axis, in voxels.
    """

    centres: NDArray[np.int64]
    sigmas: NDArray[np.float32]
    extent: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.centres) > MAX_ID:
            raise UsageError(
                f"{len(self.centres)} ids; float32 distinguishes only {MAX_ID}; take a smaller "
                "volume"
            )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.extent)

    @classmethod
    def of(cls, labels: NDArray[Any]) -> Objects:
        """Measure the objects of a label array; see `from_boxes` for the bandwidths.

        Raises
        ------
        VolumeError
            If the array is not of integers, or an id is negative or too large.
        """
        if not np.issubdtype(labels.dtype, np.integer):
            raise VolumeError(f"labels have dtype {labels.dtype}; pass integers")
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_ID:
            raise VolumeError(
                f"ids run from {labels.min()} to {labels.max()}; pass ids from 0 to {MAX_ID - 1}"
            )
        found = ndimage.find_objects(labels.astype(np.int32, copy=False))
        ids = np.array([k for k, box in enumerate(found, 1) if box is not None], np.int64)
        boxes = [Box(*_ends(box)) for box in found if box is not None]
        centres = np.array([_own_centre(labels, k, b) for k, b in zip(ids, boxes, strict=True)])
        return cls.from_boxes(ids, centres.reshape(-1, labels.ndim), boxes)

    @classmethod
    def from_boxes(
        cls, ids: NDArray[np.int64], centres: NDArray[np.int64], boxes: Sequence[Box]
    ) -> Objects:
        """Choose a bandwidth for each object from the size of its bounding box.

        It is a third of the extent, but less where another centre is near: the half maximum of the
        Gaussian, which is at 1.18 sigma, then ends before half of the way to that centre.

        Parameters
        ----------
        ids, centres, boxes
            (n,), (n, ndim) and n: the objects, each centre a voxel of its own.
        """
        ndim = centres.shape[1]
        extents = np.array([box.shape for box in boxes], np.int64).reshape(-1, ndim)
        sigmas = np.maximum(extents / 3, 0.5)
        if len(centres) > 1:
            nearest = cKDTree(centres).query(centres, k=2)[0][:, 1]
            sigmas *= np.minimum(1, 0.4 * nearest / sigmas.max(axis=1))[:, None]
        rows = int(ids.max(initial=0)) + 1
        centre_of = np.zeros((rows, ndim), np.int64)
        sigma_of = np.ones((rows, ndim), np.float32)
        centre_of[ids], sigma_of[ids] = centres, sigmas
        return cls(centre_of, sigma_of, tuple(extents.max(axis=0, initial=1).tolist()))

    def predict(self, ids: NDArray[np.int64], region: Box, flaws: Flaws) -> NDArray[np.float16]:
        """Predict a region from its label ids alone.

        Parameters
        ----------
        ids
            ``(*region.shape)``: the object of each voxel, 0 for none.
        region
            Where in the volume they lie; it may begin before the origin.
        flaws
            How the predictions err.

        Returns
        -------
        float16 ``(2·ndim + 1, *region.shape)``, the stored form of `embedseg_large.embedding`.
        """
        stored = background(region.shape)
        offsets, log_sigmas, logits = split(stored)
        inside = ids > 0
        at = np.argwhere(inside).T + np.array(region.start)[:, None]
        steps = self.centres[ids[inside]].T - at
        sigmas = self.sigmas[ids[inside]].T
        offsets[:, inside] = _flawed(steps, at, flaws)
        log_sigmas[:, inside] = np.log(self.sigmas)[ids[inside]].T
        logits[inside] = _logits(steps, sigmas, at, flaws)
        return stored


def _ends(slices: tuple[slice, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(s.start for s in slices), tuple(s.stop for s in slices)


def _own_centre(labels: NDArray[Any], label: int, box: Box) -> NDArray[np.int64]:
    """Return the object's own voxel that is nearest to its centroid."""
    voxels = np.argwhere(labels[box.slices] == label)
    nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
    own: NDArray[np.int64] = voxels[nearest] + np.array(box.start)
    return own


def _flawed(steps: NDArray[np.int64], at: NDArray[np.int64], flaws: Flaws) -> NDArray[np.float64]:
    """Return offsets (ndim, n) that err."""
    offsets = steps.astype(np.float64)
    if flaws.noise:
        offsets += flaws.noise * _directions(at, flaws.seed, 1)
    if flaws.stray:
        astray = uniform_at(at, flaws.seed, 0) < flaws.stray
        offsets[:, astray] = flaws.stray_length * _directions(at[:, astray], flaws.seed, 11)
    return offsets


def _directions(at: NDArray[np.int64], seed: int, first_stream: int) -> NDArray[np.float64]:
    """Return vectors (ndim, n) with components in [-1, 1)."""
    streams = range(first_stream, first_stream + len(at))
    return np.stack([2 * uniform_at(at, seed, stream) - 1 for stream in streams])


def _logits(
    steps: NDArray[np.int64], sigmas: NDArray[np.float32], at: NDArray[np.int64], flaws: Flaws
) -> NDArray[np.float64]:
    """Return seed logits (n,): highest at the centre, and above the foreground everywhere."""
    if flaws.plateau:
        return np.full(steps.shape[1], _PLATEAU_LOGIT)
    closeness = np.exp(-0.5 * np.square(steps / sigmas).sum(axis=0))
    seeds = _LEAST_SEED + (1 - _LEAST_SEED) * closeness
    with np.errstate(divide="ignore"):  # the centre's own logit is infinite
        logits = np.minimum(np.log(seeds / (1 - seeds)), _PEAK_LOGIT)
    varied: NDArray[np.float64] = logits + flaws.jitter * uniform_at(at, flaws.seed, 21)
    return varied
