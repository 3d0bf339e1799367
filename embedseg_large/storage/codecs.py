"""What untrusted zarr arrays may make this machine do.

An array names the type of its voxels and the codecs of its chunks, and thereby the code that runs
on its bytes. `checked` refuses everything but numbers, and every codec that does more than compute,
before a chunk is read. It also bounds the memory of a chunk by what the metadata declare: a file of
3 MB can unpack to 3 GB.

Imports zarr, which takes a second: import this module where it is needed.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.storage import LocalStore

from embedseg_large.errors import VolumeError
from embedseg_large.files import sync

Bytes = Any
"""Any object with the buffer protocol."""
Unpack = Callable[[memoryview, int, Mapping[str, Any]], Bytes | None]
"""Decompresses, given the maximum number of bytes and the codec's options; returns None for
more."""

CHECKSUMS = frozenset({"crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"})
_SAME_SIZE = CHECKSUMS | {"bytes", "transpose", "shuffle", "sharding_indexed"}
FILTERS = _SAME_SIZE | {
    *("delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "astype")
}
_TYPES = ("dtype", "astype", "encode_dtype", "decode_dtype")
"""Filter options that name a type."""
_MOST_INNER = 1 << 22
"""Maximum number of chunks in a shard, whose index of 16 bytes per chunk is read as a whole."""
_DOCUMENT = 1 << 28
"""Maximum bytes of a metadata document, including consolidated metadata."""
_WIDEST = 16
"""Bytes of the widest number to which a filter may have converted a voxel."""
_SLACK = 1 << 16
"""Allowance for headers and checksums, in bytes."""


def checked(array: Any, where: str) -> Any:
    """Check that the chunks of an open zarr array can be read safely, and return it.

    Parameters
    ----------
    array
        A newly opened ``zarr.Array``; its codecs are bounded in place.
    where
        Location, for error messages.

    Raises
    ------
    VolumeError
        If its voxels are not numbers, a codec is not known to be harmless, or the shapes of its
        chunks make no sense.
    """
    check_type(array.dtype, where)
    _check_chunks(array, where)
    pipeline = array.async_array.codec_pipeline
    names = _check_codecs(pipeline, where)
    voxels, outer, size = (
        prod(array.chunks),
        prod(array.shards or array.chunks),
        array.dtype.itemsize,
    )
    width = size if names <= _SAME_SIZE | set(UNPACK) else max(size, _WIDEST)
    chunk = voxels * width + _SLACK
    shard = chunk if array.shards is None else 2 * outer * width + 20 * (outer // voxels) + _SLACK
    bounded = [_bounded(codec, chunk, shard, where) for codec in pipeline]
    object.__setattr__(array.async_array, "codec_pipeline", type(pipeline).from_codecs(bounded))
    if hasattr(array.store, "most"):
        array.store.most = 2 * shard
    return array


def check_type(dtype: np.dtype[Any], where: str) -> None:
    """Refuse voxels that are not numbers; objects would be unpickled.

    Raises
    ------
    VolumeError
        If the type is neither boolean, integer nor real.
    """
    if dtype.kind not in "buif":
        raise VolumeError(
            f"{where}: voxels of type {dtype} are not integers or floats; rewrite it as numbers"
        )


def _check_chunks(array: Any, where: str) -> None:
    for what, shape in (("chunks", array.chunks), ("shards", array.shards)):
        if shape is not None and not all(n >= 1 for n in shape):
            raise VolumeError(
                f"{where}: {what} of shape {tuple(shape)}; restore the metadata, where each number "
                "is 1 or more"
            )
    if array.shards is not None and prod(array.shards) // prod(array.chunks) > _MOST_INNER:
        raise VolumeError(
            f"{where}: a shard of {tuple(array.shards)} holds more than {_MOST_INNER:,} chunks of "
            f"{tuple(array.chunks)}; write it with larger chunks"
        )


def _check_codecs(codecs: Iterable[Any], where: str) -> set[str]:
    """Return the names of all codecs, if each is known to be harmless."""
    found = dict(_named(codecs))
    for name, options in found.items():
        if name not in FILTERS and name not in UNPACK:
            raise VolumeError(
                f"{where}: codec {name!r} is not supported: it could run code from the file, "
                f"or use any amount of memory; write it with one of {', '.join(sorted(UNPACK))}"
            )
        for key in _TYPES:
            if isinstance(options.get(key), str):
                check_type(np.dtype(options[key]), where)
    return set(found)


def _named(codecs: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield names and options of codecs, including nested ones."""
    for codec in codecs:
        if isinstance(codec, V2Codec):
            inner = (*(codec.filters or ()), codec.compressor)
            configs = (c.get_config() for c in inner if c is not None)
            yield from ((str(config.get("id")), config) for config in configs)
            continue
        yield _name(codec), codec.to_dict().get("configuration") or {}
        if isinstance(codec, ShardingCodec):
            yield from _named(codec.codecs)
            yield from _named(codec.index_codecs)


