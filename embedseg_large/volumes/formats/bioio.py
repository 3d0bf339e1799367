"""Microscopes' own formats (.czi, .lif, .nd2, ...), read lazily through `bioio` and its readers.

Its images are t, c, z, y, x, with sizes in µm. The extra ``bioio`` installs it; each format also
needs a reader package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from embedseg_large.errors import VolumeError, foreign
from embedseg_large.extras import install
from embedseg_large.volumes.axes import CANONICAL, OTHER, SPATIAL
from embedseg_large.volumes.header import Header, Level, pick_image, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

READERS = {
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".nd2": "bioio-nd2",
    ".dv": "bioio-dv",
    ".r3d": "bioio-dv",
    ".sldy": "bioio-sldy",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp"), "bioio-imageio"),
}
"""Packages that read a format; Bio-Formats reads most others."""

_HINTS = {
    ".zip": "unzip it first: the folder inside is the store",
    ".npy": "in Python: open_volume(numpy.load(FILE, mmap_mode='r')); or save it as TIFF",
    ".npz": "in Python: open_volume(numpy.load(FILE)[NAME]); or save it as TIFF",
    ".h5": "in Python: open_volume(h5py.File(FILE)[NAME]); or export it as OME-Zarr or TIFF",
    ".n5": "write it as OME-Zarr, such as with Fiji",
    ".safetensors": "it is a model: pass it with --model, and an image here",
    ".ims": "install bioio and bioio-bioformats, or export it as OME-TIFF from Imaris",
}
"""Advice for files that neither we nor the usual readers of bioio open."""
_HINTS |= dict.fromkeys((".hdf5", ".hdf", ".he5"), _HINTS[".h5"])

_TIFF = (".tif", ".tiff", ".btf", ".lsm", ".stk")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big TIFF, of either byte order


def is_foreign(path: str) -> bool:
    """Whether a file neither has the name nor the first bytes of a TIFF."""
    if Path(path).suffix.lower() in ("", *_TIFF):
        return False
    with Path(path).open("rb") as file:
        return file.read(4) not in _MAGIC


def open_foreign(path: str, level: int, series: int | None = None) -> tuple[Header, StoredArray]:
    """Open a scene of a file.

    Parameters
    ----------
    path
        Absolute path of the file.
    level
        0, because levels of a file are not read.
    series
        Index of the scene; None: the largest.

    Raises
    ------
    UsageError
        If there is no such scene.
    VolumeNotFoundError
        If another level is requested.
    VolumeError
        If `bioio` or the reader of this format is not installed, or cannot read the file.
    """
    image = _image(path)
    with foreign(path, "bioio cannot read it"):
        scenes = _scenes(image)
        number = pick_image([prod(shape) for _, shape in scenes] or [1], series, path)
        _choose(image, number)
        header = replace(
            _header(image, path),
            images=tuple(f"{name}: {' x '.join(map(str, shape))}" for name, shape in scenes),
            image=number,
        )
        pick_level(header.levels, level, path)
        return header, wrap_array(image.dask_data, partial(_voxels, path, number), path)


def _voxels(path: str, number: int) -> Any:
    image = _image(path)
    _choose(image, number)
    return image.dask_data


def _scenes(image: Any) -> Sequence[tuple[str, tuple[int, ...]]]:
    """Name and shape of each scene; none if there is only one."""
    names = tuple(getattr(image, "scenes", ()))
    found = []
    for number, name in enumerate(names if len(names) > 1 else ()):
        _choose(image, number)
        found.append((str(name), tuple(int(n) for n in image.dask_data.shape)))
    return found


def _choose(image: Any, number: int) -> None:
    """Make a scene the current one; by index, because names may stand twice."""
    if len(getattr(image, "scenes", ())) > 1:
        image.set_scene(number)


def _axes(image: Any, path: str) -> str:
    """Letters of the axes; red, green and blue (samples, the last axis) are channels."""
    shape = image.dask_data.shape
    if len(shape) == len(CANONICAL):
        return CANONICAL
    if len(shape) == len(CANONICAL) + 1 and shape[1] == 1:
        return "t_zyxc"
    raise VolumeError(
        f"{path}: {shape[1]} channels of {shape[-1]} colours each; save the channels themselves"
    )


def _channel_names(image: Any, count: int) -> tuple[str, ...]:
    """Names of the channels; empty unless each has one."""
    names = getattr(image, "channel_names", None) or ()
    return tuple(map(str, names)) if len(names) == count and count > 1 else ()


def _image(path: str) -> Any:
    suffix = Path(path).suffix
    command = f"{install('bioio')} {READERS.get(suffix, 'bioio-bioformats')}"
    hint = _HINTS.get(suffix.lower())
    if hint is not None and suffix.lower() != ".ims":
        raise VolumeError(f"{path}: neither a zarr store nor a TIFF; {hint}")
    command = command if hint is None else hint
    try:
        bioio = import_module("bioio")
    except ImportError as error:
        raise VolumeError(
            f"{path}: neither a zarr store nor a TIFF; to read {suffix} files, {command}"
        ) from error
    try:
        return bioio.BioImage(path)
    except Exception as error:  # readers raise anything
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise VolumeError(
            f"{path}: neither a zarr store nor a TIFF, and bioio cannot read it ({told}); if its "
            f"reader is missing, {command}"
        ) from error


def _header(image: Any, path: str) -> Header:
    """Axes and sizes; an image with one plane has no z axis."""
    shape = tuple(int(n) for n in image.dask_data.shape)
    sizes = dict(zip(SPATIAL, image.physical_pixel_sizes, strict=True))
    letters = _axes(image, path)
    axes = "".join(OTHER if a == "z" and n == 1 else a for a, n in zip(letters, shape, strict=True))
    scale = tuple(float(sizes.get(a) or 1.0) for a in axes)
    units = tuple("micrometer" if sizes.get(a) else None for a in axes)
    return Header(
        axes=axes,
        units=units,
        levels=(Level(path="", shape=shape, scale=scale),),
        channels=_channel_names(image, dict(zip(axes, shape, strict=True)).get("c", 1)),
    )
