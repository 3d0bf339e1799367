"""What is displayed: an image, its labels, and the intensity range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from embedseg_large.contrast import display_range
from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import (
    image_options,
    label_names,
    place_of_image,
    place_of_labels,
    provenance_of,
    split_place,
)
from embedseg_large.storage.connection import joined
from embedseg_large.storage.group import ZarrGroup, ngff_content
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume, open_volume

MOST_VOXELS = 2**25
"""Maximum number of voxels of the coarsest level that are read for their percentiles, which are
used if no display range is recorded."""

Range = tuple[float, float]
"""Intensities displayed as black and white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An image or labels, at all resolutions."""

    name: str
    levels: tuple[Volume, ...]
    """Finest first, all channels and timepoints."""

    @property
    def finest(self) -> Volume:
        """The level with full detail."""
        return self.levels[0]

    @property
    def path(self) -> str:
        """Absolute path or URL; may be a signed URL, so do not show it."""
        assert self.finest.path is not None
        return self.finest.path

    @property
    def channels(self) -> tuple[int, ...]:
        """Indices of the displayed channels."""
        chosen = self.finest.channel
        return tuple(range(self.finest.n_channels)) if chosen is None else (chosen,)

    def level_of(self, most_voxels: int) -> Volume:
        """Return the finest level with at most `most_voxels` per timepoint, or the coarsest."""
        sizes = (Box.whole(level.spatial_shape).size for level in self.levels)
        pairs = zip(self.levels, sizes, strict=True)
        return next((level for level, size in pairs if size <= most_voxels), self.levels[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An image with its labels."""

    image: Layer
    labels: tuple[Layer, ...]
    contrast: tuple[Range, ...]
    """One per displayed channel."""


def open_scene(
    store: str,
    labels: str | None = None,
    axes: str | None = None,
    channel: int | str | None = None,
) -> Scene:
    """Open an image and its labels; reads no more voxels than those of a coarse level.

    Parameters
    ----------
    store
        Path or URL of an image, or of one of its label groups (``STORE/labels/NAME``).
    labels
        Name of labels in the store, or path of a label group elsewhere; None: all of them.
        For a store that holds only labels, the image recorded by their run is opened.
    axes
        Letters of the axes of an image that does not name them, if its labels do not know them.
    channel
        The only channel to show, by number or name; None: all.

    Raises
    ------
    UsageError
        If there are no labels of that name; the message lists those that exist.
    VolumeError
        If something cannot be read.
    """
    elsewhere = labels if labels is not None and "/" in labels else None
    around = None if elsewhere else _image_elsewhere(store, labels)
    if around is not None:
        place, store = around
        elsewhere = labels = place
    opened = open_volume(store, channel=None, **image_options(elsewhere, store, axes))
    if opened.is_labels:
        if labels is not None:
            raise UsageError(f"{store}: this is a label volume itself; leave out --labels")
        assert opened.path is not None
        elsewhere = opened.path
        store, labels = split_place(elsewhere) or (elsewhere, "")
    image = open_layer(store, "image", channel, **image_options(elsewhere, store, axes))
    found = tuple(_labels(image, labels))
    return Scene(image=image, labels=found, contrast=tuple(contrasts(image, found)))


def open_layer(path: str, name: str, channel: int | str | None = None, **options: Any) -> Layer:
    """Open an image or labels at all levels that have an array, under a name; reads no voxels.

    `channel` is the only one to show, None: all. `options` are those of `open_volume` for a
    file with incomplete metadata, such as ``axes``.
    """
    finest = open_volume(path, channel=channel, **options)
    there = [k for k, level in enumerate(finest.levels) if level.shape is not None]
    return Layer(name=name, levels=(finest, *(finest.at_level(k) for k in there if k)))


