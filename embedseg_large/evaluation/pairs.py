"""Pairs of predicted and true labels of the same image: opened and checked, but not yet read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, UsageError, VolumeError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.labels.published import label_names, labelled_part
from embedseg_large.storage.connection import joined
from embedseg_large.volumes.folders import is_folder_of_images, name_of, pair_by_stem
from embedseg_large.volumes.label_images import check_label_type, check_label_voxels, read_labels
from embedseg_large.volumes.label_stacks import box_in, check_planes, n_planes, numbered
from embedseg_large.volumes.timepoints import chosen_timepoints
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two label volumes of one image.

    Raises
    ------
    VolumeError
        If their shapes differ, or they have several timepoints.
    """

    name: str
    """Stem of the true labels, or their number in a list of arrays."""
    prediction: Volume
    truth: Volume
    region: Box | None = None
    """The part to compare: the region of a preview; None: all."""
    ignore: int = UNANNOTATED
    """Value of unannotated true voxels, in addition to negative values: they are ignored."""
    stacked: tuple[bool, bool] = (False, False)
    """Whether prediction and truth are stacks of masks of a 2D image."""

    def __post_init__(self) -> None:
        if any(self.stacked):
            self._check_stacks()
            return
        if self.prediction.axes != self.truth.axes:
            raise VolumeError(
                f"{self.name}: the prediction has axes {self.prediction.axes}, the truth "
                f"{self.truth.axes}{_depth(self.prediction, self.truth)}"
            )
        if self.prediction.shape != self.truth.shape:
            raise VolumeError(
                f"{self.name}: the prediction has shape {self.prediction.shape}, the truth "
                f"{self.truth.shape}; compare volumes of the same level and region"
                + (_OVERLAPPING if self._may_be_stacks() else "")
            )
        if "t" in self.prediction.axes:
            raise VolumeError(
                f"{self.name}: the labels have {self.prediction.n_timepoints} timepoints; "
                f"choose one (--timepoint){_depth(self.prediction, self.truth)}"
            )

    @property
    def compared(self) -> Box:
        """The part that is compared."""
        return self.region or Box.whole(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the image along (z,) y, x."""
        return _image_shape(self.truth, self.stacked[1])

    @property
    def chunks(self) -> list[tuple[int, ...] | None]:
        """Chunks of the prediction and the truth along (z,) y, x; None: in memory."""
        each = (self.prediction.chunks, self.truth.chunks)
        return [None if chunk is None else chunk[-len(self.shape) :] for chunk in each]

    def read(self, box: Box) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """Read the predicted and the true labels of a box: of a stack, a layer for each object.

        What is negative in the prediction, which has no unannotated voxels, is background.
        """
        predicted = read_labels(self.prediction, None, box_in(self.prediction, box))
        true = self.truth.read(box_in(self.truth, box))
        predicted_stack, true_stack = self.stacked
        return (
            _layers(predicted, self.prediction.name, UNANNOTATED, is_stack=predicted_stack),
            _layers(true, self.truth.name, self.ignore, is_stack=true_stack),
        )

    def _check_stacks(self) -> None:
        sides = list(zip((self.prediction, self.truth), self.stacked, strict=True))
        shapes = [_image_shape(volume, is_stack) for volume, is_stack in sides]
        if shapes[0] != shapes[1]:
            raise VolumeError(
                f"{self.name}: the prediction is an image of shape {shapes[0]}, the truth of "
                f"{shapes[1]}; compare masks of the same image"
            )

    def _may_be_stacks(self) -> bool:
        """Whether only the numbers of planes differ."""
        sizes = self.prediction.spatial_shape, self.truth.spatial_shape
        return len(sizes[0]) == 3 and sizes[0][1:] == sizes[1][1:]

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size in µm, from the truth, or else from the prediction."""
        size = self.truth.voxel_size or self.prediction.voxel_size
        return None if size is None else size[-len(self.shape) :]

    @property
    def origin(self) -> tuple[float, ...]:
        """Position of the first voxel's centre in µm, from the side that has the voxel size."""
        side = self.truth if self.truth.voxel_size else self.prediction
        return side.origin[-len(self.shape) :]


_OVERLAPPING = (
    "; if each plane holds one object of a 2D image, pass overlapping=True (--overlapping)"
)


def _layers(voxels: NDArray[Any], where: str, ignore: int, *, is_stack: bool) -> list[NDArray[Any]]:
    return list(numbered(voxels, where, ignore)) if is_stack else [voxels]


def _image_shape(volume: Volume, is_stack: bool) -> tuple[int, ...]:
    return volume.spatial_shape[-2:] if is_stack else volume.spatial_shape


def _depth(*volumes: Volume) -> str:
    """Report which side has timepoints that may be planes."""
    told = [text for text in (volume.time_or_depth() for volume in volumes) if text]
    return "".join(f"; {text}" for text in told)


def open_label_pairs(
    predictions: Any,
    truths: Any,
    axes: str | None = None,
    ignore: int = UNANNOTATED,
    *,
    timepoint: int | None = None,
    allow_missing: bool = False,
    overlapping: bool = False,
) -> list[LabelPair]:
    """Open two volumes, two lists by position, or two folders by stem.

    Parameters
    ----------
    predictions, truths
        As for `embedseg_large.evaluate`.
    axes
        Letters of the axes of files that do not name them.
    ignore
        Value of unannotated true voxels, in addition to negative values.
    timepoint
        Which one to compare, of sides with a time axis.
    allow_missing
        Whether missing files and planes of a TIFF are read as zeros.
    overlapping
        Whether labels of three axes are stacks of masks of a 2D image.

    Raises
    ------
    UsageError
        If the sides are of different kinds, an image has no partner, or a side is not a label
        volume.
    VolumeError
        If a side cannot be read, or the shapes of a pair differ.

    Returns
    -------
    The pairs. If `segment` made the labels of a region, only that region is compared.
    """
    kinds = _kind(predictions), _kind(truths)
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"the prediction is a {kinds[0]} and the truth a {kinds[1]}; "
            "pass two volumes, two folders or two lists"
        )
    sources: Sequence[tuple[str, Any, Any]]
    if kinds[0] == "folder":
        sources = pair_by_stem(predictions, truths, ("prediction", "truth"))
    elif kinds[0] == "list":
        sources = _by_position(predictions, truths)
    else:
        sources = [(name_of(truths, 0), predictions, truths)]
    opened = partial(_opened, axes=axes, allow_missing=allow_missing)
    return [
        _pair(name, _at((opened(p), opened(t)), timepoint), ignore, overlapping=overlapping)
        for name, p, t in sources
    ]


