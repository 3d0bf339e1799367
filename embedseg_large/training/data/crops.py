"""One training crop, cut from an image on the fly.

1. `place` puts a box around an object, inside the image.
2. The box of the image is read and normalised, and the same box of the mask is read.
3. If the image is thinner than the crop, it is padded at its far side by reflection, as in
prediction, and the mask with ignored voxels. 4. Both are magnified and turned as a `View` says;
intensities are changed. 5. The remaining labels are numbered 1 to K, and their centres are mapped
into the crop.

Centres are those of whole objects in the whole image. The centre of an object that is cut by the
crop stays at its position if that is in the crop, and is otherwise unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.training.data.augment import View, source_shape, turn_points, unturned_shape
from embedseg_large.training.data.centers import center
from embedseg_large.training.data.objects import ObjectTable
from embedseg_large.training.data.resample import filtered, linear_weights, voted
from embedseg_large.training.data.sources import Labels, Pair
from embedseg_large.training.data.targets import Sample
from embedseg_large.training.options import CenterMethod
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume

CENTER_CACHE_BYTES = 2**28

Reader = Callable[[Volume, Box], NDArray[Any]]
"""Reads a box of a volume."""

CenterTask = tuple[Pair, NDArray[np.int64], list[Box]]
CenterMap = Callable[
    [Callable[[CenterTask], NDArray[np.float64]], Iterable[CenterTask]],
    Iterable[NDArray[np.float64]],
]
"""Like the builtin `map`, in order."""


class Cache:
    """Reads boxes, and keeps whole volumes in memory as far as they fit into a budget.

    Kept volumes are never evicted: with crops in random order, evicting the oldest would evict what
    is needed next. Pickled without its content.

    Parameters
    ----------
    total
        Maximum number of bytes to keep; 0: nothing is kept.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._kept: dict[int, tuple[Volume, NDArray[Any]]] = {}

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Read a box as `Volume.read` does; do not write into what it returns."""
        if id(volume) not in self._kept:
            size = prod(volume.shape) * volume.dtype.itemsize
            if volume.chunks is None or size > self._left:  # in memory already, or too large
                return volume.read(box)
            self._left -= size
            # keep the volume too, so that no other one gets its id
            self._kept[id(volume)] = (volume, volume.read(Box.whole(volume.spatial_shape)))
        index: tuple[Any, ...] = (..., *box.slices)
        voxels: NDArray[Any] = self._kept[id(volume)][1][index]
        return voxels

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.total,)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """A pair with everything known about it.

    Parameters
    ----------
    pair
        Image and mask.
    ranges
        Intensities that become 0 and 1, one range per channel.
    ids
        int64 ``(n,)``: labels of its objects, ascending.
    centers
        float64 ``(n, ndim)``: centres of its objects, in voxels of the image; NaN where unknown.
    tables
        Intensities at `embedseg_large.training.data.intensities.QUANTILES`, for each channel; None
        if not measured.
    """

    pair: Pair
    ranges: tuple[IntensityRange, ...]
    ids: NDArray[np.int64]
    centers: NDArray[np.float64]
    tables: tuple[tuple[float, ...], ...] | None = None


def find_centers(
    pairs: Sequence[Pair],
    objects: ObjectTable,
    method: CenterMethod = "medoid",
    *,
    map: CenterMap = map,
) -> NDArray[np.float64]:
    """Find the centres of all objects, each from all of its voxels.

    Distances are measured in µm where the voxel size is known.

    Parameters
    ----------
    pairs, objects
        The training data and their table.
    method
        As for `embedseg_large.training.data.centers.center`.
    map
        Applies a picklable function to one task per image, here or in other processes, in order.

    Returns
    -------
    float64 ``(n, ndim)`` in voxels of the image; NaN where the centre is not in its object, which
    a centroid need not be.
    """
    rows = [objects.rows_of(i) for i in range(len(pairs))]
    boxes = [[objects.box(r) for r in range(of.start, of.stop)] for of in rows]
    tasks = [(p, objects.ids[of], b) for p, of, b in zip(pairs, rows, boxes, strict=True)]
    return np.concatenate(list(map(partial(_centers_of, method), tasks)))


def _centers_of(method: CenterMethod, task: CenterTask) -> NDArray[np.float64]:
    """Find the centres of the objects of one image."""
    pair, ids, boxes = task
    read = Cache(CENTER_CACHE_BYTES).read
    found = np.full((len(ids), pair.ndim), np.nan)
    for row, (number, box) in enumerate(zip(ids, boxes, strict=True)):
        mask = pair.labels_of(read(pair.mask, pair.mask_box(box))) == number
        inside = mask.any(axis=0) if pair.stacked else mask
        voxel = center(np.argwhere(inside), method, pair.image.voxel_size)
        if inside[tuple(voxel)]:
            found[row] = voxel + np.asarray(box.start)
    return found


def place(target: Box, shape: Sequence[int], image: Sequence[int]) -> Box:
    """Put a box around the middle of a target, shifted so that it lies inside the image.

    Parameters
    ----------
    target
        Bounding box of an object.
    shape
        Requested shape; along an axis where the image is shorter, the box is as long as the image.
    image
        Shape of the image.
    """
    edges = tuple(min(n, size) for n, size in zip(shape, image, strict=True))
    start = tuple(
        min(max((a + b) // 2 - n // 2, 0), size - n)
        for a, b, n, size in zip(target.start, target.stop, edges, image, strict=True)
    )
    return Box(start, tuple(a + n for a, n in zip(start, edges, strict=True)))


def emptiest(
    source: AnnotatedImage,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    read: Reader = Volume.read,
    tries: int = 8,
) -> Box:
    """Find a box of an image with few objects, or none.

    Parameters
    ----------
    source
        The image.
    shape
        Shape of the box, at most that of the image.
    rng
        Draws candidate places; the one with the fewest object voxels is used. Unannotated voxels
        count as object voxels.
    read
        Reads a box of a volume.
    tries
        Number of places to try.
    """
    pair = source.pair
    edges = np.minimum(shape, pair.shape)
    found: list[tuple[int, Box]] = []
    for start in rng.integers(0, np.asarray(pair.shape) - edges + 1, (tries, pair.ndim)):
        box = Box(tuple(start.tolist()), tuple((start + edges).tolist()))
        labels = pair.labels_of(read(pair.mask, pair.mask_box(box)))
        found.append((int(np.count_nonzero(labels)), box))
        if found[-1][0] == 0:
            break
    return min(found, key=lambda each: each[0])[1]


def cut(
    source: AnnotatedImage,
    target: Box,
    shape: Sequence[int],
    view: View,
    *,
    read: Reader = Volume.read,
) -> Sample:
    """Cut one crop.

    Parameters
    ----------
    source
        The image and its annotation.
    target
        Bounding box of the object to cut around.
    shape
        Final shape of the crop.
    view
        Its orientation and magnification.
    read
        Reads a box of a volume.

    Raises
    ------
    CorruptChunkError
        If stored voxels cannot be decoded.
    """
    pair = source.pair
    padded, unturned = source_shape(shape, view), unturned_shape(shape, view)
    box = place(target, padded, pair.shape)
    image = _image(source, box, read(pair.image, box), padded, unturned)
    labels = _labels(pair, read(pair.mask, pair.mask_box(box)), padded, unturned)
    image = np.ascontiguousarray(view.symmetry.apply(image))
    labels = np.ascontiguousarray(view.symmetry.apply(labels))
    ids, numbers, masks = _numbered(labels, stacked=pair.stacked)
    known = source.centers[np.searchsorted(source.ids, ids)] - np.asarray(box.start)
    zoom = np.asarray(unturned) / np.asarray(padded)
    points = turn_points((known + 0.5) * zoom - 0.5, view.symmetry, unturned)
    return Sample(
        image=image,
        labels=numbers,
        masks=masks,
        centers=_snapped(points, numbers, masks),
    )


def _image(
    source: AnnotatedImage,
    box: Box,
    voxels: NDArray[Any],
    padded: Sequence[int],
    shape: Sequence[int],
) -> NDArray[np.float32]:
    """Normalise, pad and magnify an image."""
    image = source.pair.normalised(box, voxels, source.ranges)
    if image.shape[1:] != tuple(padded):
        image = np.pad(image, _missing(image, padded), mode="reflect")
    pairs = zip(padded, shape, strict=True)
    return filtered(image, [None if a == b else linear_weights(a, b) for a, b in pairs])


def _labels(
    pair: Pair, voxels: NDArray[Any], padded: Sequence[int], shape: Sequence[int]
) -> Labels:
    """Translate, pad and magnify the labels."""
    labels = pair.labels_of(voxels)
    labels = np.pad(labels, _missing(labels, padded), constant_values=UNANNOTATED)
    return voted(labels, shape)


def _missing(array: NDArray[Any], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return the padding at the far side that brings the last axes to a shape."""
    leading = array.ndim - len(shape)
    wanted = (*array.shape[:leading], *shape)
    return [(0, b - a) for a, b in zip(array.shape, wanted, strict=True)]


