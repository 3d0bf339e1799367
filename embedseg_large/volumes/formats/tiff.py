"""Reading TIFF, OME-TIFF and ImageJ TIFF lazily, page by page or tile by tile."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf, prod
from os.path import normpath
from pathlib import Path
from threading import get_ident
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, VolumeError, foreign, printable
from embedseg_large.volumes.axes import OTHER, SPATIAL, letter
from embedseg_large.volumes.header import Header, Level, pick_image, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

logger = logging.getLogger(__name__)

Steps = dict[str, tuple[float, str | None]]
"""Distance between voxels and its unit, for the axes where both are stored."""


_MISSING = ("failed to read", "corrupt", "invalid page", "EOF", "truncated")
"""Words in tifffile's warnings about missing data."""
_UNLISTED = "planes that its metadata list are missing"
_ENDED = ("invalid page", "ImageJ series")
"""Words in those about pages after the end of the file."""
_FALLBACKS = ("uniform", "generic")
"""Kinds of series that tifffile makes of bare pages if the metadata do not fit them."""
_SECONDS = {"s": "second", "sec": "second", "ms": "millisecond", "min": "minute", "h": "hour"}
"""Names of time units in NGFF."""
_NAME = re.compile(r"^<tifffile[^>]*> ")


class TiffArray:
    """One level of an image in a TIFF, indexed like a zarr array.

    Parameters
    ----------
    path
        The file. It stays open while the object exists.
    level
        Index of the pyramid level.
    number
        Index of the image among those of the file.
    """

    def __init__(self, path: str, level: int, number: int = 0) -> None:
        import tifffile
        import zarr

        self._file = tifffile.TiffFile(path)
        series = self._file.series[number]
        # Strips are often a few lines high, so reading whole pages is faster.
        mode = 0 if series.levels[level].keyframe.is_tiled else 2
        self._array = zarr.open_array(series.aszarr(level=level, chunkmode=mode), mode="r")
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks
        self.dtype: np.dtype[Any] = self._array.dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self._array[index])

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # unless opening it failed
            self._file.close()


def open_tiff(
    path: str,
    level: int,
    allow_missing: bool = False,
    series: int | None = None,
    axes: str | None = None,
) -> tuple[Header, StoredArray]:
    """Open one level of an image in a TIFF.

    Parameters
    ----------
    path
        Absolute path of the file.
    level
        Index of the pyramid level.
    allow_missing
        Whether missing planes and files are read as zeros.
    series
        Index of the image in the file; None: the largest.
    axes
        Letters of its axes, if the file does not state them or is wrong; sizes follow the letters.

    Raises
    ------
    VolumeNotFoundError
        If there is no such level.
    MetadataError
        If the pages of the TIFF do not form an image.
    VolumeError
        If the file is not a TIFF, cannot be opened, or is incomplete.
    """
    with _complained() as complaints, _opened(path) as file:
        number = _chosen(file, path, series)
        header = _header(file, number, axes)
        _check_whole(file, number, path, complaints, allow_missing)
        members = _members(file, number)
    pick_level(header.levels, level, path)
    opener = partial(TiffArray, path, level, number)
    with foreign(path, f"level {level} of this TIFF cannot be read"):
        return header, replace(wrap_array(opener(), opener, path), members=members)


