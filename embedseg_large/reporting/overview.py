"""The volume as a whole: slices along each axis and maximum projections, from a level that fits.

::

    z: y, x   | x: y, z        panels of one scale; a 2D image has the first only
    ----------+--------
    y: z, x   |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.contrast import display_range
from embedseg_large.geometry import Box
from embedseg_large.pictures import Labels, Panel, fullest, grey_of, round_length
from embedseg_large.reporting.drawing import Inks, Picture, grey_pixels, overlay, picture
from embedseg_large.reporting.subject import ReportSubject
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume

MOST_VOXELS = 2**25
"""Maximum number of voxels read of image and labels; of a larger coarsest level, the centre is
read."""
SIDE = 1400
"""Width of all panels together, in pixels."""
_CLEAR = 18
"""Diameter in pixels from which outlines do not hide an instance."""
_PIXELS_PER_VOXEL = 8
"""Maximum magnification: more would not show more."""
_CLOSEUP = 9
"""Edge of a close-up, in diameters of a typical instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pane:
    """A plane or projection."""

    axis: str
    """Letter of the axis that is cut; empty in 2D."""
    caption: str
    picture: Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Views of a volume, in the order z, x, y."""

    slices: tuple[Pane, ...]
    projections: tuple[Pane, ...]
    """None in 2D."""
    ruler: str
    """Length of the scale bar."""
    ruler_share: float
    """Length of the scale bar as a fraction of the width of the first slice."""
    diameter: float
    """Diameter of a typical instance, in pixels."""
    where: str
    """The box, in voxels of the level."""
    level: int
    """Level of the labels."""
    shape: tuple[int, ...]
    """Voxels of that level."""
    is_part: bool
    """Whether only the middle of it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """Voxels that are in memory."""

    image: NDArray[Any]
    labels: Labels
    box: Box
    steps: tuple[float, ...]
    """Size of a voxel."""
    unit: str
    diameter: float
    """Diameter of a typical instance, in the unit of `steps`."""
    origin: tuple[float, ...]
    """Position of the centre of the level's first voxel."""


def overview(subject: ReportSubject, inks: Inks, diameter: float) -> Overview | None:
    """Draw a volume; None if no image has the shape of a level of the labels.

    Parameters
    ----------
    subject, inks
        What is drawn, and the colours.
    diameter
        Diameter of a typical instance in µm, or in voxels if the voxel size is unknown: outlines
        are wide if it is large, and faint if it is very small.
    """
    pairs = subject.pairs()
    if not pairs:
        return None
    fitting = (pair for pair in pairs if prod(pair[0].spatial_shape) <= MOST_VOXELS)
    levels = next(fitting, pairs[-1])
    return _drawn(subject, inks, diameter, levels, middle(levels[0].spatial_shape, MOST_VOXELS))