def _numbered(
    labels: Labels, *, stacked: bool
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_] | None]:
    """Return the ids that occur, ascending, labels renumbered from 1 to K, and masks."""
    if stacked:
        planes = np.flatnonzero((labels > 0).any(axis=tuple(range(1, labels.ndim))))
        masks = labels[planes] > 0
        foreground = np.where(masks.any(axis=0), 1, 0)
        return planes + 1, np.where(labels[0] == UNANNOTATED, UNANNOTATED, foreground), masks
    numbers = np.minimum(labels, 0, dtype=np.int32, casting="unsafe")
    inside = labels > 0
    ids, inverse = np.unique(labels[inside], return_inverse=True)
    numbers[inside] = inverse + 1
    return ids.astype(np.int64), numbers, None


def _snapped(
    points: NDArray[np.float64], labels: NDArray[np.int32], masks: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Move centres to voxels of their instances: the voxel that contains it, or else the nearest.

    After magnification a centre lies between voxels, and the one it rounds to may have become
    another instance's. Centres outside the crop become NaN.
    """
    snapped = np.full(points.shape, np.nan, np.float32)
    shape = np.asarray(labels.shape)
    rounded = np.rint(points)
    for k in np.flatnonzero(((rounded >= 0) & (rounded < shape)).all(axis=1)):
        snapped[k] = voxel = rounded[k].astype(np.intp)
        at = tuple(voxel)
        if not (labels[at] == k + 1 if masks is None else masks[k][at]):
            voxels = np.argwhere(labels == k + 1 if masks is None else masks[k])
            snapped[k] = voxels[((voxels - points[k]) ** 2).sum(axis=1).argmin()]
    return snapped
