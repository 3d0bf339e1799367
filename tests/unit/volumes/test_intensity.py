"""The intensity range of a whole volume: what counts, what is refused, how tiles are cut."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import IntensityError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.volumes import intensity
from embedseg_large.volumes.histogram import Histogram
from embedseg_large.volumes.intensity import (
    IntensityRange,
    intensity_range,
    intensity_ranges,
    normalise,
    range_warning,
    summarise,
    tiles,
)
from embedseg_large.volumes.volume import open_volume


def percentiles(values: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(values.astype(np.float64), [1, 99.8])
    return float(low), float(high)


def shuffled(function: Callable[[Any], Histogram], items: Iterable[Any]) -> Iterator[Histogram]:
    """A map whose functions, items and results travel, and whose results come in another order."""
    for item in reversed(list(items)):
        there, task = pickle.loads(pickle.dumps((function, item)))
        yield pickle.loads(pickle.dumps(there(task)))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "TILE_BYTES", 4096)


def noise(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return rng.normal(500, 100, shape).astype(dtype)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4"])
@pytest.mark.parametrize("shards", [None, (16, 16, 16)])
def test_tiles_workers_and_order_leave_no_trace(
    tmp_path: Path, rng: np.random.Generator, dtype: str, shards: tuple[int, ...] | None
) -> None:
    full = noise(rng, dtype, (30, 33, 35))
    zarr.create_array(tmp_path / "a.zarr", data=full, chunks=(8, 8, 8), shards=shards)
    volume = open_volume(tmp_path / "a.zarr")
    found = intensity_range(volume, map=shuffled)
    assert (found.low, found.high) == percentiles(full)
    assert found == intensity_range(volume) == intensity_range(open_volume(full))
    assert found.voxels == full.size


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("fill", [0, 90])
def test_chunks_that_are_entirely_the_fill_value_do_not_count(
    tmp_path: Path, rng: np.random.Generator, dtype: str, fill: int
) -> None:
    full = noise(rng, "f8", (16, 16, 16)).clip(1, 999)
    full = np.where(rng.random(full.shape) < 0.2, fill, full % 251).astype(dtype)
    full[:8, :8] = fill
    zarr.create_array(tmp_path / "a.zarr", data=full, chunks=(8, 8, 8), fill_value=fill)
    found = intensity_range(open_volume(tmp_path / "a.zarr"))
    counted = np.concatenate([full[8:].ravel(), full[:8, 8:].ravel()])
    assert (found.low, found.high) == percentiles(counted)
    assert (found.voxels, found.excluded_voxels) == (counted.size, 8 * 8 * 16)


def test_nan_may_be_the_fill_value_of_chunks_that_were_not_imaged(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    full = noise(rng, "f4", (16, 16))
    full[:8, :8] = np.nan
    zarr.create_array(tmp_path / "a.zarr", data=full, chunks=(8, 8), fill_value=np.nan)
    found = intensity_range(open_volume(tmp_path / "a.zarr"))
    assert (found.low, found.high) == percentiles(full[~np.isnan(full)])
    assert found.excluded_voxels == 64


def test_what_is_blank_counts_if_all_else_is_alike() -> None:
    full = np.zeros((16, 16, 16), np.uint16)
    full[0] = 1000
    found = intensity_range(open_volume(full))
    assert (found.low, found.voxels, found.excluded_voxels) == (0, full.size, 0)


def test_voxels_outside_of_a_mask_do_not_count(rng: np.random.Generator) -> None:
    full = noise(rng, "f4", (16, 16, 16))
    full[:4] = np.nan
    found = intensity_range(
        open_volume(full),
        inside=lambda box, _: np.arange(16)[box.slices[0], None, None] >= np.full(box.shape, 4),
    )
    assert (found.low, found.high) == percentiles(full[4:])
    assert found.excluded_voxels == full[:4].size


def test_saturation_and_few_bright_voxels_are_told(rng: np.random.Generator) -> None:
    def warning(bright: int, value: int) -> str | None:
        full = noise(rng, "u2", (64, 64, 64))
        full.reshape(-1)[:bright] = value
        return range_warning(intensity_range(open_volume(full)))

    assert warning(0, 0) is None
    assert "saturation, or dust" in (warning(2000, 65535) or "")
    assert "in fewer than 0.2 % of the voxels" in (warning(200, 5000) or "")
    assert range_warning(IntensityRange(0, 1)) is None


@pytest.mark.parametrize(
    ("dtype", "value"), [("f4", 1e38), ("f4", -3.4028235e38), ("i2", -32768), ("u2", 65535)]
)
def test_one_voxel_far_outside_of_the_range_is_told_and_may_stand_for_no_data(
    rng: np.random.Generator, dtype: str, value: float
) -> None:
    full = (noise(rng, "u2", (24, 24, 24)) // 100).astype(dtype)
    full[3, 4, 5] = value
    warning = range_warning(intensity_range(open_volume(full))) or ""
    said = warning.partition("--nodata=")[2].partition(";")[0]
    assert float(said) == pytest.approx(value)
    assert range_warning(intensity_range(open_volume(full, nodata=said))) is None


def test_an_image_of_nothing_but_fill_value_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(16, 16), chunks=(8, 8), dtype="u2")
    with pytest.raises(IntensityError, match="no voxel holds data"):
        intensity_range(open_volume(tmp_path / "a.zarr"))


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_a_constant_image_is_refused(dtype: str) -> None:
    with pytest.raises(IntensityError, match=r"constant, .* both 7\.0"):
        intensity_range(open_volume(np.full((8, 8, 8), 7, dtype)))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        ("f4", np.nan, "nan"),
        ("f2", np.inf, "inf"),
        ("f8", -np.inf, "-inf"),
        ("f8", 1e99, "1e\\+99"),
    ],
)
def test_a_voxel_that_is_not_finite_is_refused_with_its_coordinates(
    tmp_path: Path, rng: np.random.Generator, dtype: str, value: float, shown: str
) -> None:
    full = noise(rng, dtype, (24, 24, 24))
    full[13, 21, 5] = value
    zarr.create_array(tmp_path / "a.zarr", data=full, chunks=(8, 8, 8))
    with pytest.raises(IntensityError, match=rf"voxel \(13, 21, 5\) is {shown}"):
        intensity_range(open_volume(tmp_path / "a.zarr"))


def test_each_channel_has_its_range(rng: np.random.Generator) -> None:
    full = noise(rng, "u2", (2, 8, 16, 16)) + np.array([0, 3000], np.uint16)[:, None, None, None]
    volume = open_volume(full, axes="czyx", channel=None)
    found = intensity_ranges(volume)
    assert [(r.low, r.high) for r in found] == [percentiles(full[0]), percentiles(full[1])]
    one = open_volume(full, axes="czyx", channel=1)
    assert intensity_ranges(one) == (intensity_range(one),) == found[1:]
    with pytest.raises(UsageError, match="use intensity_ranges"):
        intensity_range(volume)


def test_a_timepoint_has_its_range_and_all_together_have_one(rng: np.random.Generator) -> None:
    full = noise(rng, "u2", (3, 8, 16, 16)) * np.arange(1, 4, dtype=np.uint16)[:, None, None, None]
    every = open_volume(full, axes="tzyx")
    chosen = open_volume(full, axes="tzyx", timepoint=2)
    assert intensity_range(chosen) == intensity_range(every, timepoint=2)
    assert intensity_range(chosen).low == percentiles(full[2])[0]
    assert intensity_range(every).high == percentiles(full)[1]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("sample", [0.1, 0.25, 0.5])
def test_a_sample_reads_about_that_fraction_and_says_so(
    rng: np.random.Generator, sample: float
) -> None:
    full = noise(rng, "u2", (64, 64, 64))
    found = intensity_range(open_volume(full), sample=sample)
    assert found.sampled == sample
    assert found.voxels == pytest.approx(sample * full.size, rel=0.15)
    assert found.low == pytest.approx(percentiles(full)[0], rel=0.05)
    assert intensity_range(open_volume(full)).sampled is None


@pytest.mark.usefixtures("small_tiles")
def test_a_sample_is_spread_along_every_axis() -> None:
    full = np.zeros((32, 64, 64), np.uint16)  # tiles of a plane's half: 2 along y, 32 along z
    full[:, :32], full[:, 32:] = 1, 2
    found = intensity_range(open_volume(full), sample=0.5, percentiles=(25, 75))
    assert (found.low, found.high) == (1, 2)


@pytest.mark.parametrize("sample", [0.0, -1.0, 1.5])
def test_a_sample_is_a_fraction(sample: float) -> None:
    with pytest.raises(UsageError, match="not a fraction"):
        intensity_range(open_volume(np.eye(8)), sample=sample)


@pytest.mark.parametrize("wrong", [(2.0, 1.0), (-1.0, 50.0), (1.0, 101.0), (5.0, 5.0)])
def test_percentiles_ascend_within_0_to_100(wrong: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="percentiles"):
        intensity_range(open_volume(np.eye(8)), percentiles=wrong)


def test_the_extremes_are_percentiles_too(rng: np.random.Generator) -> None:
    full = noise(rng, "f4", (32, 32))
    found = intensity_range(open_volume(full), percentiles=(0.0, 100.0))
    assert (found.low, found.high) == (full.min(), full.max())


def test_tiles_cover_the_volume_once_in_whole_chunks(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(200, 900, 1100), chunks=(32, 64, 64), dtype="u2")
    volume = open_volume(tmp_path / "a.zarr")
    boxes = list(tiles(volume))
    assert sum(box.size for box in boxes) == 200 * 900 * 1100
    assert len(boxes) > 1
    for box in boxes:
        assert 2 * box.size <= intensity.TILE_BYTES
        for a, b, n, size in zip(box.start, box.stop, (32, 64, 64), volume.shape, strict=True):
            assert a % n == 0
            assert b % n == 0 or b == size
    assert max(2 * box.size for box in boxes) >= intensity.TILE_BYTES // 2


@pytest.mark.usefixtures("small_tiles")
def test_a_chunk_larger_than_a_tile_is_read_whole(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(64, 64, 64), chunks=(32, 32, 32), dtype="u2")
    assert {box.shape for box in tiles(open_volume(tmp_path / "a.zarr"))} == {(32, 32, 32)}


def test_a_histogram_is_small_and_adds_up(rng: np.random.Generator) -> None:
    full = noise(rng, "u2", (64, 64, 64))
    volume = open_volume(full)
    halves = [summarise(volume, Box((a, 0, 0), (a + 32, 64, 64))) for a in (0, 32)]
    whole = summarise(volume, Box.whole(full.shape))
    total = halves[1] + halves[0]
    np.testing.assert_array_equal(total.keys, whole.keys)
    np.testing.assert_array_equal(total.counts, whole.counts)
    assert total.voxels == full.size
    assert len(pickle.dumps(whole)) < full.nbytes / 20


def test_normalising_maps_the_range_to_0_and_1_and_clips_nothing() -> None:
    image = np.array([[0, 100, 200, 300]], np.uint16)
    found = normalise(image, IntensityRange(100, 200))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[-1, 0, 1, 2]])
    assert image.dtype == np.uint16


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_a_range_ascends_and_is_finite(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="needs low < high"):
        IntensityRange(low, high)


@pytest.mark.parametrize(("low", "high"), [(0, 1e-320), (0, 1e39), (1e39, 2e39), (-3e38, 3e38)])
def test_a_range_can_be_applied_in_float32(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="float32"):
        IntensityRange(low, high)


@pytest.mark.shared_data
def test_the_ranges_of_a_real_image_equal_those_of_numpy(shared_data: Path) -> None:
    path = shared_data / "idr0062_6001240_blastocyst" / "6001240_v0.1.zarr"
    volume = open_volume(path, channel=1)
    found = intensity_range(volume)
    assert (found.low, found.high) == percentiles(volume.read(Box.whole(volume.shape)))


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_saturated_dust_leaves_the_range_to_the_objects(dtype: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, (40, 64, 64))
    image[10:20, 10:30, 10:30] = rng.normal(1000, 50, (10, 20, 20))
    clean = image.astype(dtype)
    dusty = clean.copy()
    dusty[:9, :9, :9] = 60000  # 0.4 %
    found = intensity_range(open_volume(dusty))
    assert found.saturated_voxels == 729
    darker = dusty[dusty < 60000]
    assert found.high == pytest.approx(np.percentile(darker, 99.8))
    assert found.low == np.percentile(dusty, 1)
    assert "729 voxels are saturated at 60000" in (range_warning(found) or "")
    assert intensity_range(open_volume(clean)).saturated_voxels == 0


def test_what_is_bright_because_it_is_an_object_stays_the_upper_end() -> None:
    rng = np.random.default_rng(0)
    image = rng.poisson(20, (40, 64, 64)).astype(np.uint8)
    image[10:14, 10:30, 10:30] = 255  # overexposed objects, and nothing else
    found = intensity_range(open_volume(image))
    assert (found.high, found.saturated_voxels) == (255, 0)
    image[20:24, 10:30, 10:30] = 200  # clipped a little
    assert intensity_range(open_volume(image)).high == 255
