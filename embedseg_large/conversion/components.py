"""The numbered connected pieces of a mask: converts a binary mask to a label image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.volumes.stored_array import wrap_array
from embedseg_large.volumes.volume import Volume

MOST_VOXELS = 2**31
"""Maximum voxels of a mask, which is held in memory."""
_FRAME_BYTES, _RESULT_BYTES = 17, 8
"""Memory per voxel: of one timepoint while its pieces are numbered, and of the result of all."""
MOST_VALUES = 64
"""Maximum classes of a mask; with more, it is a label image, or an image."""


def components(volume: Volume) -> Volume:
    """Number the connected pieces of a mask.

    Pieces touch by faces (in 2D by edges); two values never form one piece. Numbers ascend from 1
    in every timepoint: first by value, then with the first voxel of a piece in raster order.

    Parameters
    ----------
    volume
        Without a channel axis.

    Returns
    -------
    The same volume as uint32, with its location.

    Raises
    ------
    UsageError
        If it has several channels or more values than a mask, or is too large, also for the memory
        that is available.
    """
    if volume.n_channels > 1:
        raise UsageError(
            f"{volume.name}: {volume.n_channels} channels, a mask has one; choose one, or save it"
        )
    if prod(volume.stored_shape) > MOST_VOXELS:
        raise UsageError(
            f"{volume.name}: {volume.stored_shape} voxels are too many to number in memory; "
            "segment the image instead, or number parts of the mask"
        )
    _check_memory(volume)
    opener = partial(_numbered, volume)
    shape = volume.stored_shape
    storage = wrap_array(_Declared(shape), opener, volume.storage.location)
    _ = storage.array  # numbered now: what is no mask is refused before anything is written
    return replace(volume, storage=storage)


def _check_memory(volume: Volume) -> None:
    """Refuse a mask for which the available memory is too small."""
    from psutil import virtual_memory

    frame = (_FRAME_BYTES + 2 * volume.dtype.itemsize) * prod(volume.spatial_shape)
    needed = frame + _RESULT_BYTES * prod(volume.stored_shape)
    available = virtual_memory().available
    if needed > available:
        raise UsageError(
            f"{volume.name}: numbering the pieces of {volume.stored_shape} voxels takes "
            f"{needed / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} GiB are available; "
            "number parts of the mask, or use a larger machine"
        )


class _Declared:
    """Shape and type of a result that is not computed yet."""

    dtype = np.dtype(np.uint32)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def _numbered(volume: Volume) -> NDArray[np.uint32]:
    one = replace(volume, channel=0)
    whole = Box.whole(volume.spatial_shape)
    times = range(volume.n_timepoints)
    frames = [_pieces(one.read(whole, None if one.timepoint == t else t), one) for t in times]
    letters = f"t{volume.spatial_axes}"
    order = [letters.index(a) for a in volume.stored_axes if a in letters]
    found = np.stack(frames)
    found = (
        found.transpose(order)
        if "t" in volume.stored_axes
        else found[0].transpose([i - 1 for i in order])
    )
    return found.reshape(volume.stored_shape)


def _pieces(mask: NDArray[Any], volume: Volume) -> NDArray[np.uint32]:
    from scipy import ndimage

    values = np.unique(mask)
    values = values[values > 0]
    if values.size > MOST_VALUES:
        raise UsageError(
            f"{volume.name}: {values.size:,} values above 0; a mask has few: 1, or one per class. "
            "If they are labels already, pass --labels instead of --components"
        )
    labels = np.zeros(mask.shape, np.uint32)
    count = 0
    for value in values:
        found, more = ndimage.label(mask == value)
        found[found > 0] += count
        np.add(labels, found, out=labels, casting="unsafe")  # without a copy: numbers are >= 0
        count += more
    return labels
