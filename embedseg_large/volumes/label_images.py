"""What counts as a label image: integers, one per object. Others are refused, with a solution.

==================  ==============================================================================
coloured picture    several channels: colours of objects, not their labels
float               a label image saved as float, as by Fiji; `convert --labels` reads it
mask                binary, or classes; `convert --components` numbers the connected pieces
image               intensities: neighbouring voxels differ, or a value occurs in many pieces
==================  ==============================================================================

The first two are recognised from the metadata. The others are recognised at a few places, with
limits that no annotation of objects reaches; if the result might merely be poor, there is only a
warning.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.volumes.look import equal_neighbours, places, voxels_at
from embedseg_large.volumes.volume import Volume

_NOISE = 0.25
"""Fraction of equal neighbours above 0 below which there are no objects: objects two voxels wide
have 0.5."""
_MANY = 4
"""Number of pieces of a value (median over the examined values) from which it is not an object."""
_LOOKED_AT = 6
"""Number of values per place whose pieces are counted: those with the most voxels."""
_SPECK = 8
"""Minimum voxels of a piece that counts."""

logger = logging.getLogger(__name__)


def check_label_type(volume: Volume, *, may_be_float: bool = False) -> None:
    """Refuse volumes that cannot be labels, without reading voxels.

    Parameters
    ----------
    volume
        The volume.
    may_be_float
        Whether labels saved as float are accepted.

    Raises
    ------
    VolumeError
        If there are several channels, floats, or a binary mask.
    """
    if volume.dtype.kind == "f" and not may_be_float:
        raise VolumeError(
            f"{volume.name}: voxels are {volume.dtype}; labels are integers, one per object. "
            f"Whole numbers stored as {volume.dtype} become labels with "
            f"{_command(volume, '--labels')}"
        )
    if volume.n_channels > 1:
        raise VolumeError(
            f"{volume.name}: {volume.n_channels} channels (axes {volume.stored_axes}, shape "
            f"{volume.stored_shape}), like a coloured picture; a label image has one channel, "
            "with one integer per object: save the labels themselves, not their colours"
            + ("" if (told := volume.time_or_depth()) is None else f"; {told}")
        )
    if volume.dtype.kind == "b":
        raise VolumeError(f"{volume.name}: {_mask_text(volume)}")


def check_label_voxels(volume: Volume, *, strict: bool) -> None:
    """Refuse volumes that do not look like labels of objects at a few places.

    Parameters
    ----------
    volume
        A volume with a type that labels can have.
    strict
        Whether a mask or an image is refused; otherwise a warning is logged if the labels may be a
        poor result. Noise is always refused.

    Raises
    ------
    VolumeError
        If the voxels are a mask, or intensities.
    """
    if volume.dtype.kind not in "iu":
        return
    seen = _Seen()
    for box in places(volume):
        seen.add(voxels_at(volume, box), volume.ndim)
    _warn_of_largest(volume, seen)
    text = _fault(volume, seen)
    if text is None:
        return
    if strict or seen.is_noise:
        raise VolumeError(f"{volume.name}: {text}")
    logger.warning("%s: %s", volume.name, text)


@dataclass(slots=True)
class _Seen:
    """Observations at the places so far."""

    equal: int = 0
    pairs: int = 0
    pieces: list[int] = field(default_factory=list)
    """Number of pieces of each examined value at each place."""
    values: set[int] = field(default_factory=set)

    def add(self, voxels: NDArray[Any], ndim: int) -> None:
        """Examine a place."""
        equal, pairs = equal_neighbours(voxels)
        self.equal += equal
        self.pairs += pairs
        found, counts = np.unique(voxels[voxels > 0], return_counts=True)
        self.values.update(found.tolist())
        if not self.is_noise:
            most = found[np.argsort(-counts, kind="stable")[:_LOOKED_AT]]
            self.pieces += [_pieces(voxels == value, ndim) for value in most]

    @property
    def is_noise(self) -> bool:
        """Whether most neighbours differ, if there are enough of them."""
        return self.pairs >= 1000 and self.equal < _NOISE * self.pairs

    @property
    def is_scattered(self) -> bool:
        """Whether values come in many pieces."""
        return bool(self.pieces) and float(np.median(self.pieces)) >= _MANY


def _fault(volume: Volume, seen: _Seen) -> str | None:
    """Describe the problem; None if there is none."""
    if seen.is_noise:
        return _image_text()
    if seen.values == {np.iinfo(volume.dtype).max} and max(seen.pieces, default=0) > 1:
        return _mask_text(volume)
    if not seen.is_scattered:
        return None
    return _mask_text(volume) if len(seen.values) <= 2 else _image_text()


def _warn_of_largest(volume: Volume, seen: _Seen) -> None:
    """Warn of -1 that became the largest number of an unsigned type."""
    largest = int(np.iinfo(volume.dtype).max)
    others = seen.values - {largest}
    if volume.dtype.kind == "i" or not others or len(others) == len(seen.values):
        return
    if max(others) < largest // 2:
        logger.warning(
            "%s: one label is %d, the largest number of %s, and counts as an object; if it was -1 "
            "and means that voxels are not annotated, save labels as int32 with -1 there "
            "(evaluate also takes --ignore-label %d)",
            volume.name,
            largest,
            volume.dtype,
            largest,
        )


def _mask_text(volume: Volume) -> str:
    return (
        "a mask, which does not distinguish objects; a label image has one integer per object. "
        f"Number its connected pieces with {_command(volume, '--components')}"
    )


def _image_text() -> str:
    return (
        "looks like an image, not like labels: neighbouring voxels differ, or one value occurs in "
        "many places; pass the label image, in which all voxels of an object have the same number"
    )


def _command(volume: Volume, option: str) -> str:
    if volume.path is None:
        return {"--labels": "array.astype('int32')"}.get(option, "scipy.ndimage.label(array)[0]")
    return f"embedseg-large convert {volume.name} LABELS.ome.zarr {option}"


def _pieces(mask: NDArray[np.bool_], ndim: int) -> int:
    """Count the connected pieces of a value that are larger than specks."""
    from scipy import ndimage

    found, _ = ndimage.label(mask.reshape(mask.shape[-ndim:]), np.ones((3,) * ndim))
    return int(np.count_nonzero(np.bincount(found.ravel())[1:] >= _SPECK))


def read_labels(volume: Volume, timepoint: int | None, box: Box) -> NDArray[Any]:
    """Read a box of labels; negative voxels, which are not annotated, are background.

    Parameters
    ----------
    volume
        Without a channel axis, or a stack of masks.
    timepoint
        The timepoint; None or any number if there is no time axis.
    box
        In voxels, inside the volume.
    """
    voxels = volume.read(box, timepoint if "t" in volume.axes else None)
    unknown = unannotated(voxels)
    return voxels if unknown is None else np.where(unknown, 0, voxels)


def unannotated(labels: NDArray[Any], ignore: int = UNANNOTATED) -> NDArray[np.bool_] | None:
    """Find unannotated voxels: negative ones, and those with one more value.

    None if there are none, as in most label images.
    """
    found: NDArray[np.bool_] | None = None
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        found = labels < 0
    if ignore > 0:
        same = labels == ignore
        found = same if found is None else found | same
    return found
