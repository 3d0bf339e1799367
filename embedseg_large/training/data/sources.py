"""Training data: images and their masks, paired and checked, but not yet read.

Four ways to specify pairs::

    find_pairs("images/", "masks/")                     files of the same stem
    find_pairs(["a.tif", "b.ome.zarr"], ["a_mask.tif", array])      one mask for each image
    find_pairs(["a.ome.zarr", "b.ome.zarr"], labels="nuclei")       a.ome.zarr/labels/nuclei, ...
    find_pairs([pair, pair])                            opened before

A mask is a label image of the image's shape: 0 is background, every other value one object. Voxels
of the ignore label (-1 and every negative value, and one more value of the user's choice) are
unannotated and not used in training. Objects of a 2D image that overlap are a stack of masks,
``(objects, y, x)``, in which every plane holds one object.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.options import takes
from embedseg_large.training.options import FindOptions
from embedseg_large.volumes.folders import (
    images_by_stem,
    is_folder_of_images,
    is_path,
    name_of,
    pair_by_stem,
    stem,
)
from embedseg_large.volumes.intensity import IntensityRange, normalise_channels
from embedseg_large.volumes.label_images import check_label_type, check_label_voxels
from embedseg_large.volumes.label_stacks import box_in, n_planes, numbered
from embedseg_large.volumes.opening import Opening
from embedseg_large.volumes.volume import Volume, open_volume

Labels = NDArray[np.signedinteger[Any]]
"""int32 or int64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """An image and the mask of its objects; voxels stay on disk.

    Raises
    ------
    VolumeError
        If mask and image do not match, or the mask is not usable as one.
    """

    name: str
    """Name of the pair: the stem of the image, or its number."""
    image: Volume
    """A volume without a time axis; with a channel axis, all channels are used."""
    mask: Volume
    """Label image, or for a 2D image the stack of masks ``(objects, y, x)``."""
    ignore: int = UNANNOTATED
    """Value of unannotated mask voxels, in addition to negative values."""

    def __post_init__(self) -> None:
        for volume in (self.image, self.mask):
            if volume.timepoint is None:
                told = volume.time_or_depth()
                raise UsageError(
                    f"{self._named(volume)}: {volume.n_timepoints} timepoints; choose one"
                    + (f"; {told}" if told else "")
                )
        if self._planes is None or self.mask.dtype.kind == "f":
            check_label_type(self.mask)
        self._check_shape()

    def check_mask(self) -> None:
        """Look at a few places of the mask.

        Raises
        ------
        VolumeError
            If it is a binary mask, or an image.
        """
        if not self.stacked:
            check_label_voxels(self.mask, strict=True)

    @property
    def where(self) -> str:
        """Path of the mask for messages, or the name of the pair."""
        return self._named(self.mask)

    @property
    def image_where(self) -> str:
        """Path of the image for messages, or the name of the pair."""
        return self._named(self.image)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.image.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""
        return self.image.spatial_shape

    @property
    def channels(self) -> int:
        """Number of image channels used."""
        return self.image.n_channels if self.image.channel is None else 1

    @property
    def stacked(self) -> bool:
        """Whether the mask is a stack with one object in each plane."""
        return self._planes is not None

    def _named(self, volume: Volume) -> str:
        return self.name if volume.path is None else volume.name

    def image_of(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Add the channel axis to voxels read from `image`: ``(channels, *spatial)``."""
        return voxels if self.image.channel is None else voxels[np.newaxis]

    def normalised(
        self, box: Box, voxels: NDArray[Any], ranges: Sequence[IntensityRange]
    ) -> NDArray[np.float32]:
        """Normalise a box of the image: ``(channels, *box.shape)``, 0 where there is no data.

        Parameters
        ----------
        box
            Region of the image.
        voxels
            The voxels read there.
        ranges
            Intensities that become 0 and 1, one range per channel.
        """
        image = normalise_channels(self.image_of(voxels), ranges)
        image[self.image_of(self.image.without_data(box, voxels))] = 0.0
        return image

    def labels_of(self, voxels: NDArray[Any]) -> Labels:
        """Convert voxels read from `mask`.

        Parameters
        ----------
        voxels
            ``(*spatial)`` or, from a stack, ``(objects, *spatial)``.

        Returns
        -------
        int32 or int64 of the same shape: -1 unannotated, 0 background, above 0 the object's id;
        an object of a stack has the number of its plane, counted from 1.

        Raises
        ------
        VolumeError
            If an id does not fit into int64.
        """
        if self.stacked:
            return numbered(voxels, self.where, self.ignore)
        if voxels.dtype == np.uint64 and voxels.max(initial=0) > np.iinfo(np.int64).max:
            raise VolumeError(f"{self.where}: a label above 2**63 - 1; number the objects from 1")
        wide = voxels.dtype.itemsize > 4 or voxels.dtype == np.uint32
        labels: Labels = voxels.astype(np.int64 if wide else np.int32)
        ignored = (labels < 0) | (labels == self.ignore)
        labels[ignored] = UNANNOTATED
        return labels

    def layers(self, box: Box | None = None) -> list[Labels]:
        """Read the true objects of a box of the image, or of all of it.

        Returns
        -------
        One label array ``(*spatial)``, -1 unannotated and 0 background; of a stack one for each
        plane.
        """
        labels = self.labels_of(self.mask.read(self.mask_box(box or Box.whole(self.shape))))
        return list(labels) if self.stacked else [labels]

    def flat_labels(self, box: Box | None = None) -> Labels:
        """Read the same as one label array, in which the last of several objects has the voxel."""
        return flat(self.layers(box))

    def mask_box(self, box: Box) -> Box:
        """The box to read from `mask` for a box of the image."""
        return box_in(self.mask, box)

    @property
    def _planes(self) -> int | None:
        """Number of planes of a stack; None for a label image."""
        return n_planes(self.mask, self.ndim)

    def _check_shape(self) -> None:
        many_channels = self.mask.channel is None and self.mask.ndim != 2
        if many_channels or (self.mask.ndim != self.ndim and not self.stacked):
            raise VolumeError(
                f"{self.where}: mask of axes {self.mask.axes} {self.mask.shape} for an image of "
                f"axes {self.image.axes} {self.image.shape}; pass one label volume for each image"
            )
        if self.mask.spatial_shape[-self.ndim :] != self.shape:
            raise VolumeError(
                f"{self.where}: the mask is {self.mask.spatial_shape}, its image {self.shape}; "
                "they need the same shape"
            )


def flat(layers: Sequence[Labels]) -> Labels:
    """Return one label array of several; of objects that overlap, the last has the voxel."""
    return reduce(np.maximum, layers)


def check_masks(pairs: Sequence[Pair], owner: str = "") -> None:
    """Read a few places of every mask: after the settings, before the first crop.

    Parameters
    ----------
    pairs
        Images with their masks.
    owner
        Owner of the images, for messages, such as ``"training set NAME"``.

    Raises
    ------
    VolumeError
        If one is a binary mask, or an image.
    """
    try:
        for pair in pairs:
            pair.check_mask()
    except VolumeError as error:
        raise type(error)(f"{owner}: {error}" if owner else str(error)) from error


@takes(FindOptions)
def find_pairs(images: Any, masks: Any = None, **options: Any) -> list[Pair]:
    """Pair images with masks, without reading voxels.

    Parameters
    ----------
    images
        A folder of TIFF or OME-Zarr images, or a list of paths, URLs and arrays (one is fine too).
        A list of `Pair` needs no masks, and the options of opening do not apply to it.
    masks
        The same for the masks, which are matched by stem (folders) or by position (lists).
    **options

    Returns
    -------
    Pairs in the order of the list, or of the stems.

    Raises
    ------
    UsageError
        If a file has no partner, there are no images, or the number of axes differs from the
        expected one.
    VolumeError
        If a file cannot be used; the message starts with its name.
    """
    asked = FindOptions.of(options, "find_pairs")
    if _is_opened(images):
        _check_alike(images, asked.ndim)
        return list(images)
    if (masks is None) == (asked.labels is None):
        raise UsageError(
            "masks are missing, or given twice: pass masks or labels=, only one of them"
        )
    inside = asked.labels
    sources = _matched(images, masks) if inside is None else _inside(images, inside)
    of_image = Opening.among(vars(asked))
    pairs = []
    for name, image, mask in sources:
        volume = _open(image, **of_image)
        of_mask = {"level": asked.level, "allow_missing": asked.allow_missing}
        truth = _open(mask, channel=None, **of_mask)
        if truth.timepoint is None:  # one mask may serve all timepoints of its image
            truth = _open(mask, channel=None, timepoint=asked.timepoint, **of_mask)
        volume, truth = _alike(volume, truth)
        pairs.append(Pair(name=name, image=volume, mask=truth, ignore=asked.ignore))
    _check_alike(pairs, asked.ndim)
    return pairs


def _is_opened(images: Any) -> TypeGuard[list[Pair]]:
    """Whether images come with their masks."""
    is_list = isinstance(images, list) and bool(images)
    return is_list and all(isinstance(image, Pair) for image in images)


def _alike(image: Volume, mask: Volume) -> tuple[Volume, Volume]:
    """Treat a single plane as a 2D image, on both sides."""
    flat = image.flattened()
    if flat.ndim == 2 and mask.n_timepoints == 1:
        return flat, mask.flattened()
    return image, mask


def _open(source: Any, **options: Any) -> Volume:
    """Open a volume; three axes that a TIFF does not name are z, y, x."""
    try:
        return open_volume(source, **options)
    except MetadataError:
        if options.get("axes") is not None:
            raise
        try:
            return open_volume(source, **options | {"axes": "zyx"})
        except (UsageError, VolumeError):
            pass  # the first message describes what is wrong with the file
        raise


def _check_alike(pairs: Sequence[Pair], ndim: int | None) -> None:
    """Refuse images whose axes or channels differ from the first one's, or from those requested."""
    if not pairs:
        raise UsageError("no images to train on; pass a folder or a list with images")
    wanted = (pairs[0].ndim if ndim is None else ndim, pairs[0].channels)
    for pair in pairs:
        if (pair.ndim, pair.channels) != wanted:
            raise UsageError(
                f"{pair.image_where}: {pair.ndim}D with {pair.channels} channels where "
                f"{wanted[0]}D with {wanted[1]} is required; train on images of one kind"
            )


def _inside(images: Any, labels: str) -> list[tuple[str, Any, Any]]:
    """Return name, image and mask of OME-Zarr images with a label group."""
    if is_folder_of_images(images):
        paths: list[Any] = list(images_by_stem(images).values())
    else:
        paths = _listed(images)
    if not all(is_path(path) for path in paths):
        raise UsageError("labels= names a group inside OME-Zarr images; pass arrays with masks")
    return [(stem(p), p, f"{os.fspath(p).rstrip('/')}/labels/{labels}") for p in paths]


def _matched(images: Any, masks: Any) -> list[tuple[str, Any, Any]]:
    """Return name, image and mask of two folders or two lists."""
    for given in (images, masks):
        if is_path(given) and "://" not in os.fspath(given) and not Path(given).exists():
            raise VolumeNotFoundError(f"{os.fspath(given)}: there is no such file or folder")
    if is_folder_of_images(images) != is_folder_of_images(masks):
        raise UsageError("images and masks must both be folders, or both lists")
    if is_folder_of_images(images):
        return list(pair_by_stem(images, masks))
    left, right = _listed(images), _listed(masks)
    if len(left) != len(right):
        raise UsageError(f"{len(left)} images and {len(right)} masks; pass one mask for each image")
    names = [name_of(source, i) for i, source in enumerate(left)]
    return list(zip(names, left, right, strict=True))


def _listed(sources: Any) -> list[Any]:
    """Return a list of sources; a single path or array is a list of one."""
    return list(sources) if isinstance(sources, list | tuple) else [sources]