def _name(codec: Any) -> str:
    return str(codec.to_dict()["name"]).removeprefix("numcodecs.")


def _bounded(codec: Any, chunk: int, shard: int, where: str) -> Any:
    """Bound a codec of a pipeline to the bytes of an (inner) chunk or of a shard."""
    if isinstance(codec, V2Codec):
        filters = codec.filters and tuple(_bounded_numcodec(f, chunk, where) for f in codec.filters)
        compressor = codec.compressor and _bounded_numcodec(codec.compressor, chunk, where)
        return replace(codec, filters=filters, compressor=compressor)
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(_bounded(c, chunk, chunk, where) for c in codec.codecs))
    name = _name(codec)
    return _BoundedCodec(codec, name, shard, where) if name in UNPACK else codec


def _bounded_numcodec(codec: Any, most: int, where: str) -> Any:
    name = str(codec.get_config().get("id"))
    return _BoundedNumcodec(codec, name, most, where) if name in UNPACK else codec


def unpacked(name: str, data: Bytes, most: int, where: str, options: Mapping[str, Any]) -> Bytes:
    """Decompress, but never to more than `most` bytes.

    Parameters
    ----------
    name
        One of `UNPACK`.
    data
        The compressed bytes.
    most
        Maximum number of decompressed bytes.
    where
        Location, for error messages.
    options
        Configuration of the codec.

    Raises
    ------
    VolumeError
        If there are more.
    """
    found = UNPACK[name](memoryview(data).cast("B"), most, options)
    if found is None or len(memoryview(found).cast("B")) > most:
        raise VolumeError(
            f"{where}: a chunk unpacks to more than the {most / 2**20:,.1f} MiB that the array's "
            "metadata declare; restore it or write it again"
        )
    return found


def _unpack_blosc(data: memoryview, most: int, _: Mapping[str, Any]) -> Bytes | None:
    from numcodecs.blosc import Blosc

    return Blosc().decode(data) if struct.unpack_from("<I", data, 4)[0] <= most else None


def _unpack_lz4(data: memoryview, most: int, _: Mapping[str, Any]) -> Bytes | None:
    from numcodecs.lz4 import LZ4

    return LZ4().decode(data) if struct.unpack_from("<I", data)[0] <= most else None


def _unpack_zstd(data: Bytes, most: int, _: Mapping[str, Any]) -> Bytes | None:
    from imagecodecs import ZstdError, zstd_decode

    try:
        return zstd_decode(data, out=most)
    except ZstdError as error:
        if "too small" in str(error):  # for the content of the frames
            return None
        raise


def _unpack_zlib(data: memoryview, most: int, _: Mapping[str, Any]) -> Bytes | None:
    stream = zlib.decompressobj()
    found = stream.decompress(data, most + 1)
    if not stream.eof and len(found) <= most:
        raise ValueError("incomplete or truncated zlib stream")
    return found


def _unpack_gzip(data: memoryview, most: int, _: Mapping[str, Any]) -> Bytes | None:
    with gzip.open(io.BytesIO(data)) as stream:
        return stream.read(most + 1)


def _unpack_bz2(data: memoryview, most: int, _: Mapping[str, Any]) -> Bytes | None:
    with bz2.open(io.BytesIO(data)) as stream:
        return stream.read(most + 1)


