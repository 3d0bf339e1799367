"""What a segmenter sees of a volume: normalised, on its own grid, and stamped."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import IntensityError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.tiling.axis import padded_sources
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import normalise_channels

SLAB_VOXELS = 2**24
"""Voxels of the volume that are read and resampled at a time, where a plane has no more."""


class Seen(NamedTuple):
    """What a network sees of a box."""

    image: NDArray[np.float32]
    """``(channels, *box)``, normalised; 0 where there is no data."""
    absent: NDArray[np.bool_] | None
    """``(*box)``: voxels that hold no data in any channel; None: all hold some."""


def stamp_of(job: Job, seen: Box) -> int:
    """What changes when the image does, in a region of the grid."""
    if job.in_memory:  # its content was hashed; a copy of it for workers is written at each attempt
        return 0
    return job.volume.stamp(seen if job.resampling.is_identity else job.resampling.needed(seen))


def read_padded(job: Job, region: Box) -> Seen | None:
    """What a network sees of a region that may reach into the grid's padding.

    None where no voxel holds data.
    """
    sources = [
        padded_sources(a, b, n)
        for a, b, n in zip(region.start, region.stop, job.shape, strict=True)
    ]
    box = Box(tuple(int(s.min()) for s in sources), tuple(int(s.max()) + 1 for s in sources))
    seen = read_normalised(job, box)
    if seen is None:
        return None
    image, absent = seen
    for axis, (source, start) in enumerate(zip(sources, box.start, strict=True)):
        if source[-1] != start + source.size - 1:  # padding: not simply one after the other
            image = image.take(source - start, axis=axis + 1)
            absent = None if absent is None else absent.take(source - start, axis=axis)
    return Seen(image, absent)


def read_normalised(job: Job, box: Box) -> Seen | None:
    """Read a box of the grid; None if no voxel of it holds data.

    What is outside of the user's mask holds none.
    """
    return (_read_stored if job.resampling.is_identity else _read_resampled)(job, box)


def _read_stored(job: Job, box: Box) -> Seen | None:
    """Read and normalise a box of the volume."""
    voxels = job.volume.read(box)
    empty = job.volume.without_data(box, voxels).reshape(-1, *box.shape)
    inside = job.foreground.inside(box, job.volume.spatial_shape, job.timepoint)
    if inside is not None:
        empty |= ~inside
    if not empty.any():
        return Seen(_finite(job, box, _normalised(job, _channels(voxels, box), box)), None)
    absent = np.asarray(empty.all(axis=0))
    if absent.all():
        return None
    image = _normalised(job, _channels(voxels, box), box)
    image[empty] = 0.0
    return Seen(_finite(job, box, image), absent if absent.any() else None)


def _channels(voxels: NDArray[Any], box: Box) -> NDArray[Any]:
    return voxels.reshape(-1, *box.shape)


def _normalised(job: Job, voxels: NDArray[Any], box: Box) -> NDArray[np.float32]:
    """Normalise (channels, *box), after its light was evened out."""
    if job.fields:
        pairs = zip(job.fields, voxels, strict=True)
        voxels = np.stack([field.apply(channel, box) for field, channel in pairs])
    return normalise_channels(voxels, job.intensity)


def _finite(job: Job, box: Box, image: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(image).all():
        raise IntensityError(
            f"{job.volume.name}: NaN or infinite voxels in {box}; "
            "if NaN stands for no data, say so with --nodata nan"
        )
    return image


def _read_resampled(job: Job, box: Box) -> Seen | None:
    """Resample a box slab by slab: the part of the volume that it shows may be far larger."""
    resampling = job.resampling
    image = np.zeros((len(job.intensity), *box.shape), np.float32)
    absent = np.zeros(box.shape, np.bool_)
    for slab in slabs(resampling, box):
        needed, at = resampling.needed(slab), slab.slices_in(box)
        seen = _read_stored(job, needed)
        if seen is None:
            absent[at] = True
            continue
        image[(slice(None), *at)] = resampling.image(seen.image, slab)
        if seen.absent is not None:
            absent[at] = resampling.nearest(seen.absent, slab)
    if absent.all():
        return None
    return Seen(image, absent if absent.any() else None)


def slabs(resampling: Resampling, box: Box) -> list[Box]:
    """Cut a box of the target along its first axis, so that each piece needs few source voxels."""
    planes = SLAB_VOXELS // prod(resampling.needed(box).shape[1:])
    thickness = max(1, int(planes * resampling.zoom[0]))
    edges = [*range(box.start[0], box.stop[0], thickness), box.stop[0]]
    return [Box((a, *box.start[1:]), (b, *box.stop[1:])) for a, b in pairwise(edges)]
