"""The scratch folder of a run: predictions, results of tiles, ranked ids.

::

    SCRATCH/
      run.json                          facts of the run
      journal/                          finished work, see `embedseg_large.runs.journal`
      predictions/Z/Y.X-VERSION         predictions of a core, see below
      views/LEVEL/Z/Y.X-VERSION.npz     the result of each tile, at each level of its halo: labels
      tables/LEVEL/Z/Y.X-VERSION.npz    its table of instances, which is far smaller
      layers/N-VERSION.npz              the instances of each layer, ascending
      changes/Z/Y.X-VERSION.npz         what becomes of the instances of a tile that are cleaned

Every file belongs to one attempt of one task and is written whole. Folders are local, or prefixes
of a bucket. The predictions of a core are stored as one bit per voxel, and the channels of
kept voxels::

    bytes 0-7   length of the next part, little endian
    bits        a packed bit for each voxel of the core, in raster order: 0 for background
    values      the packed channels, (channels, voxels with bit 1) float16

Most of an embryo is background. It costs neither space nor time to pack, and a reader decodes one
byte per voxel and the values, never all channels of a whole tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import background
from embedseg_large.geometry import Box
from embedseg_large.segmentation.scratch.versions import EMPTY, TileVersion, new_version
from embedseg_large.stitching.tally import Entries, Roster
from embedseg_large.stitching.tile_result import TileResult
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at
from embedseg_large.tiling.grid import Grid, Index

_LENGTH = 8
_LOWEST = background((1,))[-1, 0]
"""Logit of background, see `embedseg_large.embedding.keep_above`."""


def pack_prediction(stored: NDArray[np.float16]) -> bytes:
    """Pack stored predictions, (channels, *core), at least one voxel of which is kept."""
    kept = stored[-1] != _LOWEST
    bits = _pack(np.packbits(kept))
    return len(bits).to_bytes(_LENGTH, "little") + bits + _pack(stored[:, kept])


def unpack_prediction(
    data: bytes, shape: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
    """Unpack the predictions of a core.

    Parameters
    ----------
    data
        The result of `pack_prediction`.
    shape
        Shape of the core.

    Returns
    -------
    kept, values
        ``(*core)``: which voxels were kept. ``(channels, voxels)``: their channels, in raster
        order. All others are background.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    bits = np.unpackbits(_unpack(data[_LENGTH:end], np.uint8), count=prod(shape))
    values = _unpack(data[end:], np.float16).reshape(-1, np.count_nonzero(bits))
    return bits.view(np.bool_).reshape(shape), values


def _pack(values: NDArray[Any]) -> bytes:
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
    return bytes(codec.encode(np.ascontiguousarray(values)))


def _unpack(packed: bytes, dtype: Any) -> NDArray[Any]:
    from numcodecs import Blosc

    return np.frombuffer(Blosc().decode(packed), dtype=dtype)


