"""Reading TIFF, OME-TIFF and ImageJ TIFF lazily, page by page or tile by tile."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, VolumeError, foreign, printable
from embedseg_large.volumes.axes import OTHER, SPATIAL, letter
from embedseg_large.volumes.header import Header, Level, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

logger = logging.getLogger(__name__)

Steps = dict[str, tuple[float, str | None]]
"""Distance between voxels and its unit, for the axes where both are stored."""


class TiffArray:
    """One level of the first series of a TIFF, indexed like a zarr array.

    Parameters
    ----------
    path
        The file. It stays open as long as the object lives.
    level
        Index of the pyramid level.
    """

    def __init__(self, path: str, level: int) -> None:
        import tifffile
        import zarr

        self._file = tifffile.TiffFile(path)
        series = self._file.series[0]
        # Strips are often a few lines high, so that whole pages are read faster.
        mode = 0 if series.levels[level].keyframe.is_tiled else 2
        self._array = zarr.open_array(series.aszarr(level=level, chunkmode=mode), mode="r")
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks
        self.dtype: np.dtype[Any] = self._array.dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self._array[index])

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # not if opening it failed
            self._file.close()


def open_tiff(path: str, level: int) -> tuple[Header, StoredArray]:
    """Open one level of the first series of a TIFF.

    Parameters
    ----------
    path
        Absolute path of the file.
    level
        Index of the pyramid level.

    Raises
    ------
    VolumeNotFoundError
        If there is no such level.
    MetadataError
        If the TIFF's pages do not make an image.
    VolumeError
        If the file is no TIFF, or cannot be opened.
    """
    with _opened(path) as file:
        header = _header(file, path)
    pick_level(header.levels, level, path)
    opener = partial(TiffArray, path, level)
    with foreign(path, f"level {level} of this TIFF cannot be read"):
        return header, wrap_array(opener(), opener, path)


def tiff_content(path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the first series of a TIFF.

    Parameters
    ----------
    path
        Absolute path of the file.

    Raises
    ------
    MetadataError, VolumeError
        As `open_tiff`.
    """
    with _opened(path) as file:
        if not file.series:
            raise MetadataError(f"{path}: the TIFF holds no image")
        series = file.series[0]
        return tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a TIFF; failures are told in one line."""
    import tifffile

    with foreign(path, "this TIFF cannot be read"):
        try:
            with tifffile.TiffFile(path) as file:
                yield file
        except tifffile.TiffFileError as error:
            raise VolumeError(f"{path}: neither a zarr store nor a TIFF ({error})") from error
        except OSError as error:
            raise VolumeError(f"{path}: cannot be opened ({error})") from error


def _header(file: Any, path: str) -> Header:
    if not file.series:
        raise MetadataError(f"{path}: the TIFF holds no image")
    series = file.series[0]
    axes = "".join(_letter(code, series.axes) for code in series.axes)
    steps = _ome_steps(file.ome_metadata) if file.is_ome else _tag_steps(file, series.keyframe)
    return Header(
        axes=axes,
        units=tuple(steps.get(a, (1.0, None))[1] for a in axes),
        levels=tuple(
            _level(i, level.shape, series.shape, axes, steps)
            for i, level in enumerate(series.levels)
        ),
    )


def _letter(code: str, codes: str) -> str:
    """Translate a tifffile axis; samples (red, green, blue) are channels if nothing else is."""
    if code == "S":
        return OTHER if "C" in codes else "c"
    return letter(code)


def _level(
    index: int, shape: tuple[int, ...], finest: tuple[int, ...], axes: str, steps: Steps
) -> Level:
    """Describe a pyramid level, whose voxels are larger by the ratio of the shapes."""
    scale = tuple(
        steps.get(a, (1.0, None))[0] * (n0 / n if a in SPATIAL else 1)
        for a, n, n0 in zip(axes, shape, finest, strict=True)
    )
    return Level(path=str(index), shape=tuple(shape), scale=scale if steps else None)


def _ome_steps(xml: str) -> Steps:
    """Physical sizes of OME-XML, whose default unit is the micrometre."""
    try:
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    except (ElementTree.ParseError, TypeError, ValueError):
        return {}
    found = {} if pixels is None else pixels.attrib
    sizes = {a: _size(found.get(f"PhysicalSize{a.upper()}")) for a in SPATIAL}
    return {
        a: (size, found.get(f"PhysicalSize{a.upper()}Unit", "µm"))
        for a, size in sizes.items()
        if size is not None
    }


def _size(stored: Any) -> float | None:
    """Read a distance between voxels; one that is none (0, "0,5", "abc") is as good as missing."""
    try:
        size = abs(float(stored))  # ImageJ: negative if upside down
    except (TypeError, ValueError):
        size = 0.0
    if 0 < size < inf:
        return size
    if stored is not None:
        logger.warning(
            "a voxel size of %s is stored: ignored; give --voxel-size", printable(str(stored))
        )
    return None


def _tag_steps(file: Any, page: Any) -> Steps:
    """Sizes that ImageJ and tifffile write: resolution tags, and ``spacing`` and ``unit``."""
    metadata: dict[str, Any] = file.imagej_metadata or next(iter(file.shaped_metadata or ()), {})
    if "unit" not in metadata:  # a resolution for printing says nothing about the specimen
        return {}
    unit = str(metadata["unit"]).replace("\\u00B5", "µ")  # ImageJ escapes it
    steps: Steps = {}
    for a, tag in (("y", "YResolution"), ("x", "XResolution")):
        pixels, units = _ratio(page.tags[tag].value) if tag in page.tags else (0, 1)
        if pixels > 0 and units > 0:
            steps[a] = (units / pixels, unit)
    size = _size(metadata.get("spacing"))
    return steps if size is None else steps | {"z": (size, unit)}


def _ratio(stored: Any) -> tuple[float, float]:
    """Read a resolution, which a damaged tag may hold as anything."""
    try:
        pixels, units = stored
        return float(pixels), float(units)
    except (TypeError, ValueError):
        return 0, 1
