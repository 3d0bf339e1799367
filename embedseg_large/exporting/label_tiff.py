"""Labels as TIFF, for Fiji and every other program, in bounded memory.

A file is written strip by strip: pages of OME-TIFF, compressed (zlib), in uint8, uint16 or uint32
as the largest label needs, with the size of a voxel both in the OME-XML and, for programs that read
no XML, in the resolution tags. Strips, not tiles, because ImageJ itself opens no tiled TIFF. Files
that may grow beyond 4 GiB are BigTIFFs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.exporting.options import Drawing
from embedseg_large.geometry import Box
from embedseg_large.storage.disk import whole_file
from embedseg_large.volumes.label_images import read_labels
from embedseg_large.volumes.timepoints import chosen_timepoints
from embedseg_large.volumes.volume import Volume

_SLAB_BYTES = 1 << 28
"""Bytes of the labels that are held in memory at a time."""
_STRIP_BYTES = 1 << 18
_BIG = (1 << 32) - (1 << 25)
"""Bytes from which a TIFF may not fit 32-bit offsets; pages and tags take some more."""
_LEVEL = 6
"""Compression level of zlib."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTiff:
    """How labels are written as a TIFF."""

    labels: Volume
    """Without a channel axis."""
    timepoints: tuple[int | None, ...]
    """Timepoints to write; just None if there is no time axis."""
    dtype: np.dtype[Any]
    """Dtype of a voxel in the file."""
    draw: Drawing = "labels"
    keep: NDArray[np.uint64] | None = None
    """Labels of the instances to write, ascending; None: all."""

    @property
    def axes(self) -> str:
        """Letters of the axes of the file."""
        time = "T" if len(self.timepoints) > 1 else ""
        return time + self.labels.spatial_axes.upper()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the file's image."""
        time = (len(self.timepoints),) if len(self.timepoints) > 1 else ()
        return (*time, *self.labels.spatial_shape)

    @property
    def is_big(self) -> bool:
        """Whether it needs the offsets of a BigTIFF."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize > _BIG

    def write(self, path: Path) -> None:
        """Write the file, which appears whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        CorruptChunkError
            If labels cannot be read.
        """
        import tifffile

        with (
            whole_file(path) as begun,
            tifffile.TiffWriter(begun, ome=True, bigtiff=self.is_big) as file,
        ):
            file.write(
                self._strips(),
                shape=self.shape,
                dtype=self.dtype,
                photometric="minisblack",
                compression="zlib",
                rowsperstrip=self._rows,
                metadata={"axes": self.axes, **_sizes(self.labels)},
                **_resolution(self.labels),
            )

    @property
    def _rows(self) -> int:
        """Rows of a strip."""
        return strip_rows(self.labels, self.dtype)

    def _strips(self) -> Iterator[bytes]:
        for timepoint in self.timepoints:
            yield from strips(self.labels, timepoint, self._rows, self._drawn)

    def _drawn(self, labels: NDArray[Any]) -> NDArray[Any]:
        """What is written of labels."""
        chosen = labels if self.keep is None else only(labels, self.keep)
        if self.draw == "labels":
            return chosen.astype(self.dtype)
        shown = chosen != 0 if self.draw == "mask" else outlined(chosen)
        return shown.astype(np.uint8) * np.uint8(255)


def strip_rows(labels: Volume, dtype: np.dtype[Any]) -> int:
    """Number of rows of a strip of a TIFF that holds a plane of labels in a dtype."""
    height, width = labels.spatial_shape[-2:]
    return int(min(height, max(1, _STRIP_BYTES // (width * dtype.itemsize))))


def strips(
    labels: Volume,
    timepoint: int | None,
    rows: int,
    drawn: Callable[[NDArray[Any]], NDArray[Any]],
) -> Iterator[bytes]:
    """Compress the strips of a TIFF, with a few planes, or rows of a large plane, in memory.

    Parameters
    ----------
    labels
        Without a channel axis.
    timepoint
        The timepoint; None if there is only one.
    rows
        Number of rows of a strip; fewer at the end of a plane.
    drawn
        Returns the voxels of the file, in its dtype, for labels of a `Slab`.

    Yields
    ------
    In the order of z, then y, as `tifffile` takes them with ``compression="zlib"``.
    """
    for slab in slabs(labels, timepoint, rows):
        kept = drawn(slab.labels)[slab.kept]
        for plane in kept.reshape(-1, *kept.shape[-2:]):
            for start in range(0, len(plane), rows):
                yield zlib.compress(plane[start : start + rows].tobytes(), _LEVEL)


@dataclass(frozen=True, slots=True)
class Slab:
    """Labels of a few planes, or of a few rows of one plane and the row on either side."""

    labels: NDArray[Any]
    kept: tuple[slice, ...]
    """The part that is not of the neighbouring rows."""
    start: tuple[int, ...]
    """Position of `labels` in the volume."""


def slabs(volume: Volume, timepoint: int | None, rows: int) -> Iterator[Slab]:
    """Read labels plane by plane, as many planes or rows at a time as memory allows.

    Parameters
    ----------
    volume
        Labels, without a channel axis.
    timepoint
        The timepoint; None if there is only one.
    rows
        If a plane is too large, multiples of this number of rows are read.

    Yields
    ------
    In the order of z, then y.
    """
    shape, itemsize = volume.spatial_shape, volume.dtype.itemsize
    plane = shape[-2] * shape[-1] * itemsize
    if plane <= _SLAB_BYTES:
        deep = (volume.chunks or (1,) * volume.ndim)[0] if volume.ndim == 3 else 1
        steps = (min(deep, _SLAB_BYTES // plane),)[: volume.ndim - 2]
        for box in Box.whole(shape).split((*(max(1, s) for s in steps), *shape[-2:])):
            yield Slab(read_labels(volume, timepoint, box), (slice(None),) * volume.ndim, box.start)
        return
    high = max(rows, _SLAB_BYTES // (shape[-1] * itemsize) // rows * rows)
    for box in Box.whole(shape).split((*(1,) * (volume.ndim - 2), high, shape[-1])):
        wide = box.grow((*(0,) * (volume.ndim - 2), 1, 0)).clip(shape)
        yield Slab(read_labels(volume, timepoint, wide), box.slices_in(wide), wide.start)


def outlined(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the voxels of instances that touch something else in their plane, by a side.

    Parameters
    ----------
    labels
        Integers (..., y, x). They are extended by their border values: the border is not an
        outline.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in (-1, -2):
        moved = np.moveaxis(labels, axis, 0)
        differ = moved[1:] != moved[:-1]
        along = np.moveaxis(edge, axis, 0)
        along[1:] |= differ
        along[:-1] |= differ
    found: NDArray[np.bool_] = edge & (labels != 0)
    return found


def only(labels: NDArray[Any], keep: NDArray[np.uint64]) -> NDArray[Any]:
    """Set all labels but some to 0."""
    return np.where(np.isin(labels, keep.astype(labels.dtype)), labels, labels.dtype.type(0))


def dtype_for(largest: int, where: str) -> np.dtype[Any]:
    """The type that labels need in a TIFF.

    Raises
    ------
    UsageError
        If they need 64 bits, which no program in the field reads from a TIFF.
    """
    for name in (np.uint16, np.uint32):
        if largest <= np.iinfo(name).max:
            return np.dtype(name)
    raise UsageError(
        f"{where}: the label {largest:,} needs 64 bits, which other programs do not read from a "
        "TIFF; export some of the instances with --instances, or give them smaller labels first"
    )


def largest_label(labels: Volume, timepoints: Iterable[int | None]) -> int:
    """Read all labels, and find the largest."""
    boxes = (slab for t in timepoints for slab in slabs(labels, t, 1))
    return max((int(slab.labels.max()) for slab in boxes), default=0)


def _sizes(labels: Volume) -> dict[str, Any]:
    """Voxel size for the OME-XML."""
    sizes: dict[str, Any] = {}
    for axis, size in zip(labels.spatial_axes.upper(), labels.voxel_size or (), strict=False):
        sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    return sizes


def _resolution(labels: Volume) -> dict[str, Any]:
    """Resolution tags of a TIFF: pixels per centimetre along x and y."""
    size: Sequence[float] | None = labels.voxel_size
    if size is None:
        return {}
    return {"resolution": (1e4 / size[-1], 1e4 / size[-2]), "resolutionunit": "CENTIMETER"}


def timepoints_of(labels: Volume, asked: int | Sequence[int] | None) -> tuple[int | None, ...]:
    """Return the timepoints to write, in order; just None if the volume has no time axis.

    Raises
    ------
    UsageError
        If one does not exist.
    """
    chosen = chosen_timepoints(labels, asked)
    return chosen if "t" in labels.axes else (None,)


def planes(volume: Volume, timepoint: int | None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read labels plane by plane, as many at a time as memory allows; at least one, of any size.

    Yields
    ------
    z, and the labels (y, x).
    """
    height, width = volume.spatial_shape[-2:]
    for slab in slabs(volume, timepoint, height):
        first = slab.start[0] if volume.ndim == 3 else 0
        yield from enumerate(slab.labels.reshape(-1, height, width), first)
