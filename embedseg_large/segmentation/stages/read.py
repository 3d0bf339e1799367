"""What a network sees of a volume: normalised, and on its own grid."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import IntensityError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import is_fill, normalise, normalise_channels

SLAB_VOXELS = 2**24
"""Voxels of the volume that are read and resampled at a time, where a plane has no more."""


def read_normalised(job: Job, box: Box) -> NDArray[np.float32] | None:
    """Read a box of the grid, (channels, *box); None if the volume holds nothing but fill value."""
    return (_read_stored if job.resampling.is_identity else _read_resampled)(job, box)


def _read_stored(job: Job, box: Box) -> NDArray[np.float32] | None:
    """Read and normalise a box of the volume."""
    voxels = job.volume.read(box)
    voxels = voxels.reshape(-1, *box.shape)
    if job.fill_value is not None and is_fill(voxels, job.fill_value):
        return None
    image = normalise_channels(voxels, job.intensity)
    if job.fill_value != job.fill_value:  # never written: as dark as the darkest
        image[np.isnan(voxels)] = 0.0
    if not np.isfinite(image).all():
        raise IntensityError(f"{job.volume.name}: NaN or infinite voxels in {box}")
    return image


def _read_resampled(job: Job, box: Box) -> NDArray[np.float32] | None:
    """Resample a box slab by slab: the part of the volume that it shows may be far larger."""
    found, resampling = False, job.resampling
    image = np.zeros((len(job.intensity), *box.shape), np.float32)
    for slab in slabs(resampling, box):
        needed = resampling.needed(slab)
        stored = _read_stored(job, needed)
        if stored is None:
            low = [normalise(np.full(1, job.fill_value), r) for r in job.intensity]
            dark = np.nan_to_num(np.stack(low), nan=0.0)
            image[(slice(None), *slab.slices_in(box))] = dark.reshape(-1, *(1,) * box.ndim)
            continue
        found = True
        image[(slice(None), *slab.slices_in(box))] = resampling.image(stored, slab)
    return image if found else None


def slabs(resampling: Resampling, box: Box) -> list[Box]:
    """Cut a box of the target along its first axis, so that each piece needs few source voxels."""
    planes = SLAB_VOXELS // prod(resampling.needed(box).shape[1:])
    thickness = max(1, int(planes * resampling.zoom[0]))
    edges = [*range(box.start[0], box.stop[0], thickness), box.stop[0]]
    return [Box((a, *box.start[1:]), (b, *box.stop[1:])) for a, b in pairwise(edges)]
