"""Links that open a store in neuroglancer, which runs in the browser and reads the store itself.

A link is its state as JSON behind ``#!``; sources are ``zarr2://URL`` or ``zarr3://URL``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from embedseg_large.viewing.scene import Layer, Scene
from embedseg_large.volumes.volume import Volume

SITE = "https://neuroglancer-demo.appspot.com"
VERSIONS = ("0.4", "0.5")
"""Versions of OME-Zarr that neuroglancer reads with axes and scales."""

_PANEL = 400
"""Edge of a panel in pixels."""
_SHADER = "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n"


def is_readable(layer: Layer) -> bool:
    """Whether neuroglancer can read a layer."""
    return layer.finest.ngff_version in VERSIONS


def link(scene: Scene, url_of: Callable[[Layer], str]) -> str | None:
    """Return a link to a scene; None if neuroglancer cannot read the image.

    Parameters
    ----------
    scene
        What to show; labels that cannot be read are left out.
    url_of
        Returns the URL at which a browser finds a layer.
    """
    if not is_readable(scene.image):
        return None
    return f"{SITE}/#!{quote(json.dumps(state(scene, url_of), separators=(',', ':')), safe='')}"


def state(scene: Scene, url_of: Callable[[Layer], str]) -> dict[str, Any]:
    """The state of neuroglancer for a scene: an image layer, and one of segments for all labels."""
    image = {
        "type": "image",
        "name": scene.image.name,
        "source": _source(scene.image, url_of),
        "shader": _SHADER,
        "shaderControls": {"normalized": {"range": list(scene.contrast[0])}},
        **_channel(scene.image),
    }
    labels = [
        {
            "type": "segmentation",
            "name": layer.name,
            "source": _source(layer, url_of),
            "selectedAlpha": 0.4,
            "visible": number == 0,
        }
        for number, layer in enumerate(scene.labels)
        if is_readable(layer)
    ]
    layout = "4panel" if scene.image.finest.ndim == 3 else "xy"
    return {**_view(scene.image.finest), "layers": [image, *labels], "layout": layout}


def _channel(image: Layer) -> dict[str, Any]:
    """The position along the axis of channels, where one is chosen of several."""
    if "c" not in image.finest.stored_axes or len(image.channels) != 1:
        return {}
    return {"localDimensions": {"c'": [1, ""]}, "localPosition": list(image.channels)}


def _view(volume: Volume) -> dict[str, Any]:
    """Show yx planes first, sized to fit a quarter of a window."""
    size = volume.voxel_size or (1.0,) * volume.ndim
    length = max(n * s for n, s in zip(volume.spatial_shape, size, strict=True)) / min(size)
    unit = (1e-6, "m") if volume.voxel_size else (1.0, "")
    axes = zip(volume.spatial_axes, size, strict=True)
    return {
        "dimensions": {axis: [step * unit[0], unit[1]] for axis, step in reversed(list(axes))},
        "crossSectionScale": length / _PANEL,
        "projectionScale": 1.5 * length,
    }


def _source(layer: Layer, url_of: Callable[[Layer], str]) -> str:
    return f"zarr{layer.finest.zarr_format}://{url_of(layer)}"
