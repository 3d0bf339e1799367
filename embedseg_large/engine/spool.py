"""Make a volume in memory readable by other processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from embedseg_large.engine.job import Job
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.io.group import output_errors
from embedseg_large.io.volume import open_volume

_CHUNK = {2: 1024, 3: 128}


def reopenable(job: Job) -> Job:
    """The same job on a volume that any worker can open by its path.

    A volume that only this process has is written once, chunk by chunk, into the scratch folder.
    """
    volume = job.volume
    if volume.path is not None:
        return job
    import zarr

    path = str(Path(job.scratch.path) / "volume")
    if "://" in path:
        raise UsageError(
            "the image is in this process's memory, where workers do not see it; save it, or "
            "give a local scratch folder"
        )
    axes = volume.axes
    lead = volume.shape[: len(axes) - volume.ndim]
    chunk = tuple(min(n, _CHUNK[volume.ndim]) for n in volume.spatial_shape)
    with output_errors(path):
        array: Any = zarr.create_array(
            path,
            shape=volume.shape,
            chunks=(*lead, *chunk),
            dtype=volume.dtype,
            overwrite=True,  # an earlier attempt may have been killed in the middle
        )
        for box in Box.whole(volume.spatial_shape).split(chunk):
            array[(..., *box.slices)] = volume.read(box)
    channel = None if volume.channel is None and volume.n_channels > 1 else 0
    return replace(job, volume=open_volume(path, axes=axes, channel=channel))
