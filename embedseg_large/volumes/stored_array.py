"""Arrays that stay on disk, and can be reopened in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import CorruptChunkError, UnreachableError, VolumeError, cause
from embedseg_large.geometry import raster
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import is_remote

Index = tuple[int | slice, ...]
_MANY = 2**16
"""Number of files from which those that exist are listed, instead of asking for each (1 to 2 s)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredArray:
    """An array that is opened on first read, in the process that reads it.

    Pickling includes only the fields, never an open file. The class is sufficiently array-like
    (`shape`, `dtype`, `ndim`, indexing) for ``dask.array.from_array``.
    """

    opener: Callable[[], Any] = field(repr=False)  # it may hold a signed URL
    """Opens the array: a picklable callable without arguments."""
    location: str
    """Location of the array, for error messages."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """In native byte order, for any order on disk."""
    chunks: tuple[int, ...] | None = None
    """Smallest unit that can be decoded separately: a zarr chunk, within its shard if sharded."""
    shards: tuple[int, ...] | None = None
    """Shape of a file that holds many chunks."""
    fill_value: Any = None
    """Value of voxels that were never written; None if the format has no such concept."""
    zarr_format: int | None = None
    members: tuple[str, ...] = ()
    """Paths of other files with voxels, for an image in a set of files."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @cached_property
    def array(self) -> Any:
        """The open array."""
        return self.opener()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "array"}

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        return normalize_token((type(self).__name__, self.opener, self.location))

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Read a region.

        Raises
        ------
        CorruptChunkError
            If stored voxels cannot be decoded; the message names the file.
        UnreachableError
            If a server gives no proper response.
        """
        self._check_memory()
        try:
            values = self._read(index)
        except MemoryError as error:
            raise VolumeError(
                f"{self.location}: reading {index} needs more memory than available; read a "
                "smaller region, or rewrite the volume with smaller chunks"
            ) from error
        except UnreachableError:
            raise
        except Exception as error:
            raise self._corrupt(index, error) from error
        self._check_shards(index)
        return values

    def _check_memory(self) -> None:
        """Refuse chunks that exceed the memory, which damaged metadata may declare."""
        size = prod(self.chunks or ()) * self.dtype.itemsize
        if size > _memory():
            raise VolumeError(
                f"{self.location}: a chunk of {self.chunks} takes {size / 2**30:,.1f} GiB, more "
                f"than the {_memory() / 2**30:,.1f} GiB of this machine; choose smaller chunks"
            )

    def _read(self, index: Index) -> NDArray[Any]:
        values = self.array[index]
        if hasattr(values, "compute"):  # dask: not on the cluster whose worker may be reading
            values = values.compute(scheduler="threads")
        return np.asarray(values, dtype=self.dtype)

    def _corrupt(self, index: Index, error: Exception) -> CorruptChunkError:
        """Find the file that cannot be read, one file at a time."""
        for cell in self._files(index):
            try:
                self._read(self._region(cell))
            except Exception as found:
                return CorruptChunkError(
                    f"{self._name(cell)}: chunk cannot be decoded ({cause(found)}); "
                    "restore the file or write the volume again"
                )
        return CorruptChunkError(f"{self.location}: reading {index} failed ({cause(error)})")

    def _check_shards(self, index: Index) -> None:
        """Refuse shards of zero bytes, which zarr treats as never written."""
        if self.shards is None or not Path(self.location).is_dir():
            return
        for cell in self._files(index):
            file = Path(self._name(cell))
            if file.exists() and file.stat().st_size == 0:
                raise CorruptChunkError(
                    f"{file}: the shard is a file of 0 bytes; "
                    "restore the file or write the volume again"
                )

    def stamp(self, index: Index) -> int:
        """Return a number below 2³² that changes when files of a region are rewritten.

        It is computed from sizes and modification times on a disk. 0 for arrays in memory, and in
        object stores, where it would take one request per chunk: see `digest`.
        """
        if self.zarr_format is None:
            paths: Iterable[Path] = [Path(self.location), *map(Path, self.members)]
        elif Path(self.location).is_dir():
            paths = self._paths(index)
        else:
            return 0
        seen = 0
        for path in paths:
            with suppress(OSError):  # missing: never written, or an array in memory
                about = path.stat()
                seen = crc32(f"{path.name} {about.st_size} {about.st_mtime_ns}".encode(), seen)
        return seen

    @cached_property
    def digest(self) -> str:
        """Return a digest that changes when any file of an array in an object store is rewritten.

        Empty for all other arrays, and if the files cannot be listed. Computed once, because large
        arrays need thousands of requests: a run refers to the state at its start.
        """
        if self.zarr_format is None or not is_remote(self.location):
            return ""
        return RemoteFolder.at(self.location).digest()

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of what one file holds: a shard, or a chunk, or everything."""
        return self.shards or self.chunks or self.shape

    def _files(self, index: Index) -> Iterator[tuple[int, ...]]:
        """Grid positions of the files that a region touches."""
        return raster(self._cells(index))

    def _paths(self, index: Index) -> Iterator[Path]:
        """Paths of the files of a region; if these are too many to ask for, of all that exist."""
        if prod(map(len, self._cells(index))) > _MANY:
            return filter(Path.is_file, sorted(Path(self.location).rglob("*")))
        return (Path(self._name(cell)) for cell in self._files(index))

    def _cells(self, index: Index) -> list[range]:
        """Ranges of grid positions of the files that a region touches."""
        ranges = []
        for at, size, n in zip(index, self.shape, self.files, strict=False):
            start, stop, _ = at.indices(size) if isinstance(at, slice) else (at, at + 1, 1)
            ranges.append(range(start // n, -(-stop // n)))
        return ranges

    def _region(self, cell: tuple[int, ...]) -> Index:
        sizes = zip(cell, self.files, self.shape, strict=True)
        return tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in sizes)

    def _name(self, cell: tuple[int, ...]) -> str:
        if self.zarr_format is None:
            corner = tuple(i * n for i, n in zip(cell, self.files, strict=True))
            return f"{self.location}, from voxel {corner}"
        return f"{self.location.rstrip('/')}/{self.array.metadata.encode_chunk_key(cell)}"


def wrap_array(array: Any, opener: Callable[[], Any], location: str) -> StoredArray:
    """Describe an open zarr, dask or numpy array.

    Parameters
    ----------
    array
        The open array; only its metadata is read.
    opener
        Function that reopens it.
    location
        Its location, for error messages.
    """
    chunks = getattr(array, "chunks", None)
    metadata = getattr(array, "metadata", None)  # only zarr arrays have it
    if chunks and not isinstance(chunks[0], int):  # dask: the sizes of all chunks along each axis
        chunks = array.chunksize
    return StoredArray(
        opener=opener,
        location=location,
        shape=tuple(int(n) for n in array.shape),
        dtype=np.dtype(array.dtype).newbyteorder("="),
        chunks=None if not chunks else tuple(int(n) for n in chunks),
        shards=getattr(array, "shards", None),
        fill_value=None if metadata is None else array.fill_value,
        zarr_format=None if metadata is None else int(metadata.zarr_format),
    )


@cache
def _memory() -> int:
    """Bytes of main memory of this machine."""
    import psutil

    return int(psutil.virtual_memory().total)