@dataclass(frozen=True, slots=True)
class _Side:
    """A volume, and what is wrong with it if it is no stack of masks."""

    volume: Volume
    fault: MetadataError | None = None

    def at(self, timepoint: int) -> _Side:
        """Choose a timepoint, if it is a series."""
        if "t" not in self.volume.axes:
            return self
        (chosen,) = chosen_timepoints(self.volume, timepoint)
        return replace(self, volume=replace(self.volume, timepoint=chosen))

    def check(self, ignore: int, *, is_stack: bool, is_truth: bool) -> None:
        """Refuse what is neither labels nor, if `is_stack`, masks."""
        volume = self.volume
        if not is_stack:
            if self.fault is not None:
                raise MetadataError(f"{self.fault}{_OVERLAPPING}") from self.fault
            check_label_type(volume)
        elif volume.dtype.kind not in "iub":
            raise VolumeError(f"{volume.name}: voxels are {volume.dtype}; masks are integers")
        if not volume.is_labels and volume.path is not None and label_names(volume.path):
            labels = joined(volume.name, "labels/NAME")
            raise UsageError(f"{volume.name} is an image; pass its labels: {labels}")
        if not is_stack:
            check_label_voxels(volume, strict=is_truth)
        elif empty := check_planes(volume, volume.name, ignore):
            logger.warning(
                "%s: no object in %s %s; empty planes are ignored",
                volume.name,
                "plane" if len(empty) == 1 else "planes",
                ", ".join(map(str, empty)),
            )


