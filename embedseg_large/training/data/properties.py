"""Values derived from the training data: sizes, crop, weights, units.

Numbers that training and segmentation need and that users should not have to guess are derived here
from the masks. All can be overridden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil, isclose
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.network.settings import STRIDE, ModelSettings
from embedseg_large.training.data.intensities import quantiles_of
from embedseg_large.training.data.objects import ObjectTable, Scan, scan
from embedseg_large.training.data.pieces import piece_extents
from embedseg_large.training.data.sources import Pair
from embedseg_large.volumes.intensity import IntensityRange, intensity_ranges

LEAST_CROP = {2: (256, 256), 3: (32, 64, 64)}
"""Smallest crop if the images allow it, so that a crop shows many objects with their neighbours."""

SPECK = 0.01
"""Objects with less than this fraction of the median size are slips of the brush."""

FOREGROUND_WEIGHT_2D = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Properties:
    """Values derived from the training data; tuples are z, y, x in voxels.

    Created by `measure`.
    """

    ndim: int
    """Number of spatial axes."""
    channels: int
    """Number of image channels."""
    n_images: int
    """Number of images."""
    n_objects: int
    """Number of annotated objects."""
    min_object_size: int
    """Voxels of the smallest object that is not a speck, as in the original: an instance must have
    more. Specks, below a hundredth of the median size, do not count, so that a slip of the brush
    does not switch the filter off."""
    mean_object_size: float
    """Mean number of voxels of an object."""
    extent_mean: tuple[float, ...]
    """Mean edge of the objects' bounding boxes; of an object in several pieces far apart, of the
    box of its largest, see `piece_extents`."""
    extent_sd: tuple[float, ...]
    """Its standard deviation over the objects."""
    extent_largest: tuple[int, ...]
    """Largest edge along each axis."""
    object_diameter: float
    """Mean of `extent_mean` along y and x."""
    crop: tuple[int, ...]
    """Shape of a training crop, see `crop_shape`."""
    foreground_weight: float
    """Weight of foreground in the seed loss."""
    pitch: tuple[float, ...]
    """Size of a voxel in the network's units, see `default_pitch`."""
    voxel_size: tuple[float, ...] | None
    """Voxel size of all images in µm; None if one is not known or differs."""
    objects: ObjectTable
    """The objects of all images."""
    ranges: tuple[tuple[IntensityRange, ...], ...]
    """Intensities that normalisation maps to 0 and 1, for each image and channel."""
    tables: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    """Intensities at `QUANTILES`, for each image and channel; None if not needed."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the tables, as values that JSON can hold."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tables = ("objects", "ranges", "tables")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in tables
        }

    def model_settings(self) -> ModelSettings:
        """Return the settings of a model trained on these data."""
        return ModelSettings.from_objects(
            pitch=self.pitch,
            extent=self.extent_largest,
            min_object_size=self.min_object_size,
            channels=self.channels,
            object_diameter=self.object_diameter,
            object_depth=self.extent_mean[0] if self.ndim == 3 else None,
            voxel_size=self.voxel_size,
        )


def measure(
    pairs: Sequence[Pair],
    *,
    crop: Sequence[int] | None = None,
    pitch: Sequence[float] | None = None,
    min_object_size: int | None = None,
    foreground_weight: float | None = None,
    quantiles: bool = False,
) -> Properties:
    """Read all masks and images once, and derive everything.

    Parameters
    ----------
    pairs
        At least one, all with the same number of axes and channels (`find_pairs` ensures it).
    crop, pitch, min_object_size, foreground_weight
        Values to use instead of the derived ones.
    quantiles
        Whether `Properties.tables` are needed.

    Raises
    ------
    UsageError
        If there are no pairs, or the edges of `crop` are not multiples of 8.
    VolumeError
        If a mask or an image cannot be used for training; the message starts with its name.
    """
    if not pairs:
        raise UsageError("no images to train on; pass some")
    scans = [scan(pair) for pair in pairs]
    objects = ObjectTable.joined([s.objects for s in scans])
    ndim = pairs[0].ndim
    extents = piece_extents(pairs, objects)
    mean, sd = extents.mean(axis=0), extents.std(axis=0)
    voxel_size = common_voxel_size(pairs)
    shape = tuple(crop or crop_shape(mean, sd, np.max([p.shape for p in pairs], axis=0)))
    check_crop(shape, ndim)
    return Properties(
        ndim=ndim,
        channels=pairs[0].channels,
        n_images=len(pairs),
        n_objects=len(objects),
        min_object_size=smallest_object(objects) if min_object_size is None else min_object_size,
        mean_object_size=float(objects.sizes.mean()),
        extent_mean=tuple(mean.tolist()),
        extent_sd=tuple(sd.tolist()),
        extent_largest=tuple(extents.max(axis=0).tolist()),
        object_diameter=float(mean[-2:].mean()),
        crop=shape,
        foreground_weight=foreground_weight or weight_of_foreground(scans, ndim),
        pitch=tuple(pitch or default_pitch(shape, voxel_size)),
        voxel_size=voxel_size,
        objects=objects,
        ranges=tuple(intensity_ranges(pair.image) for pair in pairs),
        tables=tuple(quantiles_of(pair.image) for pair in pairs) if quantiles else None,
    )


def check_crop(shape: Sequence[int], ndim: int) -> None:
    """Refuse a shape of crops that the network cannot take.

    Raises
    ------
    UsageError
        If it does not have one positive multiple of 8 per axis.
    """
    if len(shape) != ndim or any(n < STRIDE or n % STRIDE for n in shape):
        raise UsageError(f"crop is {tuple(shape)}; pass {ndim} multiples of {STRIDE}")


def smallest_object(objects: ObjectTable) -> int:
    """Return the number of voxels of the smallest object that is not a speck."""
    no_specks = objects.sizes[objects.sizes >= SPECK * np.median(objects.sizes)]
    return int(no_specks.min())


def crop_shape(
    mean: Sequence[float], sd: Sequence[float], largest_image: Sequence[int]
) -> tuple[int, ...]:
    """Choose the shape of a training crop.

    It holds an object of mean extent plus three standard deviations, the larger one of y and x
    along both (so that a crop can be turned), and at least `LEAST_CROP`; no more than the largest
    image; rounded up to multiples of 8.

    Parameters
    ----------
    mean, sd
        Mean and standard deviation of the objects' extents, in voxels.
    largest_image
        Largest number of voxels of an image along each axis.
    """
    spans = [m + 3 * s for m, s in zip(mean, sd, strict=True)]
    spans[-2:] = [max(spans[-2:])] * 2
    wanted = [max(s, n) for s, n in zip(spans, LEAST_CROP[len(spans)], strict=True)]
    return tuple(
        STRIDE * ceil(min(n, size) / STRIDE) for n, size in zip(wanted, largest_image, strict=True)
    )


def default_pitch(crop: Sequence[int], voxel_size: Sequence[float] | None) -> tuple[float, ...]:
    """Return the size of a voxel in the network's units.

    As in the original, whose grid is here the crop: ``pixel / (grid - 1)`` with pixel 1 along y and
    x, and ``(grid_z - 1) / (grid_x - 1) * anisotropy`` along z. The larger of y and x counts for
    both. The network points ``1 / pitch`` voxels far at most. An unknown voxel size counts as
    isotropic.
    """
    plane = 1 / (max(crop[-2:]) - 1)
    anisotropy = 1.0 if voxel_size is None else voxel_size[0] / voxel_size[-1]
    return (*(plane * anisotropy for _ in crop[:-2]), plane, plane)


def weight_of_foreground(scans: Sequence[Scan], ndim: int) -> float:
    """Return 10 in 2D, and in 3D the background voxels for each foreground voxel, at least 1.

    At least 1, because in tissue without background the seeds of objects must still count.
    """
    if ndim == 2:
        return FOREGROUND_WEIGHT_2D
    return max(1.0, sum(s.background for s in scans) / sum(s.foreground for s in scans))


def common_voxel_size(pairs: Sequence[Pair]) -> tuple[float, ...] | None:
    """Return the voxel size of all images; None if one is not known or differs by over 1 %."""
    sizes = [pair.image.voxel_size for pair in pairs]
    first = sizes[0]
    if first is None:
        return None
    for size in sizes[1:]:
        if size is None or not all(
            isclose(a, b, rel_tol=0.01) for a, b in zip(size, first, strict=True)
        ):
            return None
    return first
