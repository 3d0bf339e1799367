"""The scratch folder of a run: predictions, views of tiles, ranked ids.

::

    SCRATCH/
      predictions/             one zarr array (2·ndim + 1, *volume) float16, a chunk = a core
      views/LEVEL/Z/Y.X.npz    what each tile says, at each level of its halo
      layers/N.npz             ascending ids of each layer

Every file belongs to one task and is written whole, under a temporary name, then renamed. A task
that runs twice writes the same bytes twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import RunError
from embedseg_large.geometry import Box
from embedseg_large.io.group import output_errors
from embedseg_large.stitching.tally import Entries
from embedseg_large.stitching.view import TileView
from embedseg_large.tiling.grid import Grid, Index

_TABLE = ("ids", "sizes", "core_sizes", "owned", "certain")


@dataclass(frozen=True, slots=True)
class Scratch:
    """Names and formats of everything a run keeps until it is finished."""

    path: str

    def create(self, channels: int, predictions: Grid) -> None:
        """Make the folder and the empty array of predictions.

        Raises
        ------
        OutputError
            When the folder cannot be written.
        """
        import zarr
        from zarr.codecs import BloscCodec

        with output_errors(self.path):
            Path(self.path).mkdir(parents=True, exist_ok=True)
            zarr.create_array(
                self._predictions,
                shape=(channels, *predictions.shape),
                chunks=(channels, *predictions.step),
                dtype=np.float16,
                compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
                fill_value=0,
                overwrite=True,
            )

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _predictions(self) -> str:
        return str(Path(self.path) / "predictions")

    def write_prediction(self, core: Box, stored: NDArray[np.float16]) -> None:
        """Keep the predictions, (2·ndim + 1, *core), of one core."""
        import zarr

        with output_errors(self.path):
            array: Any = zarr.open_array(self._predictions, mode="r+")
            array[(slice(None), *core.slices)] = stored

    def read_prediction(self, box: Box) -> NDArray[np.float16]:
        """Predictions, (2·ndim + 1, *box), of any region."""
        import zarr

        array: Any = zarr.open_array(self._predictions, mode="r")
        stored: NDArray[np.float16] = array[(slice(None), *box.slices)]
        return stored

    def _view(self, index: Index, level: int) -> Path:
        first, *rest = index
        return Path(self.path, "views", str(level), str(first), ".".join(map(str, rest)) + ".npz")

    def write_view(self, index: Index, level: int, view: TileView) -> None:
        """Keep what a tile says at a level of its halo."""
        arrays = {name: getattr(view, name) for name in _TABLE} | {"exact": np.array(view.exact)}
        pieces = {"core": view.core} | {f"seam{i}": seam for i, seam in enumerate(view.seams)}
        self._save(self._view(index, level), arrays | {n: _pack(p) for n, p in pieces.items()})

    def read_core(
        self, index: Index, level: int, shape: Sequence[int]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Local labels of a tile's core, and the id of each label (0 for background)."""
        with np.load(self._view(index, level)) as file:
            return _unpack(file["core"], shape), _names(file["ids"])

    def read_seam(
        self, index: Index, level: int, number: int, shape: Sequence[int]
    ) -> NDArray[np.uint64]:
        """Ids of the voxels of a tile's seam region `number`."""
        with np.load(self._view(index, level)) as file:
            labels = _unpack(file[f"seam{number}"], shape)
            return _names(file["ids"])[labels]

    def read_exact(self, index: Index, level: int) -> bool:
        """Whether a tile is certain of every voxel of its core."""
        with np.load(self._view(index, level)) as file:
            return bool(file["exact"])

    def read_entries(self, index: Index, level: int, number: int) -> Entries:
        """What a tile, of a number of its own, says about the instances it sees."""
        with np.load(self._view(index, level)) as file:
            table = {name: file[name] for name in _TABLE}
        return Entries(**table, tile=np.full(table["ids"].size, number))

    def _save(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        if not Path(self.path).is_dir():  # a task that outlived its run must not begin a new one
            raise RunError(f"{self.path} is gone: the run has ended")
        with output_errors(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            Path(file.name).replace(path)

    def _layer(self, layer: int) -> Path:
        return Path(self.path, "layers", f"{layer}.npz")

    def write_layer(self, layer: int, ids: NDArray[np.uint64], sure: NDArray[np.bool_]) -> None:
        """Keep the ascending ids of a layer, and whether their owner is certain of them."""
        self._save(self._layer(layer), {"ids": ids, "sure": sure})

    def read_layer(self, layer: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Ascending ids of a layer, and whether their owner is certain of them."""
        with np.load(self._layer(layer)) as file:
            return file["ids"], file["sure"]

    def read_ids(self, layer: int) -> NDArray[np.uint64]:
        """Ascending ids of a layer."""
        return self.read_layer(layer)[0]


def _names(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(1, np.uint64), ids])


def _pack(labels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
    return np.frombuffer(codec.encode(np.ascontiguousarray(labels)), dtype=np.uint8)


def _unpack(packed: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint32]:
    from numcodecs import Blosc

    flat: NDArray[np.uint32] = np.frombuffer(Blosc().decode(packed.tobytes()), dtype=np.uint32)
    return flat.reshape(shape)
