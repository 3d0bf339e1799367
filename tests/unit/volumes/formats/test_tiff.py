"""TIFFs open lazily, with the axes and the voxel size that their writers left in them."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.errors import (
    CorruptChunkError,
    MetadataError,
    VolumeError,
    VolumeNotFoundError,
)
from embedseg_large.geometry import Box
from embedseg_large.volumes.volume import open_volume


def image(*shape: int) -> NDArray[np.uint16]:
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def write(path: Path, data: NDArray[Any], axes: str | None = None, **arguments: Any) -> Path:
    metadata = arguments.pop("metadata", {}) | ({} if axes is None else {"axes": axes})
    # Otherwise tifffile stores 3 or 4 planes as red, green and blue.
    arguments = {"photometric": "minisblack", **arguments}
    tifffile.imwrite(path, data, metadata=metadata or None, **arguments)
    return path


IMAGEJ = {"imagej": True, "resolution": (2, 4)}


def test_a_hyperstack_of_imagej_opens_with_its_voxel_size(tmp_path: Path) -> None:
    full = image(2, 4, 3, 6, 8)
    metadata = {"spacing": 2.0, "unit": "micron"}
    path = write(tmp_path / "a.tif", full, "TZCYX", metadata=metadata, **IMAGEJ)
    volume = open_volume(path, channel=2, timepoint=1)
    assert (volume.stored_axes, volume.axes) == ("tzcyx", "zyx")
    assert volume.voxel_size == pytest.approx((2, 0.25, 0.5))
    assert (volume.n_channels, volume.n_timepoints) == (3, 2)
    np.testing.assert_array_equal(volume.data.compute(), full[1, :, 2])
    every = open_volume(path, channel=None)
    assert every.axes == "tczyx"
    np.testing.assert_array_equal(
        every.read(Box((0, 0, 0), (4, 6, 8)), timepoint=0), full[0].swapaxes(0, 1)
    )


@pytest.mark.parametrize(
    "metadata",
    [{"spacing": 2.0}, {"unit": "micron"}, {"spacing": 2.0, "unit": "pixel"}],
)
def test_a_size_without_unit_or_spacing_is_unknown(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.tif", image(4, 6, 8), "ZYX", metadata=metadata, **IMAGEJ)
    assert open_volume(path).voxel_size is None


def test_the_unit_that_imagej_escapes_is_understood(tmp_path: Path) -> None:
    metadata = {"spacing": 2.0, "unit": "\\u00B5m"}
    path = write(tmp_path / "a.tif", image(4, 6, 8), "ZYX", metadata=metadata, **IMAGEJ)
    assert open_volume(path).voxel_size == pytest.approx((2, 0.25, 0.5))


def test_a_resolution_for_printing_is_no_voxel_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image(6, 8), resolution=(300, 300), resolutionunit="INCH")
    assert open_volume(path).voxel_size is None


def test_an_ome_tiff_opens_with_its_voxel_size(tmp_path: Path) -> None:
    full = image(3, 4, 6, 8)
    sizes = {
        "PhysicalSizeX": 300,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.3,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 2,
    }
    path = write(tmp_path / "a.ome.tif", full, "CZYX", metadata=sizes)
    volume = open_volume(path, channel=1)
    assert volume.axes == "zyx"
    assert volume.voxel_size == pytest.approx((2, 0.3, 0.3))
    np.testing.assert_array_equal(volume.data.compute(), full[1])


def test_an_ome_tiff_without_the_size_along_z_has_no_voxel_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", image(4, 6, 8), "ZYX", metadata={"PhysicalSizeX": 1.0})
    assert open_volume(path).voxel_size is None


def test_an_ome_tiff_of_one_plane_is_two_dimensional(tmp_path: Path) -> None:
    assert open_volume(write(tmp_path / "a.ome.tif", image(1, 6, 8), "ZYX")).axes == "yx"


def test_a_pyramid_has_levels_with_larger_voxels(tmp_path: Path) -> None:
    full = image(4, 32, 64)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(full, subifds=1, tile=(16, 16), metadata=metadata)
        file.write(full[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    volume = open_volume(tmp_path / "a.ome.tif", level=1)
    assert [level.shape for level in volume.levels] == [(4, 32, 64), (4, 16, 32)]
    assert volume.voxel_size == (2, 1, 2)
    assert volume.chunks == (1, 16, 16)
    np.testing.assert_array_equal(volume.data.compute(), full[:, ::2, ::2])
    with pytest.raises(VolumeNotFoundError, match="no level 2, there are 2"):
        open_volume(tmp_path / "a.ome.tif", level=2)


@pytest.mark.parametrize("named", [True, False])
def test_a_stack_of_unnamed_pages_asks_for_axes(tmp_path: Path, named: bool) -> None:
    full = image(4, 6, 8)
    path = tmp_path / "a.tif"  # tifffile calls the first axis Q with its own metadata, or else I
    tifffile.imwrite(path, full, metadata={} if named else None, photometric="minisblack")
    with pytest.raises(MetadataError, match=r"axis 0 .* pass the axes, such as axes=.*'zyx'"):
        open_volume(path)
    np.testing.assert_array_equal(open_volume(path, axes="zyx").data.compute(), full)


def test_red_green_and_blue_are_channels(tmp_path: Path) -> None:
    full = image(6, 8, 3).astype(np.uint8)
    path = write(tmp_path / "a.tif", full, photometric="rgb")
    assert open_volume(path, channel=None).axes == "cyx"
    np.testing.assert_array_equal(open_volume(path, channel=1).data.compute(), full[..., 1])


@pytest.mark.parametrize(
    ("arguments", "chunks"),
    [
        ({}, (1, 40, 48)),
        ({"rowsperstrip": 8, "compression": "lzw"}, (1, 40, 48)),
        ({"tile": (16, 32), "compression": "zlib"}, (1, 16, 32)),
    ],
    ids=["contiguous", "strips", "tiles"],
)
def test_chunks_are_pages_or_tiles(
    tmp_path: Path, arguments: dict[str, Any], chunks: tuple[int, ...]
) -> None:
    full = image(4, 40, 48)
    volume = open_volume(write(tmp_path / "a.tif", full, "ZYX", **arguments))
    assert volume.chunks == chunks
    assert volume.fill_value is None
    box = Box((1, 3, 5), (3, 37, 41))
    np.testing.assert_array_equal(volume.read(box), full[box.slices])


def test_a_tiff_volume_pickles_and_opens_itself_again(tmp_path: Path) -> None:
    full = image(4, 40, 48)
    volume = open_volume(write(tmp_path / "a.tif", full, "ZYX"))
    volume.read(Box((0, 0, 0), (1, 1, 1)))
    pickled = pickle.dumps((volume, volume.data))
    assert len(pickled) < full.nbytes
    again, data = pickle.loads(pickled)
    np.testing.assert_array_equal(again.read(Box.whole(full.shape)), full)
    np.testing.assert_array_equal(data.compute(scheduler="synchronous"), full)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}],
    ids=["contiguous", "lzw", "tiles"],
)
def test_a_tiff_truncated_while_it_is_read_names_the_page_that_is_cut(
    tmp_path: Path, rng: np.random.Generator, arguments: dict[str, Any]
) -> None:
    full = rng.integers(0, 9999, (4, 64, 64)).astype(np.uint16)
    path = write(tmp_path / "a.tif", full, "ZYX", **arguments)
    volume = open_volume(path)
    path.write_bytes(path.read_bytes()[:-2000])
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (2, 64, 64))), full[:2])
    with pytest.raises(CorruptChunkError, match=r"a\.tif, from voxel \(3, \d+, 0\): "):
        volume.read(Box((1, 0, 0), (4, 64, 64)))


@pytest.mark.parametrize("pages", [1, 3, 150])
@pytest.mark.parametrize("back", [0, -1])
@pytest.mark.parametrize("big", [False, True])
def test_pages_that_refer_to_each_other_in_a_circle_are_refused(
    tmp_path: Path, pages: int, back: int, big: bool
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        for _ in range(pages):
            file.write(image(4, 4), contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as opened:
        last, kind, target = opened.pages[-1].aspage(), opened.tiff, opened.pages[back].offset
        at = last.offset + kind.tagnosize + len(last.tags) * kind.tagsize
    with path.open("r+b") as raw:
        raw.seek(at)
        assert struct.unpack(kind.offsetformat, raw.read(kind.offsetsize)) == (0,)
        raw.seek(at)
        raw.write(struct.pack(kind.offsetformat, target))
    circle = f"a.tif: the {pages} pages of this TIFF refer to each other in a circle"
    with pytest.raises(MetadataError, match=circle):
        open_volume(path)


def test_a_file_that_is_no_tiff_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("no TIFF at all")
    with pytest.raises(VolumeError, match="neither a zarr store nor a TIFF"):
        open_volume(tmp_path / "a.tif")
