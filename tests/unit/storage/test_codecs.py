"""An array from elsewhere is read only if that can neither run code nor fill the memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.pickles
import numpy as np
import pytest
import zarr

from embedseg_large.errors import MetadataError, VolumeError
from embedseg_large.storage.arrays import open_array, open_group
from embedseg_large.volumes.volume import open_volume

VALUES = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)
V2 = {
    "none": None,
    "blosc": numcodecs.Blosc(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}
FILTERS = {
    "delta": numcodecs.Delta("<u2"),
    "wide delta": numcodecs.Delta("<u2", astype="<i8"),
    "shuffle": numcodecs.Shuffle(2),
    "checksum": numcodecs.CRC32(),
    "scale": numcodecs.FixedScaleOffset(0, 1, "<u2", "<f8"),
    "a compressor": numcodecs.Zstd(),
}
V3 = [zarr.codecs.BloscCodec(), zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()]


def written_v2(path: Path, **options: Any) -> Path:
    array = zarr.create_array(
        path, shape=VALUES.shape, chunks=(2, 6, 8), dtype="<u2", zarr_format=2, **options
    )
    array[...] = VALUES
    return path


@pytest.mark.parametrize("name", V2)
def test_every_compressor_of_zarr_v2_is_read_and_written(tmp_path: Path, name: str) -> None:
    array = open_array(written_v2(tmp_path / "a.zarr", compressors=V2[name]), "r+")
    np.testing.assert_array_equal(array[...], VALUES)
    array[0] = 7
    assert (open_array(tmp_path / "a.zarr")[0] == 7).all()


@pytest.mark.parametrize("name", FILTERS)
def test_filters_that_only_compute_are_read(tmp_path: Path, name: str) -> None:
    path = written_v2(tmp_path / "a.zarr", compressors=None, filters=[FILTERS[name]])
    np.testing.assert_array_equal(open_array(path)[...], VALUES)


@pytest.mark.parametrize("codec", V3, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("shards", [None, (4, 6, 8)])
def test_every_codec_of_zarr_v3_is_read_and_written(
    tmp_path: Path, codec: Any, shards: Any
) -> None:
    stored: Any = zarr.create_array(
        tmp_path / "a.zarr",
        shape=VALUES.shape,
        chunks=(2, 6, 8),
        shards=shards,
        dtype="<u2",
        compressors=codec,
    )
    stored[...] = VALUES
    array = open_array(tmp_path / "a.zarr", "r+")
    np.testing.assert_array_equal(array[1:3], VALUES[1:3])
    array[...] = VALUES + 1
    np.testing.assert_array_equal(open_array(tmp_path / "a.zarr")[...], VALUES + 1)


@pytest.mark.parametrize("name", [n for n in V2 if n != "none"])
def test_a_chunk_takes_no_more_memory_than_its_shape(tmp_path: Path, name: str) -> None:
    path = written_v2(tmp_path / "a.zarr", compressors=V2[name])
    (path / "0.0.0").write_bytes(V2[name].encode(np.zeros(1 << 26, np.uint8)))
    volume = open_volume(path)
    volume.data[2:].compute(scheduler="sync")  # what is imported now does not count
    tracemalloc.start()
    with pytest.raises(VolumeError, match=r"0\.0\.0: .*unpacks to more than the 0\.1 MiB"):
        volume.data.compute(scheduler="sync")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize("shards", [None, (4, 6, 8)])
def test_nor_does_a_chunk_in_a_shard(tmp_path: Path, shards: Any) -> None:
    path = tmp_path / "a.zarr"
    big: Any = zarr.create_array(
        path, shape=(1 << 20, 6, 8), chunks=(1 << 20, 6, 8), shards=shards and (1 << 20, 6, 8),
        dtype="u1", compressors=zarr.codecs.ZstdCodec(),
    )  # fmt: skip
    big[...] = 1
    document = json.loads((path / "zarr.json").read_text())
    document["shape"] = [4, 6, 8]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [4, 6, 8]
    if shards:
        document["codecs"][0]["configuration"]["chunk_shape"] = [4, 6, 8]
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(VolumeError, match="unpacks to more"):
        open_volume(path).data.compute(scheduler="sync")


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def pickled(path: Path, where: str, mark: Path) -> Path:
    """An array whose only chunk runs code when it is decoded."""
    about: dict[str, Any] = json.loads((written_v2(path) / ".zarray").read_text())
    codec = numcodecs.Pickle()
    chunk = codec.encode(np.array([Malicious(mark)], dtype=object))
    about["chunks"] = about["shape"]
    about["compressor"], about["filters"] = None, None
    if where == "object":
        about |= {"dtype": "|O", "filters": [codec.get_config()], "fill_value": None}
    else:
        about[where] = codec.get_config() if where == "compressor" else [codec.get_config()]
    (path / ".zarray").write_text(json.dumps(about))
    (path / "0.0.0").write_bytes(chunk)
    return path


@pytest.mark.parametrize("where", ["object", "compressor", "filters"])
def test_no_array_is_unpickled(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)  # as of old versions
    path, mark = pickled(tmp_path / "a.zarr", where, tmp_path / "ran"), tmp_path / "ran"
    with pytest.raises(VolumeError, match=r"a\.zarr: .*'pickle'"):
        open_array(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "codec", [{"id": "json2"}, {"id": "vlen-utf8"}, {"id": "msgpack2"}, {"id": "nonsense"}]
)
def test_codecs_that_are_not_known_are_refused(tmp_path: Path, codec: dict[str, str]) -> None:
    path = written_v2(tmp_path / "a.zarr")
    about = json.loads((path / ".zarray").read_text()) | {"filters": [codec]}
    (path / ".zarray").write_text(json.dumps(about))
    with pytest.raises(VolumeError, match=codec["id"]):
        open_array(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("chunks", [0, 6, 8], "chunks|damaged"),
        ("chunks", [-1, 6, 8], "chunks|damaged"),
        ("shape", [4, 6], "damaged"),
        ("dtype", "<U5", "voxels of type|damaged"),
        ("dtype", "|V7", "voxels of type|damaged"),
        ("order", "X", "damaged"),
    ],
)
def test_metadata_that_make_no_sense_are_named(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = written_v2(tmp_path / "a.zarr")
    about = json.loads((path / ".zarray").read_text()) | {key: value}
    (path / ".zarray").write_text(json.dumps(about))
    with pytest.raises(VolumeError, match=message):
        open_array(path)


def test_json_that_is_nested_too_deep_is_damaged(tmp_path: Path) -> None:
    path = written_v2(tmp_path / "a.zarr")
    (path / ".zarray").write_text("[" * 100_000)
    with pytest.raises(MetadataError, match="damaged"):
        open_array(path)


def test_a_file_far_larger_than_its_chunk_is_not_read(tmp_path: Path) -> None:
    path = written_v2(tmp_path / "a.zarr", compressors=None)
    os.truncate(path / "0.0.0", 96 << 30)
    with pytest.raises(VolumeError, match=r"0\.0\.0.* 98,304\.0 MiB"):
        open_volume(path).data.compute(scheduler="sync")


@pytest.mark.parametrize("name", [".zarray", "0.0.0"])
def test_a_device_among_the_files_is_not_read(tmp_path: Path, name: str) -> None:
    path = written_v2(tmp_path / "a.zarr")
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    with pytest.raises(VolumeError, match="neither a file nor a folder"):
        open_volume(path).data.compute(scheduler="sync")


def test_a_folder_in_place_of_a_chunk_is_not_a_chunk_that_was_never_written(
    tmp_path: Path,
) -> None:
    path = written_v2(tmp_path / "a.zarr")
    (path / "0.0.0").unlink()
    (path / "0.0.0").mkdir()
    with pytest.raises(VolumeError, match="a folder, where a file should be"):
        open_volume(path).data.compute(scheduler="sync")


def test_a_shard_of_too_many_chunks_is_refused(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", shape=(1 << 24,), chunks=(1,), shards=(1 << 24,), dtype="u1"
    )
    with pytest.raises(VolumeError, match="larger chunks"):
        open_array(tmp_path / "a.zarr")


def test_a_group_that_is_no_json_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(MetadataError, match="damaged"):
        open_group(tmp_path)