def closeup(
    subject: ReportSubject, inks: Inks, diameter: float, centroids: NDArray[np.float64]
) -> Overview | None:
    """Draw a part of the finest level with many instances; None if there is no image.

    Parameters
    ----------
    subject, inks, diameter
        As for `overview`.
    centroids
        ``(instances, ndim)`` in voxels.
    """
    pairs = subject.pairs()
    if not pairs:
        return None
    edge = np.maximum(1, np.rint(_CLOSEUP * diameter / np.array(subject.steps)))
    cells, counts = np.unique(centroids // edge, axis=0, return_counts=True)
    start = (cells[counts.argmax()] * edge).astype(int)
    stop = start + edge.astype(int)
    box = Box(tuple(start.tolist()), tuple(stop.tolist())).clip(subject.shape)
    part = middle(box.shape, MOST_VOXELS).shift(box.start)  # large instances: not all of it
    return _drawn(subject, inks, diameter, pairs[0], part)


def _drawn(
    subject: ReportSubject, inks: Inks, diameter: float, levels: tuple[Volume, Volume], box: Box
) -> Overview:
    """Draw a box of a level of labels and image."""
    labels, image = levels
    full = [n * step for n, step in zip(subject.shape, subject.steps, strict=True)]
    sight = _Sight(
        image=subject.read(image, box),
        labels=subject.read(labels, box),
        box=box,
        steps=tuple(s / n for s, n in zip(full, labels.spatial_shape, strict=True)),
        unit="" if subject.voxel_size is None else "µm",
        diameter=diameter,
        origin=labels.origin,
    )
    width = sight.steps[-1] * box.shape[-1]
    ruler = round_length(width / 4)
    return Overview(
        slices=tuple(_slices(sight, subject, inks)),
        projections=tuple(_projections(sight, subject, inks)) if box.ndim == 3 else (),
        ruler=f"{ruler:g} {sight.unit or 'px'}",
        ruler_share=ruler / width,
        diameter=_scale(sight) * diameter,
        where=", ".join(
            f"{axis} {a}:{b}"
            for axis, a, b in zip("zyx"[-box.ndim :], box.start, box.stop, strict=True)
        ),
        level=labels.level,
        shape=labels.spatial_shape,
        is_part=box != Box.whole(labels.spatial_shape),
    )


def middle(shape: Sequence[int], most: int) -> Box:
    """Return the centre of a volume, with at most about `most` voxels."""
    whole = Box.whole(shape)
    factor = min(1.0, (most / whole.size) ** (1 / len(shape)))
    lengths = [max(1, int(n * factor)) for n in shape]
    start = tuple((n - m) // 2 for n, m in zip(shape, lengths, strict=True))
    return Box(start, tuple(a + m for a, m in zip(start, lengths, strict=True)))


def _panels(sight: _Sight) -> dict[int, Panel]:
    """Compute the size of the panel of each axis; 0 for axes that a 2D image lacks."""
    sides = [n * s for n, s in zip(sight.box.shape, sight.steps, strict=True)]
    z, y, x = (0.0, *sides)[-3:]
    scale = _scale(sight)
    lengths = {0: (y, x), 1: (z, x), 2: (y, z)}
    axes = range(3) if sight.box.ndim == 3 else range(1)
    sizes = {a: [max(1, round(scale * n)) for n in lengths[a]] for a in axes}
    return {a: Panel(0, 0, width, height) for a, (height, width) in sizes.items()}


def _scale(sight: _Sight) -> float:
    """Pixels per µm."""
    z, y, x = (0.0, *(n * s for n, s in zip(sight.box.shape, sight.steps, strict=True)))[-3:]
    return min(SIDE / (x + z), SIDE / (y + z), _PIXELS_PER_VOXEL / min(sight.steps))


def _lines(labels: Labels, panel: Panel, inks: Inks, sight: _Sight) -> NDArray[np.uint8]:
    """Draw outlines: wide where instances are large, faint where they are very small."""
    pixels = _scale(sight) * sight.diameter
    lines = overlay(labels, panel, inks, width=int(np.clip(pixels / 24, 1, 3)))
    lines[..., 3] = np.rint(lines[..., 3] * np.clip(pixels / _CLEAR, 0.35, 1))
    return lines


def _slices(sight: _Sight, subject: ReportSubject, inks: Inks) -> Iterator[Pane]:
    for axis, panel in _panels(sight).items():
        flat = sight.box.ndim == 2
        at = 0 if flat else fullest(sight.labels, axis)
        image, labels = (
            v if flat else _turned(v.take(at, axis), axis) for v in (sight.image, sight.labels)
        )
        grey = grey_of(image, panel, *subject.contrast)
        letter = "" if flat else "zyx"[axis]
        caption = "" if flat else f"{letter} = {_place(sight, axis, at)}"
        alt = f"Slice at {caption} with outlines" if caption else "Image with outlines"
        yield _view(
            letter,
            caption,
            grey,
            _lines(labels, panel, inks, sight),
            alt,
            subject,
        )


def _projections(sight: _Sight, subject: ReportSubject, inks: Inks) -> Iterator[Pane]:
    for axis, panel in _panels(sight).items():
        brightest = _turned(np.fmax.reduce(sight.image, axis), axis)  # NaN only where all are
        first = _turned(first_seen(sight.labels, axis), axis)
        # a range of its own: projections are brighter than planes
        low, high = subject.contrast[0], display_range(brightest, PERCENTILES)[1]
        grey = grey_of(brightest, panel, low, max(high, subject.contrast[1]))
        letter = "zyx"[axis]
        alt = f"Maximum projection along {letter} with outlines of the nearest instances"
        lines = _lines(first, panel, inks, sight)
        yield _view(letter, f"along {letter}", grey, lines, alt, subject)


def _view(
    axis: str,
    caption: str,
    grey: NDArray[np.float32],
    lines: NDArray[np.uint8],
    alt: str,
    subject: ReportSubject,
) -> Pane:
    words = f"{alt}, {subject.name}"
    return Pane(axis=axis, caption=caption, picture=picture(grey_pixels(grey), lines, words))


def _turned(plane: NDArray[Any], axis: int) -> NDArray[Any]:
    """Orient a plane like its panel: y down, and z to the right in that of x."""
    return plane.T if axis == 2 else plane


def first_seen(labels: Labels, axis: int) -> Labels:
    """Project labels: take the first non-zero label along each line of an axis."""
    at = np.expand_dims((labels != 0).argmax(axis), axis)
    return np.take_along_axis(labels, at, axis).squeeze(axis)


def _place(sight: _Sight, axis: int, at: int) -> str:
    """Describe the position of a plane: in µm according to the metadata, or its index."""
    number = sight.box.start[axis] + at
    place = number * sight.steps[axis] + sight.origin[axis]
    return f"{place:.1f} µm" if sight.unit else str(number)
