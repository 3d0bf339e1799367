"""Make a volume in memory readable by other processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from embedseg_large.geometry import Box
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.storage.arrays import create_array, open_array
from embedseg_large.storage.disk import output_errors
from embedseg_large.volumes.volume import Volume, open_volume

_CHUNK = {2: 1024, 3: 128}


def reopenable(job: Job) -> Job:
    """Return the job with volumes that any worker can open by path.

    A volume that only this process holds is written once, chunk by chunk, into the scratch folder.
    """
    place, mask = job.scratch.path, job.foreground.mask
    if mask is not None:
        mask = _spooled(mask, f"{place}/mask")
    return replace(
        job,
        volume=_spooled(job.volume, f"{place}/volume"),
        foreground=replace(job.foreground, mask=mask),
    )


def _spooled(volume: Volume, path: str) -> Volume:
    """Return the volume as a copy at a path or URL."""
    if volume.path is not None:
        return volume
    chunk = tuple(min(n, _CHUNK[volume.ndim]) for n in volume.spatial_shape)
    with output_errors(path):
        # an unfinished copy of a killed attempt is overwritten
        create_array(
            path,
            shape=volume.shape,
            chunks=(1,) * (len(volume.axes) - volume.ndim) + chunk,
            dtype=volume.dtype,
        )
        _fill(open_array(path, "r+"), volume, chunk)
    channel = None if volume.channel is None and volume.n_channels > 1 else 0
    copied = replace(volume.nodata, stored=False)  # chunks of the copy are unrelated to the image
    return open_volume(path, axes=volume.axes, channel=channel, nodata=copied)


def _fill(array: Any, volume: Volume, chunk: tuple[int, ...]) -> None:
    """Copy a volume, chunk by chunk."""
    for box in Box.whole(volume.spatial_shape).split(chunk):
        if "t" not in volume.axes:
            array[(..., *box.slices)] = volume.read(box)
            continue
        for timepoint in range(volume.n_timepoints):
            array[(timepoint, ..., *box.slices)] = volume.read(box, timepoint)
