"""Reading PNG: one plane of 8 or 16 bits, grey or coloured, decoded as a whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError, foreign
from embedseg_large.volumes.header import Header, Level, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

_MAGIC = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 1 << 30
"""A PNG is decoded as a whole, and its header may declare any size."""
_MOST_PER_BYTE = 1032
"""Maximum number of bytes to which deflate can expand one byte."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Numbers per pixel, by type of colour."""


def is_png(path: str) -> bool:
    """Whether a file is named like a PNG, or begins like one."""
    if Path(path).suffix.lower() == ".png":
        return True
    with Path(path).open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def open_png(path: str, level: int) -> tuple[Header, StoredArray]:
    """Open a PNG; red, green and blue are channels.

    Parameters
    ----------
    path
        Absolute path of the file.
    level
        0: there are no others.

    Raises
    ------
    VolumeNotFoundError
        If another level is requested.
    VolumeError
        If the file is not a PNG, is damaged, or is too large to be decoded as a whole.
    """
    with foreign(path, "this PNG cannot be read"):
        _check_size(path)
        pixels = _decoded(path)
    axes = "yx" if pixels.ndim == 2 else "yxc"
    header = Header(
        axes=axes,
        units=(None,) * pixels.ndim,
        levels=(Level(path="", shape=pixels.shape, scale=None),),
    )
    pick_level(header.levels, level, path)
    return header, wrap_array(pixels, partial(_decoded, path), path)


def _check_size(path: str) -> None:
    """Refuse files that are not a PNG, or would fill the memory."""
    with Path(path).open("rb") as file:
        head = file.read(26)
    if head[:8] != _MAGIC or len(head) < 26:
        raise VolumeError(f"{path}: not a PNG file; rename it, or save it again")
    width, height = (int.from_bytes(head[at : at + 4]) for at in (16, 20))
    if width * height > _MOST_PIXELS:
        raise VolumeError(
            f"{path}: {width:,} x {height:,} pixels are too many for a PNG, which is decoded as a "
            "whole; write a TIFF or an OME-Zarr"
        )
    size, bits = Path(path).stat().st_size, head[24] * _SAMPLES.get(head[25], 4)
    if width * height * bits // 8 > _MOST_PER_BYTE * size:
        raise VolumeError(
            f"{path}: {width:,} x {height:,} pixels do not fit into {size:,} bytes; restore the "
            "file"
        )


def _decoded(path: str) -> NDArray[Any]:
    """Decode all pixels, (y, x) or (y, x, channel)."""
    from imagecodecs import png_decode

    return np.asarray(png_decode(Path(path).read_bytes()))
