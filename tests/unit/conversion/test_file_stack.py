"""Files are one image: every voxel in its place, read lazily, and unlike files are refused."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.conversion import file_stack
from embedseg_large.conversion.options import SourceOptions
from embedseg_large.errors import CorruptChunkError, MetadataError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.volumes.volume import Volume


def open_source(source: Any, **options: Any) -> Volume:
    return file_stack.open_source(source, SourceOptions(**options))


def image(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)


def planes(folder: Path, stack: NDArray[Any], **more: Any) -> Path:
    """Write the planes of a stack, each a file."""
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(stack):
        tifffile.imwrite(folder / f"z{z}.tif", plane, photometric="minisblack", **more)
    return folder


@pytest.mark.parametrize(
    "how", [{"pattern": "z{z}.tif"}, {"stack": "z"}, {}], ids=["pattern", "stack", "path"]
)
def test_planes_are_a_volume(tmp_path: Path, how: dict[str, Any]) -> None:
    full = image(12, 6, 8)
    folder = planes(tmp_path / "scan", full)
    volume = open_source(folder if how else folder / "z{z}.tif", voxel_size=(2, 1, 1), **how)
    assert (volume.axes, volume.shape) == ("zyx", full.shape)
    assert volume.voxel_size == (2, 1, 1)
    assert volume.chunks == (1, 6, 8)
    np.testing.assert_array_equal(volume.data.compute(), full)
    box = Box((3, 2, 1), (11, 5, 7))
    np.testing.assert_array_equal(volume.read(box), full[box.slices])


def test_threads_read_the_same_stack(tmp_path: Path) -> None:
    full = image(6, 6, 8)
    storage = open_source(planes(tmp_path, full), stack="z").storage
    with ThreadPoolExecutor(8) as pool:
        orders = [z % 6 for z in range(600)]
        found = pool.map(lambda z: storage[z, slice(None), slice(None)], orders)
        for z, plane in zip(orders, found, strict=True):
            np.testing.assert_array_equal(plane, full[z])


def test_volumes_are_timepoints_and_channels(tmp_path: Path) -> None:
    full = image(2, 3, 4, 6, 8)
    sizes = {"PhysicalSizeX": 0.4, "PhysicalSizeY": 0.4, "PhysicalSizeZ": 2.0}
    for t in range(2):
        for c, name in enumerate(("dapi", "gfp", "rfp")):
            file = tmp_path / f"{t + 5}-{name}.ome.tif"
            tifffile.imwrite(file, full[t, c], metadata={"axes": "ZYX", **sizes})
    volume = open_source(tmp_path, pattern="{t}-{c}.ome.tif")
    assert (volume.axes, volume.shape) == ("tczyx", full.shape)
    assert volume.voxel_size == pytest.approx((2, 0.4, 0.4))
    np.testing.assert_array_equal(volume.data.compute(), full)
    box = Box((1, 2, 3), (3, 6, 8))
    np.testing.assert_array_equal(volume.read(box, timepoint=1), full[1][:, *box.slices])


def test_the_axes_of_a_file_may_be_said(tmp_path: Path) -> None:
    full = image(2, 4, 6, 8)
    planes(tmp_path, full)  # pages without a name
    with pytest.raises(MetadataError, match="axis 0"):
        open_source(tmp_path, stack="t")
    volume = open_source(tmp_path, stack="t", axes="zyx")
    assert volume.axes == "tzyx"
    np.testing.assert_array_equal(volume.data.compute(), full)


def test_the_byte_order_and_compression_of_files_do_not_matter(tmp_path: Path) -> None:
    full = image(4, 40, 48)
    planes(tmp_path, full[:3], compression="lzw", rowsperstrip=8)
    tifffile.imwrite(tmp_path / "z3.tif", full[3], byteorder=">")
    volume = open_source(tmp_path, stack="z")
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.data.compute(), full)


def test_a_stack_pickles_and_opens_itself_again(tmp_path: Path) -> None:
    full = image(4, 6, 8)
    volume = open_source(planes(tmp_path, full), stack="z")
    volume.read(Box.whole(full.shape))
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again.read(Box.whole(full.shape)), full)


def test_a_folder_alone_says_nothing_of_its_axes(tmp_path: Path) -> None:
    folder = planes(tmp_path / "scan", image(3, 6, 8))
    with pytest.raises(UsageError, match=r"3 TIFFs; pass the axis .*--stack z.*--pattern.*z0\.tif"):
        open_source(folder)


@pytest.mark.parametrize("how", [{"pattern": "z{z}.tif"}, {"stack": "z"}])
def test_one_file_is_no_folder(tmp_path: Path, how: dict[str, Any]) -> None:
    planes(tmp_path, image(1, 6, 8))
    with pytest.raises(UsageError, match="apply to a folder of files"):
        open_source(tmp_path / "z0.tif", **how)
    with pytest.raises(UsageError, match="apply to a folder of files"):
        open_source(image(3, 6, 8), **how)


@pytest.mark.parametrize("other", [image(6, 9), image(6, 8).astype(np.uint8)])
def test_a_file_unlike_the_first_is_named(tmp_path: Path, other: NDArray[Any]) -> None:
    planes(tmp_path, image(5, 6, 8))
    tifffile.imwrite(tmp_path / "z3.tif", other)
    with pytest.raises(VolumeError, match=r"z3\.tif: has shape .* the first file z0\.tif"):
        open_source(tmp_path, stack="z")


def test_a_file_that_is_no_tiff_is_named(tmp_path: Path) -> None:
    planes(tmp_path, image(3, 6, 8))
    (tmp_path / "z1.tif").write_text("no TIFF")
    with pytest.raises(VolumeError, match=r"z1\.tif: neither"):
        open_source(tmp_path, stack="z")


def test_the_largest_image_of_each_file_is_stacked_or_the_one_that_is_chosen(
    tmp_path: Path,
) -> None:
    full = image(3, 16, 24)
    for z, plane in enumerate(full):
        with tifffile.TiffWriter(tmp_path / f"z{z}.tif") as file:
            file.write(plane[::2, ::2], metadata=None)  # a thumbnail
            file.write(plane, metadata=None)
    volume = open_source(tmp_path, stack="z", axes="yx")
    np.testing.assert_array_equal(volume.data.compute(), full)
    small = open_source(tmp_path, stack="z", axes="yx", series=0)
    np.testing.assert_array_equal(small.data.compute(), full[:, ::2, ::2])
    assert (volume.image, small.image) == (1, 0)  # a conversion of one is not resumed by the other
    with pytest.raises(UsageError, match=r"z0\.tif: no image 99, there are 2"):
        open_source(tmp_path, stack="z", axes="yx", series=99)


@pytest.mark.parametrize("how", [{"pattern": "z{z}.tif"}, {"stack": "z"}])
def test_missing_files_of_a_folder_are_no_zeros(tmp_path: Path, how: dict[str, Any]) -> None:
    planes(tmp_path, image(3, 6, 8))
    with pytest.raises(UsageError, match="missing files of a folder are not read as zeros"):
        open_source(tmp_path, **how, allow_missing=True)


def test_files_do_not_stand_for_an_axis_that_they_have(tmp_path: Path) -> None:
    planes(tmp_path, image(2, 4, 6, 8), metadata={"axes": "ZYX"})
    with pytest.raises(UsageError, match=r"z0\.tif: already has 4 along z"):
        open_source(tmp_path, stack="z")
    assert open_source(tmp_path, stack="t").axes == "tzyx"


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    planes(tmp_path, image(4, 64, 64))
    volume = open_source(tmp_path, stack="z")
    file = tmp_path / "z2.tif"
    file.write_bytes(file.read_bytes()[:-2000])
    volume.read(Box((0, 0, 0), (2, 64, 64)))
    with pytest.raises(CorruptChunkError, match=r"z2\.tif"):
        volume.read(Box((0, 0, 0), (4, 64, 64)))


def test_the_stamp_changes_with_any_file_of_a_region(tmp_path: Path) -> None:
    volume = open_source(planes(tmp_path, image(4, 6, 8)), stack="z")
    low, high = Box((0, 0, 0), (2, 6, 8)), Box((2, 0, 0), (4, 6, 8))
    before = volume.stamp(low), volume.stamp(high)
    os.utime(tmp_path / "z3.tif", ns=(1, 1))
    assert volume.stamp(low) == before[0]
    assert volume.stamp(high) != before[1]
