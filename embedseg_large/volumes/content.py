"""Whether a volume is still what it was when a run began."""

from __future__ import annotations

from embedseg_large.volumes.volume import Volume


def content_of(volume: Volume) -> int | str:
    """Return what changes with a volume: sizes and times of files, or voxels in memory.

    For a volume in a bucket: its state when it was opened.
    """
    if volume.path is None:
        from dask.base import tokenize

        return str(tokenize(volume.storage.array))
    stamped = tuple(slice(None) for _ in volume.stored_shape)
    return volume.storage.digest or volume.storage.stamp(stamped)
