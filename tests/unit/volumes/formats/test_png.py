"""PNG: what it holds, and what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagecodecs import png_encode
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import VolumeError, VolumeNotFoundError
from embedseg_large.geometry import Box


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_png_is_a_plane(tmp_path: Path, dtype: type, rng: np.random.Generator) -> None:
    pixels: NDArray[Any] = rng.integers(0, np.iinfo(dtype).max, (30, 40)).astype(dtype)
    (tmp_path / "a.png").write_bytes(png_encode(pixels))
    volume = es.open_volume(tmp_path / "a.png")
    assert (volume.axes, volume.dtype, volume.voxel_size) == ("yx", np.dtype(dtype), None)
    box = Box((3, 5), (20, 40))
    np.testing.assert_array_equal(volume.read(box), pixels[box.slices])


def test_colours_of_a_png_are_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png_encode(pixels))
    green = es.open_volume(tmp_path / "a.png", channel=1)
    assert green.n_channels == 3
    np.testing.assert_array_equal(green.read(Box.whole((8, 9))), pixels[..., 1])


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_png_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.png"):
        es.open_volume(tmp_path / "a.png")


def test_a_png_that_declares_more_pixels_than_memory_holds_is_refused(tmp_path: Path) -> None:
    whole = bytearray(png_encode(np.zeros((4, 4), np.uint8)))
    whole[16:24] = (2**31 - 1).to_bytes(4) * 2
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(VolumeError, match="too many for a PNG"):
        es.open_volume(tmp_path / "a.png")


def test_a_png_has_one_level(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_encode(np.zeros((4, 4), np.uint8)))
    with pytest.raises(VolumeNotFoundError, match="level 1"):
        es.open_volume(tmp_path / "a.png", level=1)
