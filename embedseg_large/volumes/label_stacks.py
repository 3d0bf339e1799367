"""Stacks of masks: the objects of a 2D image that overlap, one in each plane.

A stack has the axes ``(objects, y, x)``, which files call z or channels. A plane is 0 outside its
object; its other value has no meaning, except that negative voxels, and those of the ignore value,
are unannotated. An object has the number of its plane, counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.volumes.label_images import unannotated
from embedseg_large.volumes.volume import Volume


def n_planes(mask: Volume, ndim: int) -> int | None:
    """Return the number of planes of a stack for an image of `ndim` axes; None: it is no stack."""
    if ndim != 2:
        return None
    if mask.ndim == 3:
        return mask.spatial_shape[0]
    return mask.n_channels if mask.channel is None else None


def box_in(mask: Volume, box: Box) -> Box:
    """Return the box to read from a mask, a stack or not, for a box of its image."""
    if mask.ndim == box.ndim:
        return box
    return Box((0, *box.start), (mask.spatial_shape[0], *box.stop))


def numbered(voxels: NDArray[Any], where: str, ignore: int = UNANNOTATED) -> NDArray[np.int32]:
    """Give every object of a stack the number of its plane.

    Parameters
    ----------
    voxels
        ``(objects, *spatial)``, integers or bool.
    where
        Name of the stack, for messages.
    ignore
        Value of unannotated voxels, in addition to negative ones.

    Returns
    -------
    int32 of the same shape: -1 in all planes where one is not annotated, 0 outside the object.

    Raises
    ------
    VolumeError
        If a plane holds several objects, as those of a volume do.
    """
    ignored = _ignored(voxels, ignore)
    inside = voxels != 0
    for number, plane in enumerate(voxels):
        _check_plane(plane, number, where, ignore)
    numbers = np.arange(1, len(voxels) + 1, dtype=np.int32)
    labels = np.where(inside, numbers.reshape(-1, *(1,) * (voxels.ndim - 1)), np.int32(0))
    if ignored is not None:
        labels[np.broadcast_to(ignored.any(axis=0), labels.shape)] = UNANNOTATED
    return labels


def check_planes(mask: Volume, where: str, ignore: int = UNANNOTATED) -> list[int]:
    """Read a stack plane by plane, and return the planes that are empty.

    Raises
    ------
    VolumeError
        If a plane holds several objects.
    """
    found = (_check_plane(p, i, where, ignore) for i, p in enumerate(_planes(mask)))
    return [number for number, is_empty in enumerate(found) if is_empty]


def _planes(mask: Volume) -> Iterator[NDArray[Any]]:
    if mask.ndim == 2:
        yield from mask.read(Box.whole(mask.spatial_shape))
        return
    depth, *shape = mask.spatial_shape
    for z in range(depth):
        yield mask.read(Box((z, 0, 0), (z + 1, *shape)))[0]


def _check_plane(plane: NDArray[Any], number: int, where: str, ignore: int) -> bool:
    """Refuse a plane with several objects; return whether it has none."""
    ignored = _ignored(plane, ignore)
    inside = plane[plane != 0] if ignored is None else plane[(plane != 0) & ~ignored]
    if inside.size == 0:
        return True
    first = inside[0]
    others = inside[inside != first]
    if others.size:
        low, high = sorted((int(first), int(others.min())))
        raise VolumeError(
            f"{where}: plane {number} has labels {low} and {high}, but each "
            "plane of a stack for a 2D image holds one object; is this mask of a volume?"
        )
    return False


def _ignored(voxels: NDArray[Any], ignore: int) -> NDArray[np.bool_] | None:
    return None if voxels.dtype.kind == "b" else unannotated(voxels, ignore)
