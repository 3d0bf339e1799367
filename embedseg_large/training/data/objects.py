"""The objects of the training data as a table, found in one pass over the masks.

1. A mask is read in tiles that follow its storage, and each tile is processed in small parts.
2. In a part, the voxels of all objects are sorted by label; every run is one object's share: its
   number of voxels and its bounding box.
3. Shares of one label are added up over all parts.

Memory is needed for one tile and for the table, regardless of the size of the mask and its labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.geometry import Box
from embedseg_large.training.data.sources import Labels, Pair
from embedseg_large.volumes.intensity import tiles

PART = {2: (512, 512), 3: (64, 128, 128)}
"""Voxels processed at once; arrays stay in the cache."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTable:
    """One row per object, ordered by image and then by label.

    Parameters
    ----------
    images
        int64 ``(n,)``: index of the object's image.
    ids
        int64 ``(n,)``: its label in the mask; in a stack, its plane counted from 1.
    sizes
        int64 ``(n,)``: its number of voxels.
    starts, stops
        int64 ``(n, ndim)``: its bounding box, half-open; (z,) y, x.
    """

    images: Int64
    ids: Int64
    sizes: Int64
    starts: Int64
    stops: Int64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def extents(self) -> Int64:
        """Edges of the bounding boxes, ``(n, ndim)``."""
        return self.stops - self.starts

    def box(self, row: int) -> Box:
        """Bounding box of one object."""
        return Box(tuple(self.starts[row].tolist()), tuple(self.stops[row].tolist()))

    def rows_of(self, image: int) -> slice:
        """Rows of the objects of one image."""
        first, last = np.searchsorted(self.images, (image, image + 1))
        return slice(int(first), int(last))

    def part(self, rows: slice) -> ObjectTable:
        """Some of the rows."""
        columns = (self.images, self.ids, self.sizes, self.starts, self.stops)
        return ObjectTable(*(column[rows] for column in columns))

    def renumbered(self, first: int) -> ObjectTable:
        """The same objects, where image `first` is image 0."""
        return replace(self, images=self.images - first)

    @classmethod
    def joined(cls, tables: Sequence[ObjectTable]) -> ObjectTable:
        """Return one table of several, whose images are numbered in this order."""
        counts = [len(table) for table in tables]
        return cls(
            np.repeat(np.arange(len(tables)), counts),
            *(
                np.concatenate([getattr(table, name) for table in tables])
                for name in ("ids", "sizes", "starts", "stops")
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The result of one pass over a mask."""

    objects: ObjectTable
    foreground: int
    """Voxels that belong to an object."""
    background: int
    """Number of background voxels; unannotated voxels are not counted."""


def scan(pair: Pair) -> Scan:
    """Find the objects of a mask.

    Raises
    ------
    VolumeError
        If there is no object, or none has two voxels; the message begins with the mask's name.
    """
    shares, counts = [], np.zeros(2, np.int64)
    for origin, labels in parts(pair, Box.whole(pair.shape)):
        plane = labels.max(axis=0) if pair.stacked else labels
        counts += (np.count_nonzero(plane > 0), np.count_nonzero(plane == 0))
        shares.append(_shares(labels, origin))
    objects = _added_up(shares)
    _check(objects, pair)
    return Scan(objects, foreground=int(counts[0]), background=int(counts[1]))


def voxels_of(pair: Pair, number: int, box: Box) -> Int64:
    """Find the voxels of one object, in memory of one tile and of these voxels.

    Parameters
    ----------
    pair
        Whose mask is read.
    number
        The object's id as in `ObjectTable`.
    box
        Its bounding box.

    Returns
    -------
    int64 ``(n, ndim)``: their coordinates (z,) y, x in raster order.
    """
    found = [np.zeros((0, pair.ndim), np.int64)]
    for origin, labels in parts(pair, box):
        inside = labels == number
        found.append(np.argwhere(inside.any(axis=0) if pair.stacked else inside) + origin)
    voxels = np.concatenate(found)
    return voxels[np.lexsort(voxels.T[::-1])]


def _check(objects: ObjectTable, pair: Pair) -> None:
    if not len(objects):
        raise VolumeError(
            f"{pair.where}: the mask has no objects, only background and ignored voxels; annotate "
            "some, or leave out the image"
        )
    if objects.sizes.max() < 2:
        raise VolumeError(
            f"{pair.where}: all {len(objects)} objects are smaller than 2 voxels; "
            "a mask needs one integer for each object, not for each voxel"
        )


def parts(pair: Pair, within: Box) -> Iterator[tuple[tuple[int, ...], Labels]]:
    """Yield origin and labels of small parts of a mask, covering a box of the image once."""
    wanted = pair.mask_box(within)
    for tile in _tiles(pair):
        here = tile.intersect(wanted)
        if not here.size:
            continue
        voxels = pair.mask.read(here)
        for part in here.split((*here.shape[: -pair.ndim], *PART[pair.ndim])):
            labels = pair.labels_of(voxels[part.slices_in(here)])
            yield part.start[-pair.ndim :], labels


def _tiles(pair: Pair) -> Iterable[Box]:
    """Cut a mask into boxes to read; of a stack, all planes at once."""
    if pair.mask.ndim == pair.ndim:
        return tiles(pair.mask)
    return [pair.mask_box(box) for box in Box.whole(pair.shape).split(PART[pair.ndim])]


def _shares(labels: Labels, origin: Sequence[int]) -> tuple[Int64, ...]:
    """Return label, number of voxels and bounding box of each object's share of a part."""
    ndim = len(origin)
    flat = labels.ravel()
    voxels = np.flatnonzero(flat > 0)
    order = np.argsort(flat[voxels], kind="stable")
    voxels, ids = voxels[order], flat[voxels[order]].astype(np.int64)
    first = np.flatnonzero(np.diff(ids, prepend=0))
    if not len(first):
        empty = np.zeros(0, np.int64)
        return empty, empty, empty.reshape(0, ndim), empty.reshape(0, ndim)
    coordinates = np.stack(np.unravel_index(voxels, labels.shape)[-ndim:], axis=-1)
    starts = np.minimum.reduceat(coordinates, first) + np.asarray(origin)
    stops = np.maximum.reduceat(coordinates, first) + np.asarray(origin) + 1
    return ids[first], np.diff(first, append=len(ids)), starts, stops


def _added_up(shares: Sequence[tuple[Int64, ...]]) -> ObjectTable:
    """Join the shares of each label; images are numbered 0."""
    ids, sizes, starts, stops = (np.concatenate(column) for column in zip(*shares, strict=True))
    order = np.argsort(ids, kind="stable")
    first = np.flatnonzero(np.diff(ids[order], prepend=0))
    if not len(first):
        return ObjectTable(ids, ids, sizes, starts, stops)
    return ObjectTable(
        np.zeros(len(first), np.int64),
        ids[order][first],
        np.add.reduceat(sizes[order], first),
        np.minimum.reduceat(starts[order], first),
        np.maximum.reduceat(stops[order], first),
    )