_COLUMNS = ("ids", "sizes", "core_sizes", "owned", "certain", "seediness")
"""Columns of the table of instances."""
_CHANGES = ("dropped", "enclosed", "names", "holes")
"""Columns of the changes to instances, see `embedseg_large.clustering.clean.Changes`."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredResult:
    """The stored result of a tile."""

    arrays: Mapping[str, NDArray[Any]]
    """Names of instances, and packed labels; each is decoded on access."""

    @property
    def exact(self) -> bool:
        """Whether the tile is certain of every voxel of its core."""
        return bool(self.arrays["exact"])

    def core(self, shape: Sequence[int]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint64]]:
        """Local labels of the core, and the id of each label (0 for background)."""
        return self._labels("core", shape), _names(self.arrays["ids"])

    def seam(self, number: int, shape: Sequence[int]) -> NDArray[np.uint64]:
        """Ids of the voxels of the tile's seam region `number`."""
        labels, names = self.local_seam(number, shape)
        ids: NDArray[np.uint64] = names[labels]
        return ids

    def local_seam(
        self, number: int, shape: Sequence[int]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint64]]:
        """Local labels of a seam, and the id of each label (0 for background)."""
        return self._labels(f"seam{number}", shape), _names(self.arrays["ids"])

    def _labels(self, name: str, shape: Sequence[int]) -> NDArray[np.unsignedinteger]:
        ids = self.arrays["ids"]
        return _unpack_labels(self.arrays[name].tobytes(), _local_dtype(ids.size), shape)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Names and formats of everything that a run keeps until it is finished."""

    folder: Folder
    kept: Folder | None = None
    """Folder of predictions, if they outlive the run."""

    @classmethod
    def at(cls, path: str, kept: Folder | None = None) -> Scratch:
        """Return the scratch folder at a path or URL, which is never created by writing into it.

        A task that outlives its run must not create a new folder.
        """
        return cls(folder_at(path).anchored(), kept)

    @property
    def path(self) -> str:
        """Path or URL of the folder."""
        return self.folder.path

    @property
    def predictions(self) -> Folder:
        """Folder of predictions."""
        return self.folder.below("predictions") if self.kept is None else self.kept

    def below(self, name: str) -> Scratch:
        """Return the part that belongs to one timepoint."""
        kept = None if self.kept is None else self.kept.below(name)
        return Scratch(self.folder.below(name), kept)

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        self.folder.remove_all()

    def write_prediction(self, index: Index, stored: NDArray[np.float16]) -> int:
        """Store the predictions of one core, (2·ndim + 1, *core); returns their version."""
        version = new_version()
        data = pack_prediction(stored)
        self.predictions.write(_prediction(index, version), data, durable=True)
        return version

    def read_prediction(
        self, grid: Grid, box: Box, versions: NDArray[np.uint32], channels: int | None = None
    ) -> NDArray[np.float16]:
        """Read the predictions of any region.

        Parameters
        ----------
        grid
            Grid of the predicted tiles.
        box
            The region.
        versions
            Versions of the tiles in ``grid.span(box)``.
        channels
            Number of channels; None: that of an embedding.

        Returns
        -------
        ``(channels, *box)``
        """
        whole = background(box.shape, channels)
        origin = [a for a, _ in grid.span(box)]
        found = {}
        for index in grid.touching(box):
            version = int(versions[tuple(i - o for i, o in zip(index, origin, strict=True))])
            if version > EMPTY:
                found[index] = _prediction(index, version)
        for index, data in zip(found, self.predictions.read_all(found.values()), strict=True):
            core = grid.tile(index).core
            common = core.intersect(box)
            kept, values = unpack_prediction(data, core.shape)
            wanted = np.zeros_like(kept)
            wanted[common.slices_in(core)] = True
            part = whole[(slice(None), *common.slices_in(box))]
            part[:, kept[common.slices_in(core)]] = values[:, wanted[kept]]
        return whole

    def write_result(self, index: Index, level: int, result: TileResult) -> int:
        """Store the result of a tile at a level of its halo; returns its version."""
        name = TileVersion(index, level, new_version())
        arrays = {"ids": result.ids, "exact": np.array(result.exact)}
        pieces = {"core": result.core} | {f"seam{i}": seam for i, seam in enumerate(result.seams)}
        dtype = _local_dtype(result.ids.size)
        packed = {n: np.frombuffer(_pack_labels(p, dtype), np.uint8) for n, p in pieces.items()}
        self._save(_result(name), arrays | packed)
        self._save(_table(name), {column: getattr(result, column) for column in _COLUMNS})
        return name.version

    def read_results(self, names: Iterable[TileVersion]) -> Iterator[StoredResult]:
        """Yield the results of tiles, in the order of their names."""
        for data in self.folder.read_all(map(_result, names)):
            yield StoredResult(np.load(BytesIO(data)))

    def read_entries(
        self, names: Iterable[TileVersion], numbers: Iterable[int]
    ) -> Iterator[Entries]:
        """Yield the instances in the results of tiles, without reading labels of voxels.

        Parameters
        ----------
        names
            Names of the results.
        numbers
            Numbers of their tiles.
        """
        files = self.folder.read_all(map(_table, names))
        for number, data in zip(numbers, files, strict=True):
            table = np.load(BytesIO(data))
            columns = {column: table[column] for column in _COLUMNS}
            yield Entries(**columns, tile=np.full(columns["ids"].size, number))

    def write_layer(self, layer: int, roster: Roster) -> int:
        """Store the instances of a layer; returns their version."""
        version = new_version()
        self._save(_layer(layer, version), roster._asdict())
        return version

    def read_layer(self, layer: int, version: int) -> Roster:
        """Instances of a layer."""
        with self._load(_layer(layer, version)) as file:
            return Roster(*(file[column] for column in Roster._fields))

    def write_changes(self, index: Index, columns: Sequence[NDArray[Any]]) -> int:
        """Store the changes to the instances of a tile; returns the version."""
        version = new_version()
        name = _changes(TileVersion(index, 0, version))
        self._save(name, dict(zip(_CHANGES, columns, strict=True)))
        return version

    def read_changes(self, names: Iterable[TileVersion]) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield the changes to the instances of tiles, column by column."""
        for data in self.folder.read_all(map(_changes, names)):
            table = np.load(BytesIO(data))
            yield tuple(table[column] for column in _CHANGES)

    def _save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        buffer = BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
        self.folder.write(name, buffer.getvalue(), durable=True)

    def _load(self, name: str) -> Any:
        return np.load(BytesIO(self.folder.read(name)))


def _place(index: Index) -> str:
    """Return a file name with one folder per layer of tiles, so that none holds a million files."""
    first, *rest = index
    return f"{first}/{'.'.join(map(str, rest))}"


def _prediction(index: Index, version: int) -> str:
    return f"{_place(index)}-{version:08x}"


def _result(name: TileVersion) -> str:
    return f"views/{_said(name)}"


def _table(name: TileVersion) -> str:
    return f"tables/{_said(name)}"


def _changes(name: TileVersion) -> str:
    return f"changes/{_place(name.tile)}-{name.version:08x}.npz"


def _said(name: TileVersion) -> str:
    return f"{name.level}/{_place(name.tile)}-{name.version:08x}.npz"


def _layer(layer: int, version: int) -> str:
    return f"layers/{layer}-{version:08x}.npz"


def _local_dtype(count: int) -> np.dtype[np.unsignedinteger]:
    """Return the dtype of labels 1..count of a tile: 16 bits halve the amount of data to pack."""
    return np.dtype(np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32)


def _names(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(1, np.uint64), ids])


def _pack_labels(labels: NDArray[np.unsignedinteger], dtype: np.dtype[Any]) -> bytes:
    """Pack labels without shuffling, which takes longer and breaks up runs of equal labels."""
    from numcodecs import Zstd

    return bytes(Zstd(level=1).encode(np.ascontiguousarray(labels, dtype=dtype)))


def _unpack_labels(packed: bytes, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    from numcodecs import Zstd

    flat: NDArray[Any] = np.frombuffer(Zstd().decode(packed), dtype=dtype)
    return flat.reshape(shape)
