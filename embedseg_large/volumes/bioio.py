"""Microscopes' own formats (.czi, .lif, .nd2, ...), read lazily through `bioio` and its readers.

Every image is t, c, z, y, x there, with sizes in µm. The extra ``bioio`` installs it; each format
needs a package of readers besides.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from embedseg_large.errors import VolumeError, foreign
from embedseg_large.volumes.axes import CANONICAL, OTHER, SPATIAL
from embedseg_large.volumes.header import Header, Level, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

READERS = {
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".nd2": "bioio-nd2",
    ".dv": "bioio-dv",
    ".r3d": "bioio-dv",
    ".sldy": "bioio-sldy",
}
"""Packages that read a format; Bio-Formats reads most others."""

_TIFF = (".tif", ".tiff", ".btf", ".lsm", ".stk")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big TIFF, of either byte order


def is_foreign(path: str) -> bool:
    """Whether a file neither is called nor begins like a TIFF."""
    if Path(path).suffix.lower() in ("", *_TIFF):
        return False
    with Path(path).open("rb") as file:
        return file.read(4) not in _MAGIC


def open_foreign(path: str, level: int) -> tuple[Header, StoredArray]:
    """Open the first scene of a file.

    Parameters
    ----------
    path
        Absolute path of the file.
    level
        0, since levels that a file may have are not read.

    Raises
    ------
    VolumeNotFoundError
        If another level is asked for.
    VolumeError
        If `bioio` or the reader of this format is not installed, or cannot read the file.
    """
    image = _image(path)
    with foreign(path, "bioio cannot read it"):
        header = _header(image)
        pick_level(header.levels, level, path)
        return header, wrap_array(image.dask_data, partial(_voxels, path), path)


def _voxels(path: str) -> Any:
    return _image(path).dask_data


def _image(path: str) -> Any:
    suffix = Path(path).suffix
    command = f'pip install "embedseg-large[bioio]" {READERS.get(suffix, "bioio-bioformats")}'
    try:
        bioio = import_module("bioio")
    except ImportError as error:
        raise VolumeError(
            f"{path}: neither a zarr store nor a TIFF; to read {suffix} files, {command}"
        ) from error
    try:
        return bioio.BioImage(path)
    except Exception as error:  # readers raise what they like
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise VolumeError(
            f"{path}: neither a zarr store nor a TIFF, and bioio cannot read it ({told}); if its "
            f"reader is missing, {command}"
        ) from error


def _header(image: Any) -> Header:
    """Axes and sizes; an image of one plane has no z axis."""
    shape = tuple(int(n) for n in image.dask_data.shape)
    sizes = dict(zip(SPATIAL, image.physical_pixel_sizes, strict=True))
    axes = "".join(
        OTHER if a == "z" and n == 1 else a for a, n in zip(CANONICAL, shape, strict=True)
    )
    scale = tuple(float(sizes.get(a) or 1.0) for a in axes)
    units = tuple("micrometer" if sizes.get(a) else None for a in axes)
    return Header(axes=axes, units=units, levels=(Level(path="", shape=shape, scale=scale),))