def _unpack_lzma(data: memoryview, most: int, options: Mapping[str, Any]) -> Bytes | None:
    about: Any = {key: options.get(key) for key in ("format", "filters")}
    with lzma.open(io.BytesIO(data), **about) as stream:
        return stream.read(most + 1)


UNPACK: Mapping[str, Unpack] = {
    "blosc": _unpack_blosc,
    "bz2": _unpack_bz2,
    "gzip": _unpack_gzip,
    "lz4": _unpack_lz4,
    "lzma": _unpack_lzma,
    "zlib": _unpack_zlib,
    "zstd": _unpack_zstd,
}
"""The compressors that can be read."""


@dataclass(frozen=True, slots=True)
class _BoundedNumcodec:
    """A compressor of zarr v2 that never unpacks to more than `most` bytes."""

    codec: Any
    name: str
    most: int
    where: str

    def decode(self, data: Bytes) -> Bytes:
        return unpacked(self.name, data, self.most, self.where, self.codec.get_config())

    def encode(self, data: Bytes) -> Bytes:
        return self.codec.encode(data)


@dataclass(frozen=True)
class _BoundedCodec(BytesBytesCodec):
    """A compressor of zarr v3 that never unpacks to more than `most` bytes."""

    codec: Any
    name: str
    most: int
    where: str
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        about: dict[str, Any] = self.codec.to_dict()
        return about

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        size: int = self.codec.compute_encoded_size(input_byte_length, chunk_spec)
        return size

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        options = self.to_dict().get("configuration") or {}
        data = chunk_bytes.as_numpy_array()
        found = await asyncio.to_thread(unpacked, self.name, data, self.most, self.where, options)
        return chunk_spec.prototype.buffer.from_bytes(found)

    async def _encode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await self.codec._encode_single(chunk_bytes, chunk_spec)


class GuardedStore(LocalStore):
    """A local folder that reads only regular files, and none far larger than expected."""

    most: int = 0
    """Maximum bytes of a chunk; metadata documents may be larger."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read a file or a part of it; None if there is none.

        Raises
        ------
        VolumeError
            If it is a folder, a device or the like, or far larger than expected.
        """
        await asyncio.to_thread(self._check, key, byte_range)
        return await super().get(key, prototype, byte_range)

    def _check(self, key: str, byte_range: Any) -> None:
        path = self.root / key
        if path.is_file():
            size = path.stat().st_size if byte_range is None else asked(byte_range)
            check_size(size, self.most, path)
        elif path.is_dir():
            raise VolumeError(f"{path}: a folder, where a file should be; restore the file")
        elif path.exists():
            raise VolumeError(f"{path}: neither a file nor a folder; remove it from the store")


class DurableStore(GuardedStore):
    """A `GuardedStore` in which written chunks survive a power failure."""

    async def set(self, key: str, value: Any) -> None:
        """Write a file, and flush it and its name to disk."""
        await super().set(key, value)
        await asyncio.to_thread(self._sync, key)

    def set_sync(self, key: str, value: Any) -> None:
        """Write a file synchronously."""
        super().set_sync(key, value)
        self._sync(key)

    def _sync(self, key: str) -> None:
        file = self.root / key
        sync(file)
        for folder in file.parents:  # some of them may be new
            sync(folder)
            if folder == self.root:
                return


def asked(byte_range: Any) -> int:
    """Return the number of bytes that a byte range requests; 0 if it is open-ended."""
    if hasattr(byte_range, "suffix"):
        return int(byte_range.suffix)
    return int(byte_range.end - byte_range.start) if hasattr(byte_range, "end") else 0


def check_size(size: int, most: int, where: object) -> None:
    """Refuse to read far more bytes than expected.

    Raises
    ------
    VolumeError
        If there are more than `most`, and more than any metadata document may have.
    """
    most = max(most, _DOCUMENT)
    if size > most:
        raise VolumeError(
            f"{where}: {size / 2**20:,.1f} MiB, where a chunk or document has at most "
            f"{most / 2**20:,.1f} MiB; restore the file or write the volume again"
        )
