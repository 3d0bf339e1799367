"""The subject of a report: labels, their image, and the record of their run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import (
    image_options,
    label_names,
    place_of_image,
    place_of_labels,
    provenance_of,
)
from embedseg_large.measurement import measure
from embedseg_large.measurement.options import AxesOptions, SubjectOptions
from embedseg_large.reporting.options import ReportOptions
from embedseg_large.runs.log_file import scrubbed
from embedseg_large.storage.connection import is_remote, shown
from embedseg_large.viewing.scene import Layer, Range, contrasts, open_layer
from embedseg_large.volumes.volume import Volume, open_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSubject:
    """Labels of one timepoint, and one channel of their image."""

    name: str
    """Name of the labels."""
    labels: Layer
    image: tuple[Volume, ...]
    """The channel at all levels, finest first; none if there is no image."""
    contrast: Range
    """Intensities displayed as black and white."""
    channel: int
    timepoint: int
    voxel_size: tuple[float, ...] | None
    """Voxel size in µm along (z,) y, x of the labels' finest level."""
    made: Mapping[str, Any]
    """The record of the run; empty for labels of other programs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the labels along (z,) y, x."""
        return self.labels.finest.spatial_shape

    @property
    def steps(self) -> tuple[float, ...]:
        """Voxel size, or ones if it is unknown."""
        return self.voxel_size or (1.0,) * len(self.shape)

    @property
    def unit(self) -> str:
        """Name of its smallest part, for display."""
        return "voxel" if len(self.shape) == 3 else "pixel"

    @property
    def whole(self) -> str:
        """Name of the whole, for display."""
        return "volume" if len(self.shape) == 3 else "image"

    @property
    def place(self) -> str:
        """Location of the labels, for display."""
        return self.labels.finest.name

    def pairs(self) -> list[tuple[Volume, Volume]]:
        """Levels that labels and image have in common, finest first."""
        images = {level.spatial_shape: level for level in reversed(self.image)}
        return [
            (level, images[level.spatial_shape])
            for level in self.labels.levels
            if level.spatial_shape in images
        ]

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Read a region of a level at the timepoint; booleans become 1 and 0."""
        voxels = volume.read(box, None if volume.timepoint is not None else self.timepoint)
        return voxels.view(np.uint8) if voxels.dtype == np.bool_ else voxels


def find_subject(
    source: str | os.PathLike[str], labels: str | None, asked: ReportOptions
) -> ReportSubject:
    """Open labels and image, and find every reason to refuse them.

    Parameters
    ----------
    source
        Path or URL of an image with labels inside, or of the labels themselves.
    labels
        Name of the labels in the image; None: the only ones.
    asked
        Options of the report.

    Raises
    ------
    UsageError
        If there are no such labels, several to choose from, or no such timepoint.
    VolumeError
        If something cannot be read, the labels are not integers, or do not match the image.
    """
    place = _place(os.fspath(source), labels, asked.axes, has_image=asked.image is not None)
    name = place.rstrip("/").rpartition("/")[2]
    opened = _open_named if labels else open_layer
    layer = opened(place, name, axes=asked.axes)
    layer = replace(layer, levels=tuple(level.flattened() for level in layer.levels))
    made = scrubbed(provenance_of(place)) if layer.finest.is_labels else {}
    where, channel = asked.image, asked.channel
    where = place_of_image(place, made, asked.image_axes) if where is None else os.fspath(where)
    if where is None and channel is not None:
        raise UsageError(
            f"{layer.finest.name}: no image to take a channel from; pass it with --image"
        )
    if where is not None and channel is None:
        channel = made.get("volume", {}).get("channel") or 0
    axes = AxesOptions.among(vars(asked))
    found = measure.find_subject(place, None, SubjectOptions(image=where, channel=channel, **axes))
    shown_image = None
    if where is not None:
        options = image_options(place, where, asked.image_axes)
        shown_image = open_layer(where, "image", **options)
    number = (found.channels[0].channel or 0) if found.channels else 0
    return ReportSubject(
        name=name,
        labels=layer,
        image=_levels(shown_image, number, layer.finest.ndim),
        contrast=_contrast(shown_image, layer, number),
        channel=number,
        timepoint=_timepoint(asked.timepoint, layer.finest, made),
        voxel_size=found.voxel_size,
        made=made,
    )


def _place(source: str, name: str | None, axes: str | None, *, has_image: bool) -> str:
    """Find the labels."""
    if not is_remote(source) and not Path(source).exists():
        raise VolumeNotFoundError(f"{source}: there is no such file or folder")
    place = place_of_labels(source, name)
    if place != source or has_image:
        return place
    if not open_volume(source, channel=None, axes=axes).is_labels:
        raise UsageError(
            f"{shown(source)} has no labels inside; segment it first, or if these are labels, "
            "pass their image with --image"
        )
    return source


def _open_named(place: str, name: str, *, axes: str | None) -> Layer:
    """Open labels of a store; if missing, the error lists those that exist."""
    try:
        return open_layer(place, name, axes=axes)
    except VolumeNotFoundError as error:
        store = place.removesuffix(f"/labels/{name}")
        names = ", ".join(label_names(store))
        there = f"there are {names}" if names else "there are none"
        raise VolumeNotFoundError(f"{shown(store)}: no labels {name!r}, {there}") from error


def _levels(image: Layer | None, channel: int, ndim: int) -> tuple[Volume, ...]:
    """Open the channel at all levels, as 2D images if the labels are 2D."""
    levels = () if image is None else image.levels
    chosen = (replace(level, channel=channel) for level in levels)
    return tuple(level.flattened() if ndim == 2 else level for level in chosen)


def _contrast(image: Layer | None, labels: Layer, channel: int) -> Range:
    return (0.0, 1.0) if image is None else list(contrasts(image, [labels]))[channel]


def _timepoint(asked: int | None, labels: Volume, made: Mapping[str, Any]) -> int:
    done = [t for t in made.get("volume", {}).get("timepoints") or [] if t is not None]
    said = done[0] if done and done[0] < labels.n_timepoints else 0
    chosen = said if asked is None else asked
    if not 0 <= chosen < labels.n_timepoints:
        raise UsageError(
            f"{labels.name}: no timepoint {chosen}, there are {labels.n_timepoints}, from 0"
        )
    return chosen
