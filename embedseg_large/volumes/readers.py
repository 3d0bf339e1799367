"""Which reader opens a source: by its path, its suffix, or its type."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, TypeVar

from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError, foreign
from embedseg_large.storage.connection import is_remote
from embedseg_large.volumes.header import Header, array_header, pick_image, pick_level
from embedseg_large.volumes.opening import Opening
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

T = TypeVar("T")


def read_header(source: Any, path: str | None, opening: Opening) -> tuple[Header, StoredArray]:
    """Read the metadata of a source and describe the array of one level.

    Parameters
    ----------
    source
        The array, if there is no path.
    path
        Absolute path or URL.
    opening
        Which level, and information missing from its file.

    Raises
    ------
    VolumeNotFoundError, MetadataError, VolumeError, UsageError
        As for `embedseg_large.volumes.volume.open_volume`.
    """
    if path is None:
        pick_image([1], opening.series, "the array")
        return _open_array(source, opening.level)
    if not is_remote(path) and _is_file(path):
        return _open_file(path, opening)
    from embedseg_large.volumes.formats import ome_zarr

    pick_image([1], opening.series, path)
    return ome_zarr.open_image(path, opening.level)


def _is_file(path: str) -> bool:
    """Whether a local path is a file, rather than a folder.

    Raises
    ------
    VolumeNotFoundError
        If it is neither.
    VolumeError
        If it is a device or the like, or is not accessible.
    """
    with foreign(path, "cannot be opened", todo="check the path"):
        mode = _mode(path)
    if mode is None:
        raise VolumeNotFoundError(f"{path}: there is no such file or folder{_above(path)}")
    if not S_ISREG(mode) and not S_ISDIR(mode):
        raise VolumeError(f"{path}: neither a file nor a folder; pass an image")
    return S_ISREG(mode)


def _above(path: str) -> str:
    """Describe the nearest zarr group that would contain a path; empty if there is none."""
    for parent in Path(path).parents:
        if parent.is_dir():
            if not any((parent / name).exists() for name in (".zgroup", "zarr.json")):
                return ""
            from embedseg_large.volumes.formats import ome_zarr

            return ome_zarr.described_group(str(parent), path)
    return ""


def _mode(path: str) -> int | None:
    try:
        return Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_file(path: str, opening: Opening) -> tuple[Header, StoredArray]:
    """Open a TIFF, a PNG, or a file of another format with bioio."""
    from embedseg_large.volumes.formats import bioio, png, tiff

    level = opening.level
    if png.is_png(path):
        pick_image([1], opening.series, path)
        return png.open_png(path, level)
    if bioio.is_foreign(path):
        return bioio.open_foreign(path, level, opening.series)
    return tiff.open_tiff(path, level, opening.allow_missing, opening.series, opening.axes)


def _open_array(array: Any, level: int) -> tuple[Header, StoredArray]:
    if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
        raise UsageError(f"cannot open a {type(array).__name__}: pass a path, URL or array")
    storage = wrap_array(array, partial(_itself, array), "the array")
    header = array_header(storage.shape, getattr(array, "metadata", None))
    pick_level(header.levels, level, "the array")
    return header, storage


def _itself(array: T) -> T:
    return array
