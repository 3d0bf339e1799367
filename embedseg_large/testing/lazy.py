"""Label volumes larger than memory, and the oracle that knows them.

1. A periodic pattern of cells is made once: cells that leave it through a face come back through
   the opposite one.
2. The volume repeats the pattern, and each repetition of each cell has an id of its own, from 1
   on without gaps. Cells lie across the seams of the repetitions like anywhere else, so tiles
   meet no favourable lattice.
3. Shards are filled one at a time; a cell whose centre lies outside the volume is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.testing.ellipsoids import Ellipsoids, copies, count_for, paint, scatter
from embedseg_large.testing.objects import MAX_ID, Flaws, Objects
from embedseg_large.testing.oracle import OracleNetwork

_SHARD = {2: 1024, 3: 128}  # edge of a shard in voxels, by ndim; a chunk is half as wide


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """A volume of repetitions of a few cells.

    A cell of a repetition has a code: its number from 1 in its repetition, plus the raster index
    of the repetition times the numbers of one. A border of repetitions outside of the volume is
    counted too, for cells that reach in from there. Number 0 is background.
    """

    volume: Box
    cells: Ellipsoids
    code: NDArray[np.int64]
    """(*period) what a voxel adds to the code of its repetition."""

    @classmethod
    def make(cls, shape: Sequence[int], period: Sequence[int], cells: Ellipsoids) -> _Pattern:
        """Paint one repetition, with the cells of its neighbours reaching in."""
        owner = paint(period, copies(cells, period)).astype(np.int64)
        neighbour, number = np.divmod(owner - 1, len(cells))
        pattern = cls(Box.whole(shape), cells, np.zeros(period, np.int64))
        step = np.stack(np.unravel_index(np.maximum(neighbour, 0), (3,) * len(period))) - 1
        step = np.tensordot(pattern.strides, step, 1)
        pattern.code[...] = np.where(owner > 0, step + number + 1, 0)
        return pattern

    @property
    def counts(self) -> tuple[int, ...]:
        """Repetitions along each axis, those outside included."""
        axes = zip(self.volume.shape, self.code.shape, strict=True)
        return tuple(-(-n // p) + 2 for n, p in axes)

    @property
    def strides(self) -> NDArray[np.int64]:
        """What a step by one repetition along each axis adds to a code."""
        after = [prod(self.counts[axis + 1 :]) for axis in range(self.volume.ndim)]
        return np.array(after, np.int64) * (len(self.cells) + 1)

    def centres(self) -> NDArray[np.int64]:
        """Return the centre voxel of every code: (codes, ndim); of background, one outside."""
        corners = (np.moveaxis(np.indices(self.counts), 0, -1) - 1) * np.array(self.code.shape)
        own = np.rint(self.cells.centres).astype(np.int64)
        nowhere = np.full((1, self.volume.ndim), np.iinfo(np.int32).min)
        centres: NDArray[np.int64] = corners[..., None, :] + np.concatenate([nowhere, own])
        return centres.reshape(-1, self.volume.ndim)

    def codes(self, box: Box) -> NDArray[np.int64]:
        """Return the codes of a region."""
        axes = [np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)]
        codes = self.code[np.ix_(*(at % p for at, p in zip(axes, self.code.shape, strict=True)))]
        for at, p, stride in zip(np.ix_(*axes), self.code.shape, self.strides, strict=True):
            codes += (at // p + 1) * stride
        return codes


def lazy_embryo(
    path: str | Path,
    shape: Sequence[int],
    *,
    diameter: float = 16.0,
    density: float = 0.6,
    spacing: float = 0.75,
    anisotropy: float = 1.0,
    period: Sequence[int] | None = None,
    dtype: str | None = None,
    flaws: Flaws | None = None,
    tile: Sequence[int] | None = None,
    seed: int = 0,
) -> OracleNetwork:
    """Write a label volume of any size as an OME-Zarr 0.5 image, one shard at a time.

    Parameters
    ----------
    path
        A store that does not exist yet; its level 0 is the array "0".
    shape
        Voxels along (z,) y, x.
    diameter, density, spacing, anisotropy, seed
        As for `synthetic_embryo`.
    period
        Shape of the repeated pattern; default about seven diameters. It is better no divisor or
        multiple of a tile.
    dtype
        Dtype of the array; default uint16 if the ids fit, else uint32.
    flaws, tile
        As for `OracleNetwork.of`.

    Returns
    -------
    OracleNetwork
        The network that knows the volume. Run it with intensity range (0, 1).

    Raises
    ------
    UsageError
        If the ids do not fit the dtype, or float32.
    """
    diameters = (diameter / anisotropy, diameter, diameter)[-len(shape) :]
    period = tuple(round(7 * d) for d in diameters) if period is None else tuple(period)
    count = count_for(period, density, diameters)
    rng = np.random.default_rng(seed)
    cells = scatter(period, count, diameters, spacing, rng, periodic=True)
    pattern = _Pattern.make(shape, period, cells)
    centres = pattern.centres()
    kept = ((centres >= 0) & (centres < np.array(shape))).all(axis=1)
    n = int(np.count_nonzero(kept))
    array = _create(Path(path), shape, _dtype(n, dtype))
    _fill(array, pattern, np.where(kept, np.cumsum(kept), 0).astype(array.dtype))
    boxes = cells.boxes()
    of = np.flatnonzero(kept) % (len(cells) + 1) - 1
    return OracleNetwork(
        objects=Objects.from_boxes(np.arange(1, n + 1), centres[kept], [boxes[k] for k in of]),
        flaws=flaws or Flaws(),
        tile=(64,) * len(shape) if tile is None else tuple(tile),
    )


def _dtype(largest: int, asked: str | None) -> np.dtype[Any]:
    dtype = np.dtype(asked or (np.uint16 if largest < 2**16 else np.uint32))
    if largest > min(np.iinfo(dtype).max, MAX_ID - 1):
        raise UsageError(f"{largest} ids do not fit {dtype}; take larger objects or less volume")
    return dtype


def _create(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> zarr.Array[Any]:
    """Create the store with its metadata and an empty level 0."""
    axes = "zyx"[-len(shape) :]
    scale = {"type": "scale", "scale": [1.0] * len(shape)}
    multiscale = {
        "name": path.name,
        "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    edge = _SHARD[len(shape)]
    return group.create_array(
        "0",
        shape=tuple(shape),
        dtype=dtype,
        shards=(edge,) * len(shape),
        chunks=(edge // 2,) * len(shape),
        dimension_names=list(axes),
    )


def _fill(array: zarr.Array[Any], pattern: _Pattern, ids: NDArray[Any]) -> None:
    """Write the id of each code."""
    for box in pattern.volume.split((_SHARD[pattern.volume.ndim],) * pattern.volume.ndim):
        array[box.slices] = ids[pattern.codes(box)]
