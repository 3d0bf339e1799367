"""What a label image is: integers, one per object. What is none is refused, with the way out.

==================  ==============================================================================
coloured picture    several channels: the colours of objects, not their labels
float               a label image that Fiji and others saved as float; `convert --labels` reads it
mask                yes and no, or classes; `convert --components` numbers the connected pieces
image               intensities: neighbouring voxels differ, or a value comes in many pieces
==================  ==============================================================================

The first two are facts of the metadata. The others are found by a look at a few places, with
limits that no annotation of objects reaches; where a result may be merely poor, a warning is all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.volumes.look import equal_neighbours, places, voxels_at
from embedseg_large.volumes.volume import Volume

_NOISE = 0.25
"""Fraction of equal neighbours above 0 below which there are no objects: those of two voxels across
have 0.5."""
_MANY = 4
"""Pieces of a value from which it is no object: the median of the values that were looked at."""
_LOOKED_AT = 6
"""Values of a place whose pieces are counted: those of most voxels."""
_SPECK = 8
"""Voxels of a piece that counts."""

logger = logging.getLogger(__name__)


def check_label_type(volume: Volume) -> None:
    """Refuse what cannot be labels, without reading voxels.

    Raises
    ------
    VolumeError
        Several channels, floats, or a mask of yes and no.
    """
    if volume.dtype.kind == "f":
        raise VolumeError(
            f"{volume.name}: voxels are {volume.dtype}; labels are integers, one per object. "
            f"Whole numbers that were saved as {volume.dtype} become labels with "
            f"{_command(volume, '--labels')}"
        )
    if volume.n_channels > 1:
        raise VolumeError(
            f"{volume.name}: {volume.n_channels} channels (axes {volume.stored_axes}, shape "
            f"{volume.stored_shape}), as a coloured picture has; a label image has one, with an "
            "integer for each object: save the labels themselves, not their colours"
        )
    if volume.dtype.kind == "b":
        raise VolumeError(f"{volume.name}: {_mask_text(volume)}")


def check_label_voxels(volume: Volume, *, strict: bool) -> None:
    """Refuse what does not look like labels of objects at a few places.

    Parameters
    ----------
    volume
        Of a type that labels have.
    strict
        Whether a mask or an image is refused; else a warning is logged where the labels may be of
        a poor result. Noise is always refused.

    Raises
    ------
    VolumeError
        The voxels are a mask, or intensities.
    """
    if volume.dtype.kind not in "iu":
        return
    seen = _Seen()
    for box in places(volume):
        seen.add(voxels_at(volume, box), volume.ndim)
    text = _fault(volume, seen)
    if text is None:
        return
    if strict or seen.is_noise:
        raise VolumeError(f"{volume.name}: {text}")
    logger.warning("%s: %s", volume.name, text)


@dataclass(slots=True)
class _Seen:
    """What was seen at the places so far."""

    equal: int = 0
    pairs: int = 0
    pieces: list[int] = field(default_factory=list)
    """Of each value that was looked at, at each place."""
    values: set[int] = field(default_factory=set)

    def add(self, voxels: NDArray[Any], ndim: int) -> None:
        """Look at a place."""
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
        """Whether most neighbours differ, of enough to judge by."""
        return self.pairs >= 1000 and self.equal < _NOISE * self.pairs

    @property
    def is_scattered(self) -> bool:
        """Whether values come in many pieces."""
        return bool(self.pieces) and float(np.median(self.pieces)) >= _MANY


def _fault(volume: Volume, seen: _Seen) -> str | None:
    """Say what is wrong; None if nothing is."""
    if seen.is_noise:
        return _image_text()
    if seen.values == {np.iinfo(volume.dtype).max} and max(seen.pieces, default=0) > 1:
        return _mask_text(volume)
    if not seen.is_scattered:
        return None
    return _mask_text(volume) if len(seen.values) <= 2 else _image_text()


def _mask_text(volume: Volume) -> str:
    return (
        "a mask, which does not say which voxel is of which object; a label image has an integer "
        f"for each. Number its connected pieces with {_command(volume, '--components')}"
    )


def _image_text() -> str:
    return (
        "looks like an image, not like labels: neighbouring voxels differ, or one value comes in "
        "many places; give the label image, in which all voxels of an object have one number"
    )


def _command(volume: Volume, option: str) -> str:
    if volume.path is None:
        return {"--labels": "array.astype('int32')"}.get(option, "scipy.ndimage.label(array)[0]")
    return f"embedseg-large convert {volume.name} LABELS.ome.zarr {option}"


def _pieces(mask: NDArray[np.bool_], ndim: int) -> int:
    """Count the connected pieces of a value that are more than specks."""
    from scipy import ndimage

    found, _ = ndimage.label(mask.reshape(mask.shape[-ndim:]), np.ones((3,) * ndim))
    return int(np.count_nonzero(np.bincount(found.ravel())[1:] >= _SPECK))


def unannotated(labels: NDArray[Any], ignore: int = -1) -> NDArray[np.bool_] | None:
    """Find voxels that are not annotated: negative ones, and those of one more value.

    None if there are none, as in most label images.
    """
    found: NDArray[np.bool_] | None = None
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        found = labels < 0
    if ignore > 0:
        same = labels == ignore
        found = same if found is None else found | same
    return found
