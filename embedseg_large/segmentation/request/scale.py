"""The scale at which a model sees an image: pyramid level, and resampled grid.

A network finds objects of about the size it was trained on, and pieces or clumps of others. So if
both voxel sizes are known, the level nearest to the model's is used. A mismatch is reported before
a run if the voxel sizes show it, and after a run from the objects found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import exp, log

from embedseg_large.errors import UsageError
from embedseg_large.segmentation.segmenters.protocol import KnownSizes
from embedseg_large.tiling.resampling import ObjectSize, Resampling
from embedseg_large.volumes.volume import Volume

MISMATCH = 1.5
"""Factor in size, in either direction, from which objects are segmented poorly."""
BY_VOXEL_SIZE = "voxel-size"
"""Passed instead of a diameter: the voxel sizes of image and model determine the scale."""
ZOOMS = (1 / 32, 4.0)
"""Zoom factors beyond which objects vanish, or consist of hardly any voxels."""

_DIAMETER = re.compile(r"(?P<number>[0-9.eE+-]+)\s*(?P<unit>|voxels?|um|µm|μm|micrometers?)")


def is_mismatch(ratio: float) -> bool:
    """Whether sizes with this ratio are too different for a model."""
    return not 1 / MISMATCH <= ratio <= MISMATCH


def nearest_level(volume: Volume, network: KnownSizes) -> int:
    """Return the level whose voxel size along y and x is nearest to the model's.

    Parameters
    ----------
    volume
        Any level of the image.
    network
        The model.

    Returns
    -------
    int
        The volume's own level if a voxel size is unknown; of equally near levels, the finest.
    """
    if volume.voxel_size is None or network.voxel_size is None:
        return volume.level
    ratio = _voxel_ratio(volume, network)
    known = [(abs(log(ratio * step)), k) for k, step in _steps(volume)]
    return min(known)[1]


def voxel_size_warning(volume: Volume, network: KnownSizes, resampling: Resampling) -> str | None:
    """Warn that voxels differ much in size from the model's; None if not, or if unknown.

    Parameters
    ----------
    volume, network, resampling
        Level to segment, model, and grid. If tiles are resampled, the user has stated the object
        size.
    """
    if volume.voxel_size is None or network.voxel_size is None or not resampling.is_identity:
        return None
    ratio = _voxel_ratio(volume, network)
    if not is_mismatch(ratio):
        return None
    times = f"{1 / ratio:.1f} times larger" if ratio < 1 else f"{ratio:.1f} times smaller"
    return (
        f"voxels are {volume.voxel_size[-1]:g} µm wide, those of the training images "
        f"{network.voxel_size[-1]:g}: objects look {times} than in the model's training data, if "
        "they are of the same size; --object-diameter auto compares scales on a sample"
    )


def _voxel_ratio(volume: Volume, network: KnownSizes) -> float:
    """Return the ratio of voxel sizes, image to model: geometric mean over y and x."""
    assert volume.voxel_size is not None
    assert network.voxel_size is not None
    pairs = zip(volume.voxel_size[-2:], network.voxel_size[-2:], strict=True)
    return exp(sum(log(image / model) for image, model in pairs) / 2)


def _steps(volume: Volume) -> Iterator[tuple[int, float]]:
    """Yield each existing level, and the width of its voxels in voxels of this level."""
    at = [volume.stored_axes.index(axis) for axis in "yx"]
    here = [volume.stored_shape[i] for i in at]
    for number, level in enumerate(volume.levels):
        if number == volume.level:
            yield number, 1.0
        elif level.shape is not None:
            logs = [log(n / level.shape[i]) for n, i in zip(here, at, strict=True)]
            yield number, exp(sum(logs) / 2)


def resampling_for(volume: Volume, network: KnownSizes, diameter: float | str | None) -> Resampling:
    """Find the grid on which the objects of a volume are as large as the model's.

    Parameters
    ----------
    volume
        The level to segment.
    network
        The model.
    diameter
        Mean diameter of the objects along y and x: a number of voxels of that level; a text with
        a unit, ``12 um``; or ``voxel-size``, if the voxel sizes of the volume and of the model's
        training images are known. None: equal to the model's. Two of them, ``7,15``, are the
        extents along z, and along y and x. With one, see `ObjectSize.zoom_to` for z.

    Returns
    -------
    Resampling
        From the volume's grid to that one.

    Raises
    ------
    UsageError
        If the text is not a diameter, a required size is unknown, or the sizes differ by too much.
    """
    if diameter is None:
        return Resampling(volume.spatial_shape, volume.spatial_shape)
    if diameter == BY_VOXEL_SIZE:
        zoom = _zoom_by_voxel_size(volume, network)
    else:
        zoom = _zoom_by_diameter(volume, network, diameter)
    low, high = ZOOMS
    if not all(low <= z <= high for z in zoom):
        raise UsageError(
            f"object diameter {diameter}: the volume would be magnified by {_text(zoom)}; "
            f"the supported range is {low:g} to {high:g}; check diameter, level and voxel size"
        )
    return Resampling.by(volume.spatial_shape, zoom)


def _zoom_by_voxel_size(volume: Volume, network: KnownSizes) -> tuple[float, ...]:
    if volume.voxel_size is None:
        raise UsageError("the voxel size of the image is not known; pass --voxel-size, or a number")
    if network.voxel_size is None:
        raise UsageError(
            "the model does not know the voxel size of its training images; "
            "pass the diameter of the objects instead, such as 30 or 12um"
        )
    sizes = zip(volume.voxel_size, network.voxel_size, strict=True)
    return tuple(image / model for image, model in sizes)


def _zoom_by_diameter(
    volume: Volume, network: KnownSizes, diameter: float | str
) -> tuple[float, ...]:
    if network.object_diameter is None:
        raise UsageError(
            "the model does not know the diameter of its training objects; "
            f"pass {BY_VOXEL_SIZE}, or a level on which the objects are as large"
        )
    known = ObjectSize(network.object_diameter, network.object_depth, network.voxel_size)
    return stated_size(volume, diameter).zoom_to(known, volume.ndim)


def stated_size(volume: Volume, diameter: float | str) -> ObjectSize:
    """Return the size of objects that somebody stated, in voxels.

    Parameters
    ----------
    volume
        The level whose voxels are meant.
    diameter
        A number of voxels, or a text with a unit, ``12um``; or two, ``7,15``: along z, and along y
        and x.

    Raises
    ------
    UsageError
        If the text is not a diameter, the required voxel size is unknown, or a depth is stated for
        an image without z.
    """
    parts = str(diameter).split(",")
    width = _voxels(volume, parts[-1], diameter, axis=-1)
    if len(parts) == 1:
        return ObjectSize(width, None, volume.voxel_size)
    if len(parts) > 2 or volume.ndim == 2:
        how = "one number, as the image has no z" if volume.ndim == 2 else "depth and width (7,15)"
        raise UsageError(f"object diameter {diameter!r}: pass {how}")
    return ObjectSize(width, _voxels(volume, parts[0], diameter, axis=0), volume.voxel_size)


def _voxels(volume: Volume, part: str, diameter: float | str, axis: int) -> float:
    """Return one stated diameter in voxels along an axis."""
    match = _DIAMETER.fullmatch(part.strip())
    try:
        number = float(match["number"]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not 0 < number < float("inf"):
        raise UsageError(
            f"object diameter {diameter!r}: pass voxels (30), micrometres (12um), depth and width "
            f"(7,15) or {BY_VOXEL_SIZE}"
        )
    if match["unit"] in ("", "voxel", "voxels"):
        return number
    if volume.voxel_size is None:
        raise UsageError(
            f"object diameter {diameter}: the voxel size of the image is not known; "
            "pass --voxel-size, or the diameter in voxels"
        )
    return number / volume.voxel_size[axis]


def _text(zoom: Sequence[float]) -> str:
    return ", ".join(f"{z:.3g}" for z in zoom)
