"""The classical method as a segmenter: `segment --model classical`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import version
from math import ceil, pi, prod
from typing import Any

from embedseg_large.clustering.classical import (
    ENHANCED,
    SEPARATION,
    check_rule,
    radius,
    watershed,
)
from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.segmentation.options import ObjectOptions
from embedseg_large.segmentation.request.scale import stated_size
from embedseg_large.segmentation.segmenters.protocol import Intensity
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.volumes.volume import Volume

CLASSICAL = "classical"
"""Name that is passed instead of a model."""
HALO = 1.5
"""Halo, in diameters."""
RESPONSES = ("speckles", "tubes")
"""Enhancements after which brightness itself is no longer used."""
OF_CLASSICAL = ("threshold", "split", "separation", "enhance")
"""Options that only this method has."""
LEAST = 1 / 3
"""Objects must be larger than a ball with this fraction of the diameter."""


def classical(
    volume: Volume, options: ObjectOptions, diameter: float | str | None
) -> TileSegmenter:
    """Create the classical method for objects of a given size.

    Parameters
    ----------
    volume
        The level to segment; its voxel size, if known, determines how long objects are along z.
    options
        Threshold, and how touching objects are separated.
    diameter
        Diameter of the objects along y and x: a number of voxels, or ``12um``.

    Raises
    ------
    UsageError
        If the diameter is missing or invalid, an option cannot be used, or scikit-image is not
        installed.
    """
    if diameter is None:
        raise UsageError(
            "the classical method needs the diameter of your objects: pass it as object_diameter "
            "(--object-diameter 20, or 12um)"
        )
    check_rule(options.split, options.separation, options.enhance)
    diameters = diameters_of(volume, diameter)
    return TileSegmenter(
        watershed,
        name=CLASSICAL,
        version=f"scikit-image {_version()}",
        parameters={"diameter": list(diameters), **_rule(options)},
        halo=halo_of(diameters, options.enhance, options.separation),
        ndim=volume.ndim,
        intensity=_intensity(options),
        min_object_size=int(_ball(volume.ndim) * prod(LEAST * d for d in diameters)),
    )


def diameters_of(volume: Volume, diameter: float | str) -> tuple[float, ...]:
    """A diameter in voxels along each axis: as many micrometres along z, if sizes are known."""
    size = stated_size(volume, diameter)
    return (*(size.likely_depth,) * (volume.ndim - 2), size.width, size.width)


def halo_of(
    diameter: Sequence[float], enhance: str = "none", separation: float = SEPARATION
) -> tuple[int, ...]:
    """Halo of a tile: one and a half objects, plus what wide separation and enhancement need."""
    objects = HALO + max(0.0, separation - SEPARATION)
    return tuple(
        ceil(objects * d) + r for d, r in zip(diameter, radius(diameter, enhance), strict=True)
    )


def _rule(options: ObjectOptions) -> dict[str, Any]:
    """Arguments of the function that are not its defaults, so that older runs can be resumed."""
    threshold = 1.0
    if options.enhance in RESPONSES:
        threshold = ENHANCED if options.threshold is None else options.threshold
    given = {
        "threshold": threshold,
        "split": options.split,
        "separation": options.separation,
        "enhance": options.enhance,
    }
    usual = inspect.signature(watershed).parameters
    return {name: value for name, value in given.items() if value != usual[name].default}


def _intensity(options: ObjectOptions) -> Intensity | tuple[None, float]:
    """The threshold becomes 1; that of a response is in intensities of the image."""
    if options.threshold is None:
        return "otsu"
    return "raw" if options.enhance in RESPONSES else (None, options.threshold)


def _ball(ndim: int) -> float:
    """Volume of a ball of diameter 1."""
    return pi / 4 if ndim == 2 else pi / 6


def _version() -> str:
    with extra("classical", "the classical method"):
        return version("scikit-image")
