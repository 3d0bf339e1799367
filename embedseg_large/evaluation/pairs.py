"""Pairs of predicted and true labels of the same image: opened and checked, but not yet read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from embedseg_large.errors import MetadataError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import label_names, labelled_part
from embedseg_large.storage.connection import joined
from embedseg_large.volumes.folders import is_folder_of_images, name_of, pair_by_stem
from embedseg_large.volumes.label_images import check_label_type, check_label_voxels
from embedseg_large.volumes.volume import Volume, open_volume


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
    ignore: int = -1
    """Value of unannotated true voxels, in addition to negative values: they are ignored."""

    def __post_init__(self) -> None:
        if self.prediction.axes != self.truth.axes:
            raise VolumeError(
                f"{self.name}: the prediction has axes {self.prediction.axes}, the truth "
                f"{self.truth.axes}{_depth(self.prediction, self.truth)}"
            )
        if self.prediction.shape != self.truth.shape:
            raise VolumeError(
                f"{self.name}: the prediction has shape {self.prediction.shape}, the truth "
                f"{self.truth.shape}; compare volumes of the same level and region"
            )
        if "t" in self.prediction.axes:
            raise VolumeError(
                f"{self.name}: the labels have {self.prediction.n_timepoints} timepoints; "
                f"compare them one by one{_depth(self.prediction, self.truth)}"
            )

    @property
    def compared(self) -> Box:
        """The part that is compared."""
        return self.region or Box.whole(self.truth.spatial_shape)

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size in µm, from the truth, or else from the prediction."""
        return self.truth.voxel_size or self.prediction.voxel_size

    @property
    def origin(self) -> tuple[float, ...]:
        """Position of the first voxel's centre in µm, from the side that has the voxel size."""
        return (self.truth if self.truth.voxel_size else self.prediction).origin


def _depth(*volumes: Volume) -> str:
    """Report which side has timepoints that may be planes."""
    told = [text for text in (volume.time_or_depth() for volume in volumes) if text]
    return "".join(f"; {text}" for text in told)


def open_label_pairs(
    predictions: Any,
    truths: Any,
    axes: str | None = None,
    ignore: int = -1,
    *,
    allow_missing: bool = False,
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
    allow_missing
        Whether missing files and planes of a TIFF are read as zeros.

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
    return [
        _pair(
            name,
            _labels(p, axes, allow_missing, truth=False),
            _labels(t, axes, allow_missing, truth=True),
            ignore,
        )
        for name, p, t in sources
    ]


def _pair(name: str, prediction: Volume, truth: Volume, ignore: int) -> LabelPair:
    """Combine two sides; if one is a preview, nothing outside it is scored.

    Raises
    ------
    UsageError
        If both are previews of regions without common voxels.
    """
    regions = [r for r in map(labelled_part, (prediction, truth)) if r is not None]
    common = reduce(Box.intersect, regions) if regions else None
    if common is not None and common.size == 0:
        raise UsageError(
            f"{name}: the labels are of the regions {regions[0]} and {regions[1]}, which do not "
            "overlap; segment the same region"
        )
    return LabelPair(name, prediction, truth, common, ignore)


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


def _opened(source: Any, axes: str | None, allow_missing: bool) -> Volume:
    """Open labels; `axes` apply to files that do not name theirs."""
    opened = partial(open_volume, source, channel=None, allow_missing=allow_missing)
    if axes is None:
        return opened()
    try:
        own = opened()
    except (MetadataError, UsageError):
        return opened(axes=axes)
    return own if own.ngff_version is not None else opened(axes=axes)


def _labels(source: Any, axes: str | None, allow_missing: bool, *, truth: bool) -> Volume:
    """Open a label volume; refuse an image, with labels inside or not."""
    volume = source if isinstance(source, Volume) else _opened(source, axes, allow_missing)
    check_label_type(volume)
    if not volume.is_labels and volume.path is not None and label_names(volume.path):
        labels = joined(volume.name, "labels/NAME")
        raise UsageError(f"{volume.name} is an image; pass its labels: {labels}")
    check_label_voxels(volume, strict=truth)
    return volume.flattened()
