"""Planes of a scene as PNG pictures, from a level that fits into memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.pictures import Panel, Rgb, grey_of, numbered, painted, palette
from embedseg_large.viewing.scene import Layer, Scene
from embedseg_large.volumes.volume import Volume

LEVEL_VOXELS = 2**25
"""Preferred maximum number of voxels of the level that is shown."""
TOO_MANY_VOXELS = 2**28
"""Absolute maximum number of voxels held in memory."""
LONGEST_SIDE = {2: 1400, 3: 640}
"""Edge of the longest plane, in pixels, by ndim."""
KEPT = 4
"""Number of arrays in memory: an image and labels, and previous ones."""

Style = Literal["filled", "outlines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which plane to show, and how."""

    axis: str
    """Axis that the plane is perpendicular to: ``"z"``, ``"y"`` or ``"x"``."""
    index: int
    """Position along that axis, in voxels of the level that is shown."""
    timepoint: int = 0
    channel: int = 0
    """Position among the channels that are shown."""
    labels: str = ""
    """Name of the labels; empty for none."""
    style: Style = "outlines"


class Planes:
    """Draws planes of a scene.

    Raises
    ------
    VolumeError
        If the coarsest level of the image or of labels is too large to be held in memory.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._volume = scene.image.level_of(LEVEL_VOXELS)
        self._labels = {
            layer.name: _level_for(layer, self._volume.spatial_shape) for layer in scene.labels
        }
        for volume in (self._volume, *self._labels.values()):
            _check_size(volume)
        self._reading = Lock()  # a browser asks for several planes at once; one read serves all
        self._image = lru_cache(KEPT)(self._read_image)
        self._objects = lru_cache(KEPT)(self._read_objects)

    @property
    def axes(self) -> str:
        """Letters of the spatial axes."""
        return self._volume.spatial_axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along these axes of the level that is shown."""
        return self._volume.spatial_shape

    @cached_property
    def voxel_size(self) -> tuple[float, ...]:
        """Voxel size of that level in µm, or ones."""
        return self._volume.voxel_size or (1.0,) * self._volume.ndim

    @cached_property
    def origin(self) -> tuple[float, ...]:
        """Position of the centre of its first voxel, in µm or voxels."""
        return self._volume.origin

    def cut_axes(self) -> str:
        """Axes with planes; for a 2D image z, with the image as the only plane."""
        return self.axes if len(self.axes) == 3 else "z"

    def panel(self, axis: str) -> Panel:
        """Size of the planes of an axis; all have the same scale."""
        sides = [n * s for n, s in zip(self.shape, self.voxel_size, strict=True)]
        scale = LONGEST_SIDE[len(sides)] / max(sides)
        height, width = (s for a, s in zip(self.axes, sides, strict=True) if a != axis)
        return Panel(0, 0, max(1, round(width * scale)), max(1, round(height * scale)))

    def png(self, wanted: Wanted) -> bytes:
        """Draw a plane.

        Raises
        ------
        UsageError
            If there is no such plane, channel, timepoint or labels.
        """
        import imagecodecs

        pixels = np.rint(255 * np.clip(self.pixels(wanted), 0, 1)).astype(np.uint8)
        return bytes(imagecodecs.png_encode(pixels, level=1))

    def pixels(self, wanted: Wanted) -> Rgb:
        """Draw a plane as an array ``(height, width, 3)``, from 0 to 1."""
        self._check(wanted)
        panel = self.panel(wanted.axis)
        with self._reading:
            image = self._image(wanted.timepoint, wanted.channel)
        plane = self._cut(image, wanted, self.shape)
        grey = grey_of(plane, panel, *self._scene.contrast[wanted.channel])
        if not wanted.labels:
            return grey
        with self._reading:
            objects, colours = self._objects(wanted.labels, wanted.timepoint)
        cut = self._cut(objects, wanted, self.shape)
        if wanted.style == "filled":
            return painted(grey, cut, colours, panel)
        return outlined(grey, cut, colours)

    def _check(self, wanted: Wanted) -> None:
        counts = {
            "timepoint": (wanted.timepoint, self._volume.n_timepoints),
            "channel": (wanted.channel, len(self._scene.image.channels)),
        }
        if wanted.axis not in self.cut_axes():
            raise UsageError(f"no planes along {wanted.axis!r}, only along {self.cut_axes()}")
        if len(self.axes) == 3:
            counts["plane"] = (wanted.index, self.shape[self.axes.index(wanted.axis)])
        for what, (number, count) in counts.items():
            if not 0 <= number < count:
                raise UsageError(f"no {what} {number}, there are {count}")
        if wanted.labels and wanted.labels not in self._labels:
            raise UsageError(f"no labels {wanted.labels!r}")

    def _cut(self, voxels: NDArray[Any], wanted: Wanted, shape: tuple[int, ...]) -> NDArray[Any]:
        """Take a plane of an array over the same space, which may have a different resolution."""
        if len(shape) == 2:
            return voxels
        axis = self.axes.index(wanted.axis)
        n, m = shape[axis], voxels.shape[axis]
        at = min(int((wanted.index + 0.5) * m / n), m - 1)
        plane: NDArray[Any] = voxels.take(at, axis)
        return plane

    def _read_image(self, timepoint: int, channel: int) -> NDArray[Any]:
        voxels = _read(self._volume, timepoint)
        has_channels = self._volume.channel is None
        return voxels[channel] if has_channels else voxels

    def _read_objects(self, name: str, timepoint: int) -> tuple[NDArray[np.intp], Rgb]:
        """Return the labels, numbered from 1, and a colour for each."""
        ids, objects = numbered(_read(self._labels[name], timepoint))
        return objects, palette(ids.size)


def _check_size(volume: Volume) -> None:
    """Refuse a level that is too large to be held in memory."""
    if Box.whole(volume.spatial_shape).size > TOO_MANY_VOXELS:
        raise VolumeError(
            f"{volume.name}: no level is small enough to display; embedseg-large "
            "convert makes an image with a pyramid"
        )


def _read(volume: Volume, timepoint: int) -> NDArray[Any]:
    """Read a whole timepoint; labels with a single timepoint apply to all."""
    whole = Box.whole(volume.spatial_shape)
    voxels = volume.read(whole, timepoint if volume.timepoint is None else None)
    return voxels.view(np.uint8) if voxels.dtype == np.bool_ else voxels


def _level_for(layer: Layer, shape: tuple[int, ...]) -> Volume:
    """The level of labels that matches one of the image, or else one that fits into memory."""
    for level in layer.levels:
        if level.spatial_shape == shape:
            return level
    return layer.level_of(LEVEL_VOXELS)


def outlined(grey: Rgb, plane: NDArray[np.intp], colours: Rgb) -> Rgb:
    """Draw the outlines of objects over a picture.

    Parameters
    ----------
    grey
        float32 ``(height, width, 3)``.
    plane
        Numbers of the objects ``(rows, columns)``; 0: none.
    colours
        float32 ``(n + 1, 3)``: the colour of each number.
    """
    height, width = grey.shape[:2]
    rows, columns = (
        ((np.arange(m) + 0.5) * n / m).astype(np.intp)
        for n, m in zip(plane.shape, (height, width), strict=True)
    )
    labels = plane[np.ix_(rows, columns)]
    edge = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    drawn: Rgb = np.where((edge & (labels > 0))[..., None], colours[labels], grey)
    return drawn