def _image_elsewhere(store: str, labels: str | None) -> tuple[str, str] | None:
    """Open labels in a store without an image, and the image recorded by their run."""
    with suppress(VolumeError, UsageError):
        own = split_place(store)
        root = store if own is None else own[0]
        folder_at(root).check_reachable()
        if ngff_content(ZarrGroup.at(root).attributes()).get("multiscales"):
            return None
        place = store if own else place_of_labels(store, labels)
        image = place_of_image(place, provenance_of(place)) if place != store or own else None
        return None if image is None else (place, image)
    return None


def _labels(image: Layer, asked: str | None) -> Iterator[Layer]:
    names = label_names(image.path) if image.finest.ngff_version else []
    if asked is not None and "/" in asked:
        layer = open_layer(asked, asked.rstrip("/").rpartition("/")[2])
        _check_fits(layer, image)
        yield layer
        return
    if asked is not None and asked not in names:
        there = f"there are {', '.join(names)}" if names else "there are none"
        raise UsageError(f"{image.finest.name}: no labels {asked!r}, {there}")
    for name in names if asked is None else [asked]:
        # a list may name deleted labels, which matters only if they are requested
        with nullcontext() if asked else suppress(VolumeNotFoundError):
            yield open_layer(joined(image.path, f"labels/{name}"), name)


def _check_fits(labels: Layer, image: Layer) -> None:
    """Refuse labels of another image; those of a coarser level of it are fine."""
    if labels.finest.dtype.kind not in "bui":
        raise VolumeError(
            f"{labels.finest.name}: voxels of type {labels.finest.dtype} are not labels"
        )
    shapes = [level.spatial_shape for level in image.levels]
    if labels.finest.spatial_shape not in shapes:
        raise UsageError(
            f"{labels.finest.name}: labels of shape {labels.finest.spatial_shape} do "
            f"not match {image.finest.name}, which has {shapes[0]}"
        )


def contrasts(image: Layer, labels: Sequence[Layer]) -> Iterator[Range]:
    """The range of each channel: the network's, that of the metadata, or percentiles."""
    seen = _seen_by_network(labels)
    stored = _stored_windows(image)
    for channel in image.channels:
        yield seen.get(channel) or stored.get(channel) or _measured(image, channel)


def _seen_by_network(labels: Sequence[Layer]) -> dict[int, Range]:
    """The intensities that became 0 and 1 according to the labels, by channel."""
    found: dict[int, Range] = {}
    for layer in labels:
        made = provenance_of(layer.path) if layer.finest.ngff_version else {}
        channel, ranges = made.get("volume", {}).get("channel"), made.get("intensity")
        if channel is not None and ranges and isinstance(ranges[0], dict):
            found[channel] = float(ranges[0]["low"]), float(ranges[0]["high"])
    return found


def _stored_windows(image: Layer) -> dict[int, Range]:
    """Display ranges in the metadata, by channel."""
    if image.finest.ngff_version is None:
        return {}
    found: dict[int, Range] = {}
    match ngff_content(ZarrGroup.at(image.path).attributes()):
        case {"omero": {"channels": [*channels]}}:
            for number, channel in enumerate(channels):
                window = _window(channel)
                if window is not None:
                    found[number] = window
    return found


def _window(channel: Any) -> Range | None:
    """The display range of a channel, if it is one."""
    match channel:
        case {"window": {"start": int() | float() as low, "end": int() | float() as high}}:
            return (float(low), float(high)) if -inf < low < high < inf else None
    return None


def _measured(image: Layer, channel: int) -> Range:
    """Percentiles of a coarse level, or of a plane of it, of the first timepoint."""
    level = image.level_of(MOST_VOXELS)
    whole = Box.whole(level.spatial_shape)
    if whole.size > MOST_VOXELS:
        middle = whole.shape[0] // 2
        whole = Box((middle, *whole.start[1:]), (middle + 1, *whole.stop[1:]))
    one = replace(level, channel=channel)
    return display_range(one.read(whole, None if one.timepoint is not None else 0), PERCENTILES)
