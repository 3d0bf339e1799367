"""Many TIFFs as one image: one file per slice, channel or timepoint.

::

    files stand for        a file holds        the image
    z                      y, x                z, y, x
    t, c                   z, y, x             t, c, z, y, x

A file is opened when its voxels are read, and at most one stays open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from embedseg_large.conversion.file_names import (
    FileGrid,
    files_in_order,
    files_of_pattern,
    split_pattern,
    tiffs_in,
)
from embedseg_large.conversion.options import SourceOptions
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.volumes.axes import OTHER, check_axes, parse_axes
from embedseg_large.volumes.folders import is_folder_of_images, is_path
from embedseg_large.volumes.formats.tiff import TiffArray, open_tiff, tiff_content
from embedseg_large.volumes.header import Header, Level
from embedseg_large.volumes.opening import Opening
from embedseg_large.volumes.stored_array import Index, StoredArray
from embedseg_large.volumes.volume import Volume, make_volume, open_volume

_THREADS = 8
"""Number of files that are examined together: on a network drive most of the time is waiting."""


def open_source(source: Any, asked: SourceOptions) -> Volume:
    """Open all channels and timepoints of an image, or of a folder of files that form one.

    Parameters
    ----------
    source
        Anything that `open_volume` reads; a folder of TIFFs; or a path with fields, such as
        ``scan/plane_{z:04d}.tif``.
    asked
        Information missing from its files.

    Raises
    ------
    UsageError
        If it is not stated how to stack the files of a folder, or the files do not match that.
    VolumeError
        If a file cannot be read, or differs from the first.
    """
    grid = _grid(source, asked.pattern, asked.stack)
    if grid is not None:
        return open_stack(grid, asked)
    return open_volume(
        source,
        channel=None,
        axes=asked.axes,
        voxel_size=asked.voxel_size,
        allow_missing=asked.allow_missing,
        series=asked.series,
    )


def _grid(source: Any, pattern: str | None, stack: str | None) -> FileGrid | None:
    """Find the files of a source; None if it is one image."""
    if pattern is not None and stack is not None:
        raise UsageError("pattern and stack exclude each other; pass one of them")
    place = str(source) if is_path(source) else None
    fields = None if place is None or Path(place).exists() else split_pattern(place)
    if place is None or fields is not None or not is_folder_of_images(place):
        if pattern is not None or stack is not None:
            what = "an array" if place is None else place
            raise UsageError(f"pattern and stack apply to a folder of files, not to {what}")
        return None if fields is None else files_of_pattern(*fields)
    if pattern is not None:
        return files_of_pattern(place, pattern)
    if stack is not None:
        return files_in_order(place, stack)
    names = sorted(tiffs_in(Path(place)))
    if names:
        raise UsageError(
            f"{place}: a folder of {len(names):,} TIFFs; pass the axis along which they are "
            "stacked, as --stack z, or the meaning of their names, as --pattern "
            f"'t{{t}}_z{{z}}.tif' for {names[0]}"
        )
    return None


def open_stack(grid: FileGrid, asked: SourceOptions) -> Volume:
    """Open files as one image, after examining each.

    Raises
    ------
    UsageError
        If files are stacked along an axis that each of them has, if there is no image of that index
        in one of them, or if what is missing is to be read as zeros.
    VolumeError
        If a file is not a TIFF, or its shape or type differs from the first.
    """
    if asked.allow_missing:
        raise UsageError(
            f"{grid.folder}: missing files of a folder are not read as zeros; leave out "
            "--allow-missing, and add the files that are missing"
        )
    first = grid.path(0)
    header, member = open_tiff(first, 0, series=asked.series)
    found = header.axes if asked.axes is None else parse_axes(asked.axes, member.shape)
    letters = _without(check_axes(found or "", member.shape, first), member.shape, grid, first)
    _check_alike(grid.paths, (member.shape, member.dtype), header.image)
    storage = _stacked(grid, member, header.image)
    return make_volume(
        _header(header, letters, grid, storage.shape),
        storage,
        grid.folder,
        Opening(channel=None, voxel_size=asked.voxel_size),
    )


def _without(letters: str, shape: Sequence[int], grid: FileGrid, file: str) -> str:
    """Drop axes of length 1 of a file; refuse those along which files are stacked."""
    for letter, n in zip(letters, shape, strict=True):
        if letter in grid.axes and n > 1:
            raise UsageError(
                f"{file}: already has {n} along {letter}, so files cannot be stacked along "
                f"{letter}; choose another axis, or convert this file alone"
            )
    pairs = zip(letters, shape, strict=True)
    return "".join(OTHER if a not in "yx" and n == 1 else a for a, n in pairs)


def _check_alike(
    paths: Sequence[str], first: tuple[tuple[int, ...], np.dtype[Any]], image: int
) -> None:
    look = partial(tiff_content, image=image)
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, content in zip(paths, pool.map(look, paths), strict=True):
            if content != first:
                raise VolumeError(
                    f"{path}: has shape {content[0]} and type {content[1]}, the first file "
                    f"{Path(paths[0]).name} has {first[0]} and {first[1]}; they do not form one "
                    "image"
                )


def _header(header: Header, letters: str, grid: FileGrid, shape: tuple[int, ...]) -> Header:
    ones = (1.0,) * len(grid.axes)
    scale = header.levels[0].scale
    level = Level(path="", shape=shape, scale=None if scale is None else ones + scale)
    units = (None,) * len(grid.axes) + header.units
    return Header(axes=grid.axes + letters, units=units, levels=(level,), image=header.image)


class StackArray:
    """Files of one shape, indexed like an array.

    Parameters
    ----------
    grid
        The files.
    shape, dtype
        Shape and dtype of one file.
    image
        Index of the image in each file.
    """

    def __init__(
        self, grid: FileGrid, shape: tuple[int, ...], dtype: np.dtype[Any], image: int
    ) -> None:
        self._image = image
        self._paths = grid.paths
        self._counts = grid.counts
        self._last: tuple[str, TiffArray] | None = None
        self.shape = (*grid.counts, *shape)
        self.dtype = dtype

    def __getitem__(self, index: Index) -> NDArray[Any]:
        lead, rest = index[: len(self._counts)], index[len(self._counts) :]
        shape = _shape_of(index, self.shape)
        values = np.empty(shape, self.dtype)
        # one more leading axis, for files without a slice in the index
        rows = values.reshape(-1, *_shape_of(rest, self.shape[len(self._counts) :]))
        for row, number in zip(rows, numbers_of(lead, self._counts), strict=True):
            row[...] = self._file(self._paths[number])[rest]
        return values

    def _file(self, path: str) -> TiffArray:
        last = self._last  # read once: threads share this object
        if last is None or last[0] != path:
            last = self._last = (path, TiffArray(path, 0, self._image))
        return last[1]


def numbers_of(index: Index, counts: Sequence[int]) -> Iterator[int]:
    """Numbers of the files that an index of the leading axes selects, in raster order."""
    for at in product(*(_range(i, n) for i, n in zip(index, counts, strict=True))):
        yield int(np.ravel_multi_index(at, tuple(counts)))


def _range(at: int | slice, n: int) -> range:
    return range(n)[at] if isinstance(at, slice) else range(n)[at : at + 1]


def _shape_of(index: Index, shape: Sequence[int]) -> tuple[int, ...]:
    pairs = zip(index, shape, strict=True)
    return tuple(len(_range(at, n)) for at, n in pairs if isinstance(at, slice))


@dataclass(frozen=True, kw_only=True, eq=False)
class StackedFiles(StoredArray):
    """The array of a stack; messages and stamps refer to its files."""

    grid: FileGrid

    def stamp(self, index: Index) -> int:
        """Return a number that changes when a file of a region does; see `StoredArray.stamp`."""
        n, seen = len(self.grid.counts), 0
        for number in numbers_of(index[:n], self.grid.counts):
            about = Path(self.grid.path(number)).stat()
            name = self.grid.names[number]
            seen = crc32(f"{name} {about.st_size} {about.st_mtime_ns}".encode(), seen)
        return seen

    def _name(self, cell: tuple[int, ...]) -> str:
        n = len(self.grid.counts)
        number = int(np.ravel_multi_index(cell[:n], self.grid.counts))
        corner = tuple(i * size for i, size in zip(cell[n:], self.files[n:], strict=True))
        return f"{self.grid.path(number)}, from voxel {corner}"


def _stacked(grid: FileGrid, member: StoredArray, image: int) -> StackedFiles:
    ones = (1,) * len(grid.counts)
    return StackedFiles(
        opener=partial(StackArray, grid, member.shape, member.dtype, image),
        location=grid.folder,
        shape=(*grid.counts, *member.shape),
        dtype=member.dtype,
        chunks=ones + (member.chunks or member.shape),
        grid=grid,
    )
