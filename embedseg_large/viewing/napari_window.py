"""The scene in napari: lazy pyramids with their scale in µm, labels on top."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from embedseg_large.viewing.scene import Layer, Scene
from embedseg_large.volumes.volume import Volume

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def is_available() -> bool:
    """Whether napari is installed and has a display: without one, Qt aborts the process."""
    has_screen = not sys.platform.startswith("linux") or any(os.environ.get(n) for n in _DISPLAYS)
    return has_screen and find_spec("napari") is not None


def show(scene: Scene, title: str) -> None:
    """Open a window, and return when it is closed."""
    napari: Any = import_module("napari")
    viewer = napari.Viewer(title=title)
    add_layers(viewer, scene)
    napari.run()


def add_layers(viewer: Any, scene: Scene) -> None:
    """Add a scene to a napari viewer; only the first labels are visible."""
    image = scene.image
    volume, contrast = image.finest, [list(c) for c in scene.contrast]
    channel = volume.axes.find("c")
    viewer.add_image(
        _pyramid(image),
        channel_axis=None if channel < 0 else channel,
        name=_only_name(image) if channel < 0 else _channel_names(volume),
        contrast_limits=contrast[0] if channel < 0 else contrast,
        **_placed(image),
    )
    for number, layer in enumerate(scene.labels):
        viewer.add_labels(_pyramid(layer), name=layer.name, visible=number == 0, **_placed(layer))


def _only_name(image: Layer) -> str:
    """Name of the channel that was chosen, if it has one, or else of the image."""
    (number,), names = image.channels, image.finest.channel_names
    return names[number] if len(names) > 1 else image.name


def _channel_names(volume: Volume) -> list[str]:
    return list(volume.channel_names) or [f"channel {c}" for c in range(volume.n_channels)]


def _pyramid(layer: Layer) -> Any:
    """Lazy arrays, finest first; napari expects a single one without a list."""
    data = [level.data for level in layer.levels]
    return data if len(data) > 1 else data[0]


def _placed(layer: Layer) -> dict[str, Any]:
    """Scale, place and units of all axes except channels."""
    volume = layer.finest
    before = [a for a in volume.axes if a == "t"]
    size = volume.voxel_size or (1.0,) * volume.ndim
    unit = "pixel" if volume.voxel_size is None else "um"
    units = ("pixel",) * len(before) + (unit,) * volume.ndim
    names = (*before, *volume.spatial_axes)
    placed = {"scale": (1.0,) * len(before) + size, "units": units, "axis_labels": names}
    if any(volume.origin):
        placed["translate"] = (0.0,) * len(before) + volume.origin
    return placed
