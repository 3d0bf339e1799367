"""The sample embryo of the package, as layers."""

from __future__ import annotations

from typing import Any

from embedseg_large.data import load_demo

LayerData = tuple[Any, dict[str, Any], str]
"""Data, arguments and type of a layer, as napari expects them."""


def blastocyst() -> list[LayerData]:
    """Load the mouse blastocyst and its nuclei, labelled by hand; (118, 137, 135) z, y, x."""
    demo = load_demo()
    placed = {"scale": demo.voxel_size, "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    return [
        (demo.image, {"name": "blastocyst", **placed}, "image"),
        (demo.truth, {"name": "blastocyst by hand", "visible": False, **placed}, "labels"),
    ]
