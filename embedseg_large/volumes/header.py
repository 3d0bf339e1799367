"""The metadata of an image, for any format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedseg_large.errors import UsageError, VolumeNotFoundError
from embedseg_large.volumes.axes import letter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of an image."""

    path: str
    """Path of the array below the image; empty if the image is the array."""
    shape: tuple[int, ...] | None
    """Voxels along each stored axis; None if the metadata list a missing level."""
    scale: tuple[float, ...] | None
    """Size of a voxel along each stored axis, in the units of the axes; None if unknown."""
    translation: tuple[float, ...] | None = None
    """Position of the first voxel along each stored axis, in the units of the axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Axes and levels of an image."""

    axes: str | None
    """One letter for each stored axis: t, c, z, y, x, or ``_`` for any other; None if they are not
    named."""
    units: tuple[str | None, ...]
    """Unit of each stored axis, as stored."""
    levels: tuple[Level, ...]
    ngff_version: str | None = None
    is_labels: bool = False
    channels: tuple[str, ...] = ()
    """Names of the channels; empty unless each has one."""
    images: tuple[str, ...] = ()
    """Axes, shape and type of each image in the file, if it can hold several."""
    image: int = 0
    """Index of this image among them."""


def array_header(shape: tuple[int, ...], metadata: Any = None) -> Header:
    """Return the header of a bare array.

    Parameters
    ----------
    shape
        Its shape.
    metadata
        Its zarr metadata, if it has any: those of zarr v3 may name the axes.
    """
    names = getattr(metadata, "dimension_names", None) or (None,)
    axes = None if None in names else "".join(letter(name) for name in names)
    level = Level(path="", shape=shape, scale=None)
    return Header(axes=axes, units=(None,) * len(shape), levels=(level,))


def is_inside(path: str) -> bool:
    """Whether the path of a level stays inside the image: metadata are untrusted."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def pick_image(sizes: Sequence[int], asked: int | None, where: str) -> int:
    """Find an image of a file; by default the largest.

    Parameters
    ----------
    sizes
        Number of voxels of each image, at least one.
    asked
        Index of the image; None: not chosen.
    where
        Path of the file.

    Raises
    ------
    UsageError
        If there is no image with that index.
    """
    count = len(sizes)
    if asked is None and count > 1:
        largest = max(range(count), key=lambda i: (sizes[i], -i))
        logger.info("%s: %d images in the file; using the largest: %d", where, count, largest)
        return largest
    if asked is None:
        return 0
    if not 0 <= asked < count:
        there = "there is 1" if count == 1 else f"there are {count}"
        raise UsageError(f"{where}: no image {asked}, {there}, counted from 0 (--series)")
    return asked


def pick_level(levels: tuple[Level, ...], level: int, where: str) -> Level:
    """Find the level of that index.

    Raises
    ------
    VolumeNotFoundError
        If there is no such level, or the metadata list it but it is missing.
    """
    if not 0 <= level < len(levels):
        raise VolumeNotFoundError(f"{where}: no level {level}, there are {len(levels)}, from 0")
    found = levels[level]
    if found.shape is None:
        if not is_inside(found.path):
            raise VolumeNotFoundError(
                f"{where}: level {level} should be at {found.path!r}, outside of the image; "
                "restore the metadata"
            )
        there = [i for i, other in enumerate(levels) if other.shape is not None]
        raise VolumeNotFoundError(
            f"{where}: level {level} should be at {found.path!r}, where there is no array; "
            f"existing levels: {there}"
        )
    return found