def tiff_content(path: str, image: int | None = None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an image in a TIFF.

    Parameters
    ----------
    path
        Absolute path of the file.
    image
        Index of the image in the file; None: the largest.

    Raises
    ------
    UsageError, MetadataError, VolumeError
        As for `open_tiff`; a `UsageError` if there is no image of that index.
    """
    with _complained() as complaints, _opened(path) as file:
        number = _chosen(file, path, image)
        _check_whole(file, number, path, complaints, False)
        series = file.series[number]
        return tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")


class _Complaints(logging.Handler):
    """Collects messages of tifffile in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []
        self._thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep messages about missing data, in one line and without tifffile's prefix."""
        text = " ".join(record.getMessage().split())
        if record.thread == self._thread and any(word in text for word in _MISSING):
            self.found.append(_NAME.sub("", text).partition(", raised")[0])


@contextmanager
def _complained() -> Iterator[list[str]]:
    """Collect what tifffile reports missing while the body opens a file: it only logs that."""
    handler, log = _Complaints(), logging.getLogger("tifffile")
    log.addHandler(handler)
    try:
        yield handler.found
    finally:
        log.removeHandler(handler)


def _chosen(file: Any, path: str, asked: int | None) -> int:
    """Find an image of a file; by default the largest.

    Raises
    ------
    MetadataError
        If there is none.
    UsageError
        If there is no image with that index.
    """
    if not file.series:
        raise MetadataError(f"{path}: the TIFF holds no image")
    return pick_image([prod(one.shape) for one in file.series], asked, path)


def _check_whole(
    file: Any, number: int, path: str, complaints: list[str], allow_missing: bool
) -> None:
    """Refuse a file that was cut off, and one that lacks planes unless these may be zeros.

    Raises
    ------
    VolumeError
        If voxels are missing.
    """
    _check_members(file, number, path)
    series = file.series[number]
    pages = _pages(series)
    cut = next(_cut_off(file, series, pages, complaints), None)
    if cut is not None:  # tifffile reads only planes that are missing as a whole as zeros
        raise VolumeError(f"{path}: incomplete: {cut}; restore the file")
    missing = [*complaints, *_absent(pages)]
    if missing and allow_missing:
        logger.warning("%s: incomplete, missing data are read as zeros: %s", path, missing[0])
    elif missing:
        raise VolumeError(
            f"{path}: incomplete: {missing[0]}; restore what is missing, or read it as zeros with "
            "--allow-missing"
        )


def _pages(series: Any) -> list[Any] | None:
    """List the pages of an image, None for a missing one; None if the file ends before them."""
    try:
        return list(series.pages)
    except IndexError:
        return None


def _cut_off(
    file: Any, series: Any, pages: list[Any] | None, complaints: list[str]
) -> Iterator[str]:
    """Describe the parts of an image that lie beyond the end of the file."""
    size = file.filehandle.size
    ended = [c for c in complaints if any(word in c for word in _ENDED)]
    if ended and series.kind in _FALLBACKS:
        yield f"planes after its end are missing ({ended[0]})"
    elif series.dataoffset is not None:  # in one piece, which is read without the pages
        if series.dataoffset + series.nbytes > size:
            yield f"{series.dataoffset + series.nbytes - size:,} bytes are missing at its end"
    elif pages is None:
        yield _UNLISTED
    else:
        last = next((page for page in reversed(pages) if page is not None), None)
        if last is None or getattr(last, "parent", file) is not file:
            return
        ends = [a + n for a, n in zip(last.dataoffsets, last.databytecounts, strict=False)]
        if ends and max(ends) > size:
            yield f"{max(ends) - size:,} bytes are missing at its end"


def _absent(pages: list[Any] | None) -> Iterator[str]:
    """Describe the planes without a page."""
    if pages is None:
        yield _UNLISTED
        return
    absent = sum(page is None for page in pages)
    if absent:
        yield f"{absent:,} of {len(pages):,} planes are missing"


def _members(file: Any, number: int) -> tuple[str, ...]:
    """Paths of the other files of an image's file set."""
    if not file.is_ome:  # other TIFFs do not refer to files
        return ()
    own = file.filehandle.path
    parents = (getattr(page, "parent", None) for page in file.series[number].pages)
    return tuple(sorted({p.filehandle.path for p in parents if p is not None} - {own}))


def _check_members(file: Any, number: int, path: str) -> None:
    """Refuse metadata that read files of other folders: they are untrusted.

    Raises
    ------
    MetadataError
        If a file is not in the folder of the TIFF, or below it.
    """
    folder = Path(path).parent
    for member in _members(file, number):
        if not Path(normpath(member)).is_relative_to(folder):
            raise MetadataError(
                f"{path}: its metadata name a file outside of its folder ({normpath(member)}); "
                "move the files of the set into one folder, and correct their names in the metadata"
            )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a TIFF; failures are reported in one line."""
    import tifffile

    with foreign(path, "this TIFF cannot be read"):
        try:
            with tifffile.TiffFile(path) as file:
                _check_pages(file, path)
                yield file
        except tifffile.TiffFileError as error:
            raise VolumeError(f"{path}: neither a zarr store nor a TIFF ({error})") from error
        except OSError as error:
            raise VolumeError(f"{path}: cannot be opened ({error})") from error


def _check_pages(file: Any, path: str) -> None:
    """Refuse pages that refer to each other in a circle, which tifffile would follow without end.

    Each page states the offset of the next one; 0 ends the list.
    """
    offset, seen = file.pages.first.offset, set[int]()
    while 0 < offset < file.filehandle.size:
        if offset in seen:
            raise MetadataError(
                f"{path}: the {len(seen):,} pages of this TIFF refer to each other in a circle; "
                "restore the file"
            )
        seen.add(offset)
        offset = _next_page(file, offset)


def _next_page(file: Any, offset: int) -> int:
    """Offset of the page after the one at an offset; 0 if there is none, or it cannot be read."""
    kind, handle = file.tiff, file.filehandle
    try:
        handle.seek(offset)
        (tags,) = struct.unpack(kind.tagnoformat, handle.read(kind.tagnosize))
        handle.seek(offset + kind.tagnosize + tags * kind.tagsize)
        return int(struct.unpack(kind.offsetformat, handle.read(kind.offsetsize))[0])
    except (struct.error, OSError):
        return 0


def _header(file: Any, number: int, asked: str | None) -> Header:
    series = file.series[number]
    axes = "".join(_letter(code, series.axes) for code in series.axes)
    said = "" if asked is None else asked.replace(",", "").lower()
    axes = said if len(said) == len(axes) else axes
    pixels = _pixels(file, number)
    steps = _tag_steps(file, series.keyframe) if pixels is None else _ome_steps(pixels)
    return Header(
        axes=axes,
        units=tuple(steps.get(a, (1.0, None))[1] for a in axes),
        levels=tuple(
            _level(i, level.shape, series.shape, axes, steps)
            for i, level in enumerate(series.levels)
        ),
        channels=() if pixels is None else _channel_names(pixels),
        images=tuple(_described(one) for one in file.series),
        image=number,
    )


def _described(series: Any) -> str:
    return f"{series.axes} {' x '.join(map(str, series.shape))} {series.dtype}"


def _pixels(file: Any, number: int) -> ElementTree.Element | None:
    """Find the entry of an image in OME-XML; None if there is none."""
    if not file.is_ome:
        return None
    try:
        images = ElementTree.fromstring(file.ome_metadata).findall(".//{*}Pixels")
    except (ElementTree.ParseError, TypeError, ValueError):
        images = []
    return images[number] if number < len(images) else ElementTree.Element("Pixels")


def _channel_names(pixels: ElementTree.Element) -> tuple[str, ...]:
    """List the names of channels; empty unless each has one."""
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    return tuple(n for n in names if n) if all(names) else ()


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


def _ome_steps(pixels: ElementTree.Element) -> Steps:
    """Physical sizes of OME-XML, whose default units are the micrometre and the second."""
    found = pixels.attrib
    sizes = {a: _size(found.get(f"PhysicalSize{a.upper()}")) for a in SPATIAL}
    steps = _frame_steps(found.get("TimeIncrement"), found.get("TimeIncrementUnit", "s"))
    return steps | {
        a: (size, found.get(f"PhysicalSize{a.upper()}Unit", "µm"))
        for a, size in sizes.items()
        if size is not None
    }


def _frame_steps(stored: Any, unit: str) -> Steps:
    """Time between timepoints; None if it is 0 or not a number."""
    try:
        interval = float(stored)
    except (TypeError, ValueError):
        return {}
    return {"t": (interval, _SECONDS.get(unit, unit))} if 0 < interval < inf else {}


def _size(stored: Any) -> float | None:
    """Read a distance between voxels; invalid ones (0, "0,5", "abc") count as missing."""
    try:
        size = abs(float(stored))  # ImageJ: negative if upside down
    except (TypeError, ValueError):
        size = 0.0
    if 0 < size < inf:
        return size
    if stored is not None:
        logger.warning(
            "ignoring the stored voxel size %s; pass --voxel-size", printable(str(stored))
        )
    return None


def _tag_steps(file: Any, page: Any) -> Steps:
    """Sizes that ImageJ and tifffile write: resolution tags, and ``spacing`` and ``unit``."""
    metadata: dict[str, Any] = file.imagej_metadata or next(iter(file.shaped_metadata or ()), {})
    steps = _frame_steps(metadata.get("finterval"), str(metadata.get("tunit", "s")))
    if "unit" not in metadata:  # a print resolution is unrelated to the specimen
        return steps
    unit = str(metadata["unit"]).replace("\\u00B5", "µ")  # ImageJ escapes it
    for a, tag in (("y", "YResolution"), ("x", "XResolution")):
        pixels, units = _ratio(page.tags[tag].value) if tag in page.tags else (0, 1)
        if pixels > 0 and units > 0:
            steps[a] = (units / pixels, unit)
    size = _size(metadata.get("spacing"))
    return steps if size is None else steps | {"z": (size, unit)}


def _ratio(stored: Any) -> tuple[float, float]:
    """Read a resolution, which may be anything in a damaged tag."""
    try:
        pixels, units = stored
        return float(pixels), float(units)
    except (TypeError, ValueError):
        return 0, 1