def _pair(name: str, sides: tuple[_Side, _Side], ignore: int, *, overlapping: bool) -> LabelPair:
    """Combine two sides; if one is a preview, nothing outside it is scored.

    Raises
    ------
    UsageError
        If both are previews of regions without common voxels.
    VolumeError
        If a side is neither labels nor a stack of masks, or their shapes differ.
    """
    prediction, truth = (side.volume.flattened() for side in sides)
    stacked = _stacked(prediction, truth, overlapping=overlapping)
    sides[0].check(UNANNOTATED, is_stack=stacked[0], is_truth=False)
    sides[1].check(ignore, is_stack=stacked[1], is_truth=True)
    regions = [r for r in map(labelled_part, (prediction, truth)) if r is not None]
    common = reduce(Box.intersect, regions) if regions else None
    if common is not None and common.size == 0:
        raise UsageError(
            f"{name}: the labels are of the regions {regions[0]} and {regions[1]}, which do not "
            "overlap; segment the same region"
        )
    return LabelPair(name, prediction, truth, common, ignore, stacked)


def _stacked(prediction: Volume, truth: Volume, *, overlapping: bool) -> tuple[bool, bool]:
    """Whether each side is a stack of masks: what has three axes, if that is stated or evident."""
    if overlapping:
        return n_planes(prediction, 2) is not None, n_planes(truth, 2) is not None
    one_image = [_is_one_image(volume) for volume in (prediction, truth)]
    return prediction.ndim == 3 and one_image[1], truth.ndim == 3 and one_image[0]


def _is_one_image(volume: Volume) -> bool:
    return volume.ndim == 2 and volume.n_timepoints == volume.n_channels == 1


def _kind(source: Any) -> str:
    if isinstance(source, list | tuple):
        return "list"
    return "folder" if is_folder_of_images(source) else "volume"


def _by_position(predictions: Sequence[Any], truths: Sequence[Any]) -> list[tuple[str, Any, Any]]:
    if not predictions or len(predictions) != len(truths):
        raise UsageError(
            f"{len(predictions)} predictions and {len(truths)} true volumes; pass one for each"
        )
    names = [name_of(truth, i) for i, truth in enumerate(truths)]
    return list(zip(names, predictions, truths, strict=True))


def _at(sides: tuple[_Side, _Side], timepoint: int | None) -> tuple[_Side, _Side]:
    """Choose a timepoint of the sides that are series; at least one is."""
    if timepoint is None:
        return sides
    if all("t" not in side.volume.axes for side in sides):
        raise UsageError(f"timepoint {timepoint}: neither the prediction nor the truth is a series")
    return sides[0].at(timepoint), sides[1].at(timepoint)


def _opened(source: Any, axes: str | None, *, allow_missing: bool) -> _Side:
    """Open labels; three axes that a file does not name are those of a stack, or a fault."""
    if isinstance(source, Volume):
        return _Side(source)
    opened = partial(open_volume, source, channel=None, allow_missing=allow_missing)
    try:
        own = opened()
    except (MetadataError, UsageError) as error:
        if axes is not None:
            return _Side(opened(axes=axes))
        if not isinstance(error, MetadataError):
            raise
        return _Side(_as_stack(opened, error), error)
    return _Side(own if axes is None or own.ngff_version is not None else opened(axes=axes))


def _as_stack(opened: Callable[..., Volume], error: MetadataError) -> Volume:
    try:
        return opened(axes="zyx")
    except (UsageError, VolumeError):
        pass  # the first message describes what is wrong with the file
    raise error
