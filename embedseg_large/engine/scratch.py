"""The scratch folder of a run: predictions, views of tiles, ranked ids.

::

    SCRATCH/
      run.json                          what the run is of
      journal/                          what is done, see `embedseg_large.engine.journal`
      predictions/Z/Y.X-VERSION         stored predictions of a core, (2·ndim + 1, *core) float16
      views/LEVEL/Z/Y.X-VERSION.npz     what each tile says, at each level of its halo
      layers/N-VERSION.npz              ascending ids of each layer

Every file belongs to one attempt of one task and is written whole. Folders are local, or prefixes
of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import background, channel_count
from embedseg_large.engine.views import EMPTY, ViewName, new_version
from embedseg_large.geometry import Box
from embedseg_large.io.objects import Folder, folder_at
from embedseg_large.stitching.tally import Entries
from embedseg_large.stitching.view import TileView
from embedseg_large.tiling.grid import Grid, Index

_TABLE = ("ids", "sizes", "core_sizes", "owned", "certain")


@dataclass(frozen=True, slots=True, eq=False)
class StoredView:
    """What a tile says, as it is kept."""

    arrays: Mapping[str, NDArray[Any]]
    """The table of instances, and packed labels; each is decoded when it is asked for."""

    @property
    def exact(self) -> bool:
        """Whether the tile is certain of every voxel of its core."""
        return bool(self.arrays["exact"])

    def core(self, shape: Sequence[int]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Local labels of the core, and the id of each label (0 for background)."""
        labels = _unpack(self.arrays["core"].tobytes(), np.uint32, shape)
        return labels, _names(self.arrays["ids"])

    def seam(self, number: int, shape: Sequence[int]) -> NDArray[np.uint64]:
        """Ids of the voxels of the tile's seam region `number`."""
        labels = _unpack(self.arrays[f"seam{number}"].tobytes(), np.uint32, shape)
        ids: NDArray[np.uint64] = _names(self.arrays["ids"])[labels]
        return ids

    def entries(self, number: int) -> Entries:
        """What the tile, of a number of its own, says about the instances it sees."""
        table = {column: self.arrays[column] for column in _TABLE}
        return Entries(**table, tile=np.full(table["ids"].size, number))


@dataclass(frozen=True, slots=True)
class Scratch:
    """Names and formats of everything a run keeps until it is finished."""

    folder: Folder
    kept: Folder | None = None
    """Where predictions are, if they outlive the run."""

    @classmethod
    def at(cls, path: str) -> Scratch:
        """The scratch folder at a path or URL, which is never made by writing into it.

        A task that outlived its run must not begin a new one.
        """
        return cls(folder_at(path).anchored())

    @property
    def path(self) -> str:
        """Path or URL of the folder."""
        return self.folder.path

    @property
    def predictions(self) -> Folder:
        """Where predictions are."""
        return self.folder.below("predictions") if self.kept is None else self.kept

    def below(self, name: str) -> Scratch:
        """The part of it that belongs to one timepoint."""
        kept = None if self.kept is None else self.kept.below(name)
        return Scratch(self.folder.below(name), kept)

    def remove(self) -> None:
        """Delete the folder and all in it."""
        self.folder.remove_all()

    def write_prediction(self, index: Index, stored: NDArray[np.float16]) -> int:
        """Keep the predictions, (2·ndim + 1, *core), of one core; returns their version."""
        version = new_version()
        self.predictions.write(_prediction(index, version), _pack(stored))
        return version

    def read_prediction(
        self, grid: Grid, box: Box, versions: NDArray[np.uint32]
    ) -> NDArray[np.float16]:
        """Predictions of any region.

        Parameters
        ----------
        grid
            Of the predicted tiles.
        box
            The region.
        versions
            Of the tiles in ``grid.span(box)``.

        Returns
        -------
        ``(2·ndim + 1, *box)``
        """
        whole = background(box.shape)
        origin = [a for a, _ in grid.span(box)]
        found = {}
        for index in grid.touching(box):
            version = int(versions[tuple(i - o for i, o in zip(index, origin, strict=True))])
            if version > EMPTY:
                found[index] = _prediction(index, version)
        for index, data in zip(found, self.predictions.read_all(found.values()), strict=True):
            core = grid.tile(index).core
            stored = _unpack(data, np.float16, (channel_count(box.ndim), *core.shape))
            common = core.intersect(box)
            every = slice(None)
            whole[(every, *common.slices_in(box))] = stored[(every, *common.slices_in(core))]
        return whole

    def write_view(self, index: Index, level: int, view: TileView) -> int:
        """Keep what a tile says at a level of its halo; returns its version."""
        name = ViewName(index, level, new_version())
        arrays = {n: getattr(view, n) for n in _TABLE} | {"exact": np.array(view.exact)}
        pieces = {"core": view.core} | {f"seam{i}": seam for i, seam in enumerate(view.seams)}
        packed = {n: np.frombuffer(_pack(p), dtype=np.uint8) for n, p in pieces.items()}
        self._save(_view(name), arrays | packed)
        return name.version

    def read_views(self, names: Iterable[ViewName]) -> Iterator[StoredView]:
        """What tiles say, in the order of their names."""
        for data in self.folder.read_all(map(_view, names)):
            yield StoredView(np.load(BytesIO(data)))

    def write_layer(self, layer: int, ids: NDArray[np.uint64], sure: NDArray[np.bool_]) -> int:
        """Keep the ascending ids of a layer, and whether their owner is certain of them."""
        version = new_version()
        self._save(_layer(layer, version), {"ids": ids, "sure": sure})
        return version

    def read_layer(self, layer: int, version: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Ascending ids of a layer, and whether their owner is certain of them."""
        with self._load(_layer(layer, version)) as file:
            return file["ids"], file["sure"]

    def _save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        buffer = BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
        self.folder.write(name, buffer.getvalue())

    def _load(self, name: str) -> Any:
        return np.load(BytesIO(self.folder.read(name)))


def _place(index: Index) -> str:
    """A folder for each layer of tiles, so that none holds a million files."""
    first, *rest = index
    return f"{first}/{'.'.join(map(str, rest))}"


def _prediction(index: Index, version: int) -> str:
    return f"{_place(index)}-{version:08x}"


def _view(name: ViewName) -> str:
    return f"views/{name.level}/{_place(name.tile)}-{name.version:08x}.npz"


def _layer(layer: int, version: int) -> str:
    return f"layers/{layer}-{version:08x}.npz"


def _names(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(1, np.uint64), ids])


def _pack(values: NDArray[Any]) -> bytes:
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
    return bytes(codec.encode(np.ascontiguousarray(values)))


def _unpack(packed: bytes, dtype: Any, shape: Sequence[int]) -> NDArray[Any]:
    from numcodecs import Blosc

    flat: NDArray[Any] = np.frombuffer(Blosc().decode(packed), dtype=dtype)
    return flat.reshape(shape)
