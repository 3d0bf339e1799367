"""The classical method as a segmenter: `segment --model classical`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from math import ceil, pi, prod

from embedseg_large.clustering.classical import missing_extra, watershed
from embedseg_large.errors import UsageError
from embedseg_large.segmentation.request.scale import voxels_along_x
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.volumes.volume import Volume

CLASSICAL = "classical"
"""What to say in place of a model."""
HALO = 1.5
"""In diameters."""
LEAST = 1 / 3
"""Objects are larger than a ball of this part of the diameter."""


def classical(
    volume: Volume, diameter: float | str | None, threshold: float | None = None
) -> TileSegmenter:
    """Make the classical method for objects of a size.

    Parameters
    ----------
    volume
        The level to segment; its voxel size, where known, tells how long objects are along z.
    diameter
        Of the objects along y and x: a number of voxels, or ``12um``.
    threshold
        Intensity of the image above which a voxel is foreground; None: Otsu's threshold of the
        whole volume.

    Raises
    ------
    UsageError
        No diameter, or none that can be understood; scikit-image is missing.
    """
    if diameter is None:
        raise UsageError(
            "the classical method needs the diameter of your objects: pass it as object_diameter "
            "(--object-diameter 20, or 12um)"
        )
    along_x = voxels_along_x(volume, diameter)
    size = volume.voxel_size
    longer = 1.0 if size is None else size[-1] / size[0]
    diameters = (*(along_x * longer for _ in volume.spatial_shape[:-2]), along_x, along_x)
    return TileSegmenter(
        watershed,
        name=CLASSICAL,
        version=f"scikit-image {_version()}",
        parameters={"diameter": list(diameters)},
        halo=tuple(ceil(HALO * d) for d in diameters),
        ndim=volume.ndim,
        intensity="otsu" if threshold is None else (threshold - 1, threshold),
        min_object_size=int(_ball(volume.ndim) * prod(LEAST * d for d in diameters)),
    )


def _ball(ndim: int) -> float:
    """Volume of a ball of diameter 1."""
    return pi / 4 if ndim == 2 else pi / 6


def _version() -> str:
    try:
        return version("scikit-image")
    except PackageNotFoundError:
        raise missing_extra() from None
