"""Training data from a review: reviewed instances are annotated, everything else is not.

::

    -1 -1 -1 -1 -1 -1 -1       Reviewed instances keep their labels, deleted ones become
    -1  0  0  0  0 -1 -1       background, and so does a rim around both where nothing else is
    -1  0  7  7  0 -1 -1       labelled, because a reviewer sees the surroundings, too. The rest
    -1  0  7  7  0  3 -1       is unannotated (-1), such as a neighbour without a decision (3
    -1  0  0  0  0 -1 -1       becomes -1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.labels.published import (
    image_options,
    level_of_shape,
    place_of_image,
    provenance_of,
)
from embedseg_large.review.review import Review
from embedseg_large.review.voxels import ReviewedVoxels
from embedseg_large.storage.connection import shown
from embedseg_large.volumes.volume import Volume, open_volume

RIM = 6
"""Width of the rim of background, in voxels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """A training mask, computed when it is read; picklable, and indexed like an array."""

    voxels: ReviewedVoxels
    decided: NDArray[np.int64]
    """Labels of the reviewed instances, ascending."""
    boxes: tuple[Box, ...]
    """Regions that contain everything reviewed, without the rim."""
    rim: int = RIM

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""
        return self.voxels.shape

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.voxels.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Signed: the mask has negative voxels."""
        return np.dtype(np.int32 if self.voxels.dtype == np.int32 else np.int64)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the mask of a box: 0 background, above 0 instances, -1 unannotated."""
        wide = box.grow((self.rim,) * box.ndim).clip(self.shape)
        if not any(wide.intersect(seen).size for seen in self.boxes):
            return np.full(box.shape, UNANNOTATED, self.dtype)
        now = self.voxels.read(wide).astype(self.dtype)
        was = self.voxels.source.read(wide).astype(self.dtype)
        objects = np.isin(now, self.decided)
        seen = objects | np.isin(was, self.decided) | (now != was)
        near = ndimage.binary_dilation(seen, iterations=self.rim) if self.rim else seen
        empty = np.where(near & (now == 0), 0, UNANNOTATED)
        return np.where(objects, now, empty)[box.slices_in(wide)].astype(self.dtype)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box, given as slices without a step."""
        ends = [at.indices(n)[:2] for at, n in zip(index, self.shape, strict=True)]
        return self.read(Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)))


def annotation_of(review: Review, rim: int = RIM) -> Annotation:
    """Create the training mask of a review.

    Raises
    ------
    UsageError
        If nothing was decided.
    """
    decided = sorted(review.decided)
    if not decided:
        raise UsageError(
            f"{shown(review.place.path)}: nothing was reviewed; accept or correct some instances "
            "first"
        )
    boxes = [d.change.box for d in review.log.decisions()]
    found = (box for d in review.log.decisions() for box in d.instances.values())
    boxes += [box for box in found if box is not None]
    return Annotation(
        voxels=review.voxels,
        decided=np.array(decided, np.int64),
        boxes=tuple(dict.fromkeys(boxes)),
        rim=rim,
    )


def annotated_volume(review: Review, rim: int = RIM) -> Volume:
    """The training mask of a review as a lazy volume; raises as `annotation_of`."""
    import dask.array as da

    mask = annotation_of(review, rim)
    lazy = da.from_array(mask, chunks=review.voxels.chunk, asarray=False, fancy=False, name=False)
    return open_volume(
        lazy, axes="zyx"[-mask.ndim :], voxel_size=review.source.voxel_size, channel=None
    )


def image_of(review: Review, channel: int | str | None = None) -> Volume:
    """Open the image that the labels of a review belong to, at their level and timepoint.

    Parameters
    ----------
    review
        The review.
    channel
        Index or name of a channel; None: the segmented one if it is known, else the first.

    Raises
    ------
    UsageError
        If the image is unknown.
    VolumeError
        If it cannot be read, or has no level with the shape of the labels.
    """
    source = review.place.source
    made = provenance_of(source)
    path = place_of_image(source, made)
    if path is None:
        raise UsageError(f"{shown(source)}: its image is not known; review labels beside an image")
    about = made.get("volume", {})
    if channel is None:
        channel = about.get("channel") or 0
    options = image_options(source, path) | {"channel": channel}
    whole = open_volume(path, **options)
    todo = "review labels that have the shape of a level of their image"
    level = level_of_shape(whole, review.source, review.source.spatial_axes, todo)
    if level:
        options.pop("voxel_size", None)
    timepoint = review.source.timepoint if whole.n_timepoints > 1 else None
    found = open_volume(path, level=level, timepoint=timepoint, **options)
    return found.flattened() if review.source.ndim == 2 else found
