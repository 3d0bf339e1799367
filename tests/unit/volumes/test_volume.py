"""What a `Volume` promises for every source: axes, regions, pickling, and readable failures."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import CorruptChunkError, MetadataError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.volumes.stored_array import StoredArray
from embedseg_large.volumes.volume import Volume, open_volume


def image(*shape: int) -> NDArray[np.uint16]:
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "axes", "arguments", "found"),
    [
        ((6, 8), None, {}, "yx"),
        ((4, 6, 8), None, {}, "zyx"),
        ((3, 6, 8), "cyx", {}, "yx"),
        ((3, 6, 8), "cyx", {"channel": None}, "cyx"),
        ((1, 6, 8), "cyx", {"channel": None}, "yx"),
        ((2, 4, 6, 8), "tzyx", {}, "tzyx"),
        ((2, 4, 6, 8), "tzyx", {"timepoint": 1}, "zyx"),
        ((1, 4, 6, 8), "tzyx", {}, "zyx"),
        ((2, 3, 4, 6, 8), "tczyx", {"channel": None}, "tczyx"),
        ((2, 3, 4, 6, 8), "tczyx", {}, "tzyx"),
        ((4, 3, 2, 6, 8), "zctyx", {"channel": None}, "tczyx"),
        ((1, 1, 6, 8), "czyx", {}, "zyx"),
        ((6, 8, 3), "yxc", {"channel": None}, "cyx"),
    ],
)
def test_axes_come_out_in_one_order_without_those_that_were_chosen(
    shape: tuple[int, ...], axes: str | None, arguments: dict[str, Any], found: str
) -> None:
    volume = open_volume(image(*shape), axes=axes, **arguments)
    assert volume.axes == found
    assert volume.data.shape == volume.shape
    assert volume.ndim == sum(a in "zyx" for a in found)
    assert volume.spatial_shape == volume.shape[-volume.ndim :]


@pytest.mark.parametrize("channel", [None, 1])
@pytest.mark.parametrize("axes", ["tczyx", "xytzc", "cxyzt"])
def test_reading_a_box_equals_slicing_the_data(axes: str, channel: int | None) -> None:
    sizes = {"t": 2, "c": 3, "z": 4, "y": 6, "x": 8}
    full = image(*(sizes[a] for a in axes))
    volume = open_volume(full, axes=axes, channel=channel)
    canonical = np.einsum(f"{axes}->tczyx", full)
    box = Box((1, 2, 3), (4, 5, 7))
    expected = canonical[1, slice(None) if channel is None else channel][(..., *box.slices)]
    np.testing.assert_array_equal(volume.read(box, timepoint=1), expected)
    np.testing.assert_array_equal(volume.data[(1, ..., *box.slices)].compute(), expected)


def test_the_choice_is_recorded_and_none_means_that_the_axis_is_kept() -> None:
    full = image(2, 3, 4, 6, 8)
    chosen = open_volume(full, axes="tczyx", channel=2, timepoint=1)
    assert (chosen.channel, chosen.timepoint) == (2, 1)
    kept = open_volume(full, axes="tczyx", channel=None)
    assert (kept.channel, kept.timepoint) == (None, None)
    assert (kept.n_channels, kept.n_timepoints) == (3, 2)
    plain = open_volume(image(4, 6, 8), channel=None)
    assert (plain.channel, plain.timepoint, plain.n_channels, plain.n_timepoints) == (0, 0, 1, 1)


@pytest.mark.parametrize("name", ["numpy", "dask", "zarr"])
def test_arrays_open(tmp_path: Path, name: str) -> None:
    full = image(4, 6, 8)
    source: Any = {
        "numpy": lambda: full,
        "dask": lambda: da.from_array(full, chunks=(2, 3, 5)),  # type: ignore[no-untyped-call]
        "zarr": lambda: zarr.create_array(tmp_path / "a", data=full, chunks=(2, 3, 4)),
    }[name]()
    volume = open_volume(source)
    assert volume.path is None
    assert volume.zarr_format == (3 if name == "zarr" else None)
    assert volume.chunks == {"numpy": None, "dask": (2, 3, 5), "zarr": (2, 3, 4)}[name]
    assert volume.fill_value == (0 if name == "zarr" else None)
    np.testing.assert_array_equal(volume.read(Box((1, 1, 1), (3, 3, 3))), full[1:3, 1:3, 1:3])
    np.testing.assert_array_equal(volume.data.compute(), full)


def test_a_chosen_voxel_size_is_kept() -> None:
    assert open_volume(image(4, 6, 8), voxel_size=(2, 0.5, 0.5)).voxel_size == (2, 0.5, 0.5)
    assert open_volume(image(4, 6, 8)).voxel_size is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel": 3}, "no channel 3, there are 3"),
        ({"channel": -1}, "no channel -1, there are 3"),
        ({"timepoint": 2}, "no timepoint 2, there are 2"),
        ({"axes": "czyx"}, r"axes 'czyx' name 4 axes, the array has 5"),
        ({"axes": "qczyx"}, r"not letters of t, c, z, y, x"),
        ({"axes": "zczyx"}, r"not letters of t, c, z, y, x, each at most once"),
        ({"voxel_size": (1, 1)}, r"2 voxel sizes given; it needs 3, for zyx"),
        ({"voxel_size": (0, 1, 1)}, r"not positive"),
        ({"voxel_size": (float("nan"), 1, 1)}, r"not positive"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_volume(image(2, 3, 4, 6, 8), **{"axes": "tczyx", **arguments})


def test_an_array_of_unknown_axes_needs_them() -> None:
    with pytest.raises(UsageError, match="an array of 4 axes needs axes="):
        open_volume(image(3, 4, 6, 8))


@pytest.mark.parametrize("axes", ["cz", "tc"])
def test_a_volume_needs_a_plane(axes: str) -> None:
    with pytest.raises(MetadataError, match="lack y or x"):
        open_volume(image(6, 8), axes=axes)


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "M8[s]"])
def test_voxels_must_be_real_numbers(dtype: str) -> None:
    with pytest.raises(VolumeError, match="are not integers or floats"):
        open_volume(np.zeros((4, 6, 8), dtype))


def test_an_empty_array_and_something_that_is_no_array_are_refused() -> None:
    with pytest.raises(MetadataError, match="is empty"):
        open_volume(image(0, 6, 8))
    with pytest.raises(UsageError, match="cannot open a list"):
        open_volume([[1, 2]])


def test_masks_of_booleans_open() -> None:
    assert open_volume(np.ones((6, 8), bool)).dtype == bool


def test_voxels_come_in_native_byte_order(tmp_path: Path) -> None:
    full = image(4, 6, 8)
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=full.shape, dtype=">u2", chunks=(2, 3, 4), zarr_format=2
    )
    stored[...] = full
    volume = open_volume(tmp_path / "a.zarr")
    assert volume.dtype.isnative
    assert volume.data.dtype.isnative
    read = volume.read(Box.whole(full.shape))
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, full)


def test_a_box_outside_the_volume_is_refused() -> None:
    volume = open_volume(image(4, 6, 8))
    for box in (Box((0, 0, 0), (4, 6, 9)), Box((-1, 0, 0), (4, 6, 8)), Box((0, 0), (4, 6))):
        with pytest.raises(UsageError, match="is not inside the volume"):
            volume.read(box)


def test_reading_asks_for_the_timepoint_that_is_missing() -> None:
    box = Box((0, 0), (2, 2))
    several = open_volume(image(3, 6, 8), axes="tyx")
    with pytest.raises(UsageError, match="has 3 timepoints; choose one"):
        several.read(box)
    one = open_volume(image(3, 6, 8), axes="tyx", timepoint=1)
    np.testing.assert_array_equal(one.read(box), one.read(box, timepoint=1))
    with pytest.raises(UsageError, match="is timepoint 1, not 2"):
        one.read(box, timepoint=2)


def test_a_volume_pickles_as_a_description(tmp_path: Path) -> None:
    full = np.zeros((64, 64, 64), np.uint16)
    zarr.create_array(tmp_path / "a.zarr", data=full, chunks=(16, 16, 16))
    volume = open_volume(tmp_path / "a.zarr")
    volume.read(Box((0, 0, 0), (1, 1, 1)))
    assert volume.data.shape == full.shape
    pickled = pickle.dumps(volume)
    assert len(pickled) < 2000
    again: Volume = pickle.loads(pickled)
    assert again.describe() == volume.describe()
    assert again.read(Box.whole(full.shape)).shape == full.shape
    assert again.data.name == volume.data.name


def test_a_relative_path_opens_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=image(4, 6, 8))
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(open_volume("a.zarr"))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled).read(Box((0, 0, 0), (4, 6, 8))).shape == (4, 6, 8)


def test_the_description_is_json(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((4, 6, 8), "f4"), fill_value=np.nan)
    described = json.loads(json.dumps(open_volume(tmp_path / "a.zarr").describe(), allow_nan=False))
    assert described["fill_value"] == "nan"
    assert described["shape"] == [4, 6, 8]
    assert described["bytes"] == 4 * 6 * 8 * 4


Spoil = Callable[[bytes], bytes]
SPOILS: dict[str, Spoil] = {
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda data: bytes(255 - b for b in data),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ({"zarr_format": 2}, "1.0.1"),
        ({"zarr_format": 3}, "c/1/0/1"),
        ({"zarr_format": 3, "shards": (8, 8, 8), "chunks": (4, 4, 4)}, "c/1/0/1"),
    ],
    ids=["v2", "v3", "sharded"],
)
def test_a_chunk_that_cannot_be_decoded_is_named(
    tmp_path: Path,
    rng: np.random.Generator,
    spoil: Spoil,
    arguments: dict[str, Any],
    file: str,
) -> None:
    full = rng.integers(0, 9999, (16, 16, 16)).astype(np.uint16)
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=full, **{"chunks": (8, 8, 8), **arguments})
    (path / file).write_bytes(spoil((path / file).read_bytes()))
    volume = open_volume(path)
    with pytest.raises(CorruptChunkError, match=rf"a\.zarr/{file}: ") as error:
        volume.read(Box((2, 2, 2), (14, 14, 14)))
    assert "\n" not in str(error.value)
    with pytest.raises(CorruptChunkError, match=file):
        volume.data.compute(scheduler="synchronous")
    whole = Box((0, 0, 0), (8, 16, 16))
    np.testing.assert_array_equal(volume.read(whole), full[whole.slices])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_chunk_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=image(4, 6, 8), chunks=(4, 6, 8))
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").chmod(0)
    with pytest.raises(CorruptChunkError, match="c/0/0/0"):
        open_volume(tmp_path / "a.zarr").read(Box((0, 0, 0), (1, 1, 1)))


def test_chunks_that_were_never_written_are_the_fill_value(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", shape=(8, 8), chunks=(4, 4), shards=(8, 8), dtype="u2", fill_value=7
    )
    volume = open_volume(tmp_path / "a.zarr")
    assert (volume.read(Box((0, 0), (8, 8))) == volume.fill_value).all()


def test_importing_the_module_loads_neither_zarr_nor_dask() -> None:
    code = (
        "import sys, embedseg_large.volumes.volume;"
        "print({'zarr', 'dask', 'tifffile', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bucket_is_listed_once_for_all_that_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timepoints share an array, and a listing of a large one takes minutes."""
    lists: list[str] = []

    def listed(folder: RemoteFolder) -> str:
        lists.append(folder.path)
        return f"{len(lists)}"

    monkeypatch.setattr(RemoteFolder, "digest", listed)
    about: dict[str, Any] = {"shape": (4, 4), "dtype": np.dtype(np.uint8), "zarr_format": 3}
    array = StoredArray(opener=list, location="s3://bucket/image.zarr/0", **about)
    assert [array.digest for _ in range(3)] == ["1"] * 3
    assert lists == ["s3://bucket/image.zarr/0"]
    assert StoredArray(opener=list, location="/image.zarr/0", **about).digest == ""
