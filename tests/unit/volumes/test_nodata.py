"""Which voxels hold no data is a fact of voxels and storage chunks, whatever is asked about."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.volumes import nodata
from embedseg_large.volumes.nodata import NoData
from embedseg_large.volumes.volume import Volume, open_volume


def absent(volume: Volume, box: Box | None = None, timepoint: int | None = None) -> NDArray[Any]:
    box = Box.whole(volume.spatial_shape) if box is None else box
    return volume.without_data(box, volume.read(box, timepoint), timepoint)


def cubes_of_zeros(image: NDArray[Any], edge: int) -> NDArray[np.bool_]:
    """Voxels in a cube of zeros whose middle is in the image, by the definition."""
    found = np.zeros(image.shape, np.bool_)
    for middle in np.ndindex(image.shape):
        at = tuple(slice(max(0, m - edge // 2), m + edge // 2 + 1) for m in middle)
        if not image[at].any():
            found[at] = True
    return found


def holey(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    image = rng.integers(1, 9, shape).astype(np.uint16)
    for _ in range(4 * image.ndim):
        at = [int(rng.integers(-2, n)) for n in shape]
        image[tuple(slice(max(0, a), max(0, a) + int(rng.integers(3, 9))) for a in at)] = 0
    image[rng.random(shape) < 0.05] = 0
    return image


@pytest.mark.parametrize("shape", [(19, 23), (11, 13, 17)])
@pytest.mark.parametrize("seed", range(4))
def test_a_blank_region_is_the_same_in_every_box(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], seed: int
) -> None:
    monkeypatch.setattr(nodata, "EDGE", {2: 5, 3: 5})
    rng = np.random.default_rng(seed)
    image = holey(rng, shape)
    volume = open_volume(image, axes="zyx"[-image.ndim :])
    whole = absent(volume)
    np.testing.assert_array_equal(whole, cubes_of_zeros(image, 5))
    assert whole.any()
    for box in Box.whole(shape).split((4, 6, 5)[-image.ndim :]):
        np.testing.assert_array_equal(absent(volume, box), whole[box.slices])


def mosaic(shape: tuple[int, ...] = (32, 128, 128)) -> NDArray[Any]:
    image = np.random.default_rng(0).integers(90, 900, shape).astype(np.uint16)
    image[:, :32] = 0
    image[:, :, 96:] = 0
    return image


@pytest.mark.parametrize("chunks", [(32, 32, 32), (32, 128, 128), (32, 50, 50)])
@pytest.mark.parametrize("written", [False, True])
def test_the_same_voxels_mean_the_same_in_every_container(
    tmp_path: Path, chunks: tuple[int, ...], written: bool
) -> None:
    image = mosaic()
    config: Any = {"write_empty_chunks": written}
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=image.shape, dtype="u2", chunks=chunks, config=config
    )
    stored[...] = image
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"})
    for source in (tmp_path / "a.zarr", tmp_path / "a.tif", image):
        np.testing.assert_array_equal(absent(open_volume(source, axes="zyx")), image == 0)


def test_a_missing_chunk_of_any_size_and_fill_value_holds_no_data(tmp_path: Path) -> None:
    for fill, dtype in product((0, 7, None), ("u2", "f4")):
        path = tmp_path / f"{fill}{dtype}.zarr"
        array = zarr.create_array(
            path, shape=(9, 20), dtype=dtype, chunks=(4, 6), fill_value=fill, zarr_format=2
        )
        array[:4, :6] = 3
        volume, expected = open_volume(path), np.ones((9, 20), np.bool_)
        expected[:4, :6] = False
        for box in Box.whole((9, 20)).split((3, 7)):
            np.testing.assert_array_equal(absent(volume, box), expected[box.slices])


@pytest.mark.parametrize("value", [65535, 16777215, 0.1, float(2**53 - 1), -1.5e-300, 1e300])
def test_a_value_is_recorded_with_all_its_digits(value: float) -> None:
    assert NoData.parse(str(NoData.parse(value))).value == value


def test_a_blank_plane_holds_no_data_and_a_dark_part_of_one_does() -> None:
    image = np.ones((2, 6, 40, 40), np.uint8)
    image[0, 2] = image[1, 1:4] = 0
    image[0, 4, :30, :30] = 0
    volume = open_volume(image, axes="tzyx")
    expected = np.zeros((6, 40, 40), np.bool_)
    expected[2] = True
    np.testing.assert_array_equal(absent(volume, timepoint=0), expected)
    box = Box((0, 3, 5), (6, 9, 22))
    np.testing.assert_array_equal(absent(volume, box, 0), expected[box.slices])
    np.testing.assert_array_equal(absent(volume, timepoint=1)[:, 0, 0], [0, 1, 1, 1, 0, 0])


def test_each_channel_has_holes_of_its_own() -> None:
    image = np.ones((2, 4, 8, 8), np.uint8)
    image[1, 2] = 0
    found = absent(open_volume(image, axes="czyx", channel=None))
    assert found[0].sum() == 0
    assert found[1, 2].all()
    assert found.sum() == 64


def test_nan_holds_no_data_where_it_is_said_or_fills_the_store(tmp_path: Path) -> None:
    image = np.ones((4, 8, 8), np.float32)
    image[1, 2, 3] = np.nan
    assert not absent(open_volume(image)).any()
    np.testing.assert_array_equal(absent(open_volume(image, nodata="nan")), np.isnan(image))
    zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(4, 4, 4), fill_value=np.nan)
    np.testing.assert_array_equal(absent(open_volume(tmp_path / "a.zarr")), np.isnan(image))


def test_a_value_may_stand_for_no_data_and_nothing_may() -> None:
    image = np.zeros((4, 8, 8), np.uint16)
    image[2:] = 65535
    image[3, 0, 0] = 5
    found = absent(open_volume(image, nodata=65535))
    assert found[3, 0, 0] == 0
    assert found.sum() == image.size - 1
    assert not absent(open_volume(image, nodata="none")).any()


def test_zero_is_a_value_of_a_boolean_image() -> None:
    assert not absent(open_volume(np.zeros((4, 8, 8), np.bool_))).any()


@pytest.mark.parametrize("text", ["auto", "none", "nan", "65535", "-3.4028234663852886e+38"])
def test_what_is_said_of_no_data_can_be_said_again(text: str) -> None:
    assert str(NoData.parse(text)) == text


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="nodata is 'black'; use auto, none, or the value"):
        open_volume(np.ones((4, 8, 8)), nodata="black")


def test_blank_planes_are_remembered_for_each_timepoint_and_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = np.ones((2, 4, 40, 40), np.uint16)
    image[1, 2] = 0
    series = open_volume(image, axes="tzyx")
    box = Box((0, 0, 0), (4, 8, 8))
    for t, blank in ((0, False), (1, True), (0, False)):
        one = replace(series, timepoint=t)
        absent = one.without_data(box, one.read(box))
        assert absent[2].all() == blank
        assert not absent[[0, 1, 3]].any()
    again = replace(series, timepoint=1)
    voxels = again.read(box)
    monkeypatch.setattr(Volume, "read", lambda *_: pytest.fail("looked again"))
    monkeypatch.setattr(nodata._Look, "blank_regions", lambda _, v: np.zeros(v.shape, bool))
    assert pickle.loads(pickle.dumps(again)).without_data(box, voxels)[2].all()
