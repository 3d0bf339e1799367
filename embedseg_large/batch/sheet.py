"""The contact sheet of a batch: a thumbnail of every image with the outlines of its instances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.contrast import display_range
from embedseg_large.geometry import Box
from embedseg_large.pictures import Canvas, Panel, grey_of, numbered, painted, palette
from embedseg_large.storage.disk import whole_file
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume, open_volume

EDGE = 320
"""Longer edge of a thumbnail, in pixels."""
MOST = 150
"""Maximum number of thumbnails; of more images, an evenly spaced selection is shown."""
_GAP, _HEAD, _MARGIN = 12, 34, 24
_LETTERS = 28
"""Number of characters of a caption that fits above a thumbnail."""
_MOST_VOXELS = 1 << 27
"""Maximum number of voxels of a plane that is read for a thumbnail."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A thumbnail and its caption."""

    caption: str
    pixels: Pixels | None
    """(y, x, 3); None: nothing to show."""


def draw_view(image: Volume, labels: str) -> Pixels:
    """Draw the plane with the most labelled voxels, small.

    Parameters
    ----------
    image
        One channel.
    labels
        Path of the group of its labels. Of a series, the first timepoint is shown.

    Returns
    -------
    (y, x, 3), the longer side `EDGE` pixels.
    """
    found = open_volume(labels, channel=None)
    where = _fullest(found)
    plane = _plane(_level_near(found), where)
    grey = _plane(_level_near(image), where)
    scale = EDGE / max(plane.shape)
    panel = Panel(0, 0, *(max(1, round(n * scale)) for n in plane.shape[::-1]))
    low, high = display_range(grey, PERCENTILES)
    ids, numbers = numbered(plane)
    shaded = grey_of(grey if grey.size else np.zeros((1, 1)), panel, low, high)
    return (painted(shaded, numbers, palette(ids.size), panel) * 255).astype(np.uint8)


def evenly(count: int) -> list[int]:
    """Choose the images to show: positions among `count`, at most `MOST`."""
    positions: list[int] = np.linspace(0, count - 1, min(count, MOST)).astype(int).tolist()
    return positions


def draw_sheet(views: Sequence[Thumbnail], path: str | os.PathLike[str], title: str) -> None:
    """Write the picture of a batch.

    Parameters
    ----------
    views
        Thumbnails, at least one and at most `MOST`.
    path
        JPEG to write.
    title
        One line above the thumbnails.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    across = max(1, min(len(views), ceil(sqrt(1.5 * len(views)))))
    down = ceil(len(views) / across)
    canvas = Canvas.blank(
        max(2 * _MARGIN + across * (EDGE + _GAP) - _GAP, 900),
        3 * _MARGIN + 24 + down * (EDGE + _HEAD + _GAP),
    )
    canvas.write(_MARGIN, _MARGIN + 8, title, 9, weight="bold")
    for number, view in enumerate(views):
        row, column = divmod(number, across)
        left = _MARGIN + column * (EDGE + _GAP)
        top = 2 * _MARGIN + 24 + row * (EDGE + _HEAD + _GAP)
        canvas.write(left, top + _HEAD / 2, _fitting(view.caption), 6)
        if view.pixels is not None:
            height, width = view.pixels.shape[:2]
            place = Panel(left, top + _HEAD, min(width, EDGE), min(height, EDGE))
            canvas.show((view.pixels[:EDGE, :EDGE] / 255).astype(np.float32), place)
    with whole_file(path) as begun:
        canvas.save(begun, format="jpeg")


def _fitting(text: str) -> str:
    """Shorten a caption to fit a thumbnail, keeping the end of a name, which is more specific."""
    return text if len(text) <= _LETTERS else f"…{text[1 - _LETTERS :]}"


def _fullest(labels: Volume) -> float:
    """Return the depth (0 to 1) of the plane with the most labelled voxels, at a coarse level."""
    if labels.ndim == 2:
        return 0.5
    coarse = _at_level(labels, len(labels.levels) - 1)
    counts = [
        int(np.count_nonzero(coarse.read(box, _first(coarse))))
        for box in Box.whole(coarse.spatial_shape).split((1, *coarse.spatial_shape[1:]))
    ]
    fullest = int(np.argmax(counts)) if any(counts) else len(counts) // 2
    return (fullest + 0.5) / len(counts)


def _level_near(volume: Volume) -> Volume:
    """The coarsest level of at least `EDGE` pixels along y or x."""
    fit = [
        number
        for number, level in enumerate(volume.levels)
        if level.shape is not None
        and number >= volume.level
        and max(_yx(volume, level.shape)) >= EDGE
    ]
    return _at_level(volume, max(fit, default=volume.level))


def _yx(volume: Volume, shape: Sequence[int]) -> tuple[int, int]:
    y, x = (volume.stored_axes.index(axis) for axis in "yx")
    return shape[y], shape[x]


def _at_level(volume: Volume, level: int) -> Volume:
    if level == volume.level or volume.path is None:
        return volume
    return volume.at_level(level)


def _plane(volume: Volume, depth: float) -> NDArray[Any]:
    """The plane at a depth from 0 to 1; an empty one if it is too large to be read."""
    shape = volume.spatial_shape
    if shape[-1] * shape[-2] > _MOST_VOXELS:
        return np.zeros((0, 0), np.uint8)
    lead = tuple(min(n - 1, int(depth * n)) for n in shape[:-2])
    box = Box((*lead, 0, 0), (*(z + 1 for z in lead), *shape[-2:]))
    return volume.read(box, _first(volume)).reshape(shape[-2:])


def _first(volume: Volume) -> int | None:
    return 0 if "t" in volume.axes else None
