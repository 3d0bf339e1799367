"""A review in a viewer: surroundings of an instance, painted voxels, and coordinates.

The labels around one instance are held in memory, so that they can be painted on; the rest of the
labels stays on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedseg_large.contrast import display_range
from embedseg_large.errors import EmbedSegError
from embedseg_large.geometry import Box
from embedseg_large.review.annotation import image_of
from embedseg_large.review.doubt import Doubtful
from embedseg_large.review.edits import Edit, Paint
from embedseg_large.review.review import Review, open_review
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume

LEAST, MOST = 24, 256
"""Minimum and maximum number of voxels shown beside an instance along each axis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A review with its queue, ready to be shown."""

    review: Review
    image: Volume | None
    """The image of the labels; None if it is unknown."""
    levels: tuple[Any, ...]
    """Lazy arrays of its levels, finest first."""
    contrast: tuple[float, float] | None
    """Intensities displayed as black and white."""


def open_for_review(labels: str, timepoint: int = 0) -> Opened:
    """Open a review, measure its instances, and find the image.

    Raises
    ------
    UsageError, VolumeError
        As for `open_review`.
    """
    review = open_review(labels, timepoint=timepoint)
    _ = review.queue  # measured here, outside of the window's thread
    try:
        image = image_of(review)
        levels = [image.data, *_coarser(image)]
        contrast = _contrast(review, image)
    except EmbedSegError:  # labels can be reviewed without an image
        return Opened(review=review, image=None, levels=(), contrast=None)
    return Opened(review=review, image=image, levels=tuple(levels), contrast=contrast)


def _coarser(image: Volume) -> list[Any]:
    """Return lazy arrays of the coarser levels of an image, of those that have an array."""
    there = [k for k, level in enumerate(image.levels) if level.shape is not None]
    return [image.at_level(k).data for k in there if k > image.level]


def _contrast(review: Review, image: Volume) -> tuple[float, float]:
    """Find dark and bright intensities around the first instance."""
    box = Box.whole(tuple(min(n, MOST) for n in review.voxels.shape))
    if len(review.queue):
        box = surroundings(review, review.queue[0].box)
    return display_range(image.read(box), PERCENTILES)


def surroundings(review: Review, box: Box) -> Box:
    """Return the part of the volume to show with an instance."""
    margin = tuple(min(max(LEAST, n // 2), MOST) for n in box.shape)
    return box.grow(margin).clip(review.voxels.shape)


def placed(review: Review, box: Box | None = None) -> dict[str, Any]:
    """Return layer arguments that place a part of the volume in the viewer."""
    source = review.source
    size = np.asarray(source.voxel_size or (1.0,) * source.ndim)
    start = np.zeros(source.ndim) if box is None else np.asarray(box.start)
    return {
        "scale": size,
        "translate": np.asarray(source.origin) + start * size,
        "units": ("pixel" if source.voxel_size is None else "um",) * source.ndim,
        "axis_labels": tuple(source.spatial_axes),
    }


def voxel_at(review: Review, world: ArrayLike) -> tuple[int, ...] | None:
    """Return the voxel at a world position; None if it is outside the volume."""
    at, ndim = placed(review), review.source.ndim
    voxel = np.rint((np.asarray(world)[-ndim:] - at["translate"]) / at["scale"]).astype(int)
    is_inside = ((voxel >= 0) & (voxel < review.voxels.shape)).all()
    return tuple(voxel.tolist()) if is_inside else None


def world_of(review: Review, voxel: ArrayLike) -> NDArray[np.float64]:
    """Return the world position of a voxel."""
    at = placed(review)
    return np.asarray(at["translate"] + np.asarray(voxel) * at["scale"], np.float64)


def label_at(review: Review, voxel: tuple[int, ...]) -> int:
    """Return the current label of a voxel."""
    box = Box(voxel, tuple(n + 1 for n in voxel))
    return int(review.read(box).ravel()[0])


def painted(review: Review, box: Box, before: NDArray[Any], after: NDArray[Any]) -> list[Paint]:
    """Convert painted voxels of a box into edits.

    Labels that did not occur before become new objects with the next free labels, whatever label
    the brush had: the viewer does not know the labels in the rest of the volume.

    Parameters
    ----------
    review
        The review, for the next free label.
    box
        A part of the volume.
    before, after
        Its labels as they are stored, and after painting.
    """
    changed = after != before
    edits, free = list[Paint](), review.free
    for label in np.unique(after[changed]).tolist():
        known = label == 0 or (before == label).any()
        voxels = np.argwhere(changed & (after == label)) + box.start
        edits.append(Paint.of(label if known else free, voxels))
        free += not known
    return edits


def described(each: Doubtful, place: int, review: Review) -> str:
    """Describe an instance of the queue, in two lines."""
    why = ", ".join(each.reasons) or "nothing against it"
    state = "" if each.label not in review.decided else ", decided"
    return (
        f"<b>{place + 1} of {len(review.queue)}</b>, {len(review.left)} to look at<br>"
        f"instance {each.label}, {each.voxels:,} voxels, doubt {each.doubt:.2f}{state}<br>{why}"
    )


def told(edit: Edit) -> str:
    """Describe an edit briefly, without listing painted voxels."""
    return f"paint {edit.label}" if isinstance(edit, Paint) else str(edit)
