"""A review in a viewer: what is around an instance, what was painted there, where things lie.

The window shows a part of the volume around one instance, in memory, so that it can be painted on;
everything else of the labels stays on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedseg_large.errors import EmbedSegError
from embedseg_large.geometry import Box
from embedseg_large.review.annotation import image_of
from embedseg_large.review.doubt import Doubtful
from embedseg_large.review.edits import Edit, Paint
from embedseg_large.review.review import Review, open_review
from embedseg_large.volumes.volume import Volume

LEAST, MOST = 24, 256
"""Voxels that are shown beside an instance along each axis, if it is small, and at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A review with its queue, ready to be shown."""

    review: Review
    image: Volume | None
    """The image of the labels; None: it is not known."""
    levels: tuple[Any, ...]
    """Lazy arrays of its levels, finest first."""
    contrast: tuple[float, float] | None
    """Intensities that are shown as black and white."""


def open_for_review(labels: str, timepoint: int | None = None) -> Opened:
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
    except EmbedSegError:  # labels can be reviewed without
        return Opened(review=review, image=None, levels=(), contrast=None)
    return Opened(review=review, image=image, levels=tuple(levels), contrast=contrast)


def _coarser(image: Volume) -> list[Any]:
    """Lazy arrays of the coarser levels of an image."""
    return [image.at_level(k).data for k in range(image.level + 1, len(image.levels))]


def _contrast(review: Review, image: Volume) -> tuple[float, float]:
    """Intensities of the surroundings of the first instance: dark and bright ones."""
    box = Box.whole(tuple(min(n, MOST) for n in review.voxels.shape))
    if len(review.queue):
        box = surroundings(review, review.queue[0].box)
    low, high = np.percentile(image.read(box), (1, 99.8)).tolist()
    return low, max(high, low + 1e-6)


def surroundings(review: Review, box: Box) -> Box:
    """The part of the volume to show with an instance."""
    margin = tuple(min(max(LEAST, n // 2), MOST) for n in box.shape)
    return box.grow(margin).clip(review.voxels.shape)


def placed(review: Review, box: Box | None = None) -> dict[str, Any]:
    """Where a part of the volume belongs in the viewer, as arguments of a layer."""
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
    """The voxel at a place in the viewer; None if it is outside of the volume."""
    at, ndim = placed(review), review.source.ndim
    voxel = np.rint((np.asarray(world)[-ndim:] - at["translate"]) / at["scale"]).astype(int)
    is_inside = ((voxel >= 0) & (voxel < review.voxels.shape)).all()
    return tuple(voxel.tolist()) if is_inside else None


def world_of(review: Review, voxel: ArrayLike) -> NDArray[np.float64]:
    """The place of a voxel in the viewer."""
    at = placed(review)
    return np.asarray(at["translate"] + np.asarray(voxel) * at["scale"], np.float64)


def label_at(review: Review, voxel: tuple[int, ...]) -> int:
    """The label of a voxel as it is now."""
    box = Box(voxel, tuple(n + 1 for n in voxel))
    return int(review.read(box).ravel()[0])


def painted(review: Review, box: Box, before: NDArray[Any], after: NDArray[Any]) -> list[Paint]:
    """What was painted on the labels of a box, as edits.

    Labels that were not there are new objects, whatever number the brush had: it cannot know the
    numbers in the rest of the volume. They get the next free ones.

    Parameters
    ----------
    review
        Knows the next free label.
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
    """An instance of the queue, in two lines."""
    why = ", ".join(each.reasons) or "nothing against it"
    state = "" if each.label not in review.decided else ", decided"
    return (
        f"<b>{place + 1} of {len(review.queue)}</b>, {len(review.left)} to look at<br>"
        f"instance {each.label}, {each.voxels:,} voxels, doubt {each.doubt:.2f}{state}<br>{why}"
    )


def told(edit: Edit) -> str:
    """An edit in a few words: painted voxels are many."""
    return f"paint {edit.label}" if isinstance(edit, Paint) else str(edit)
