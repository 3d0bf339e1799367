"""Predictions kept in memory, to be clustered again with other thresholds.

A run of the engine requests tiles from its network. `Recording` acts like the model and keeps
the core of every tile; the kept predictions are clustered as a whole, without tiles and without the
network::

    run        ──tile──▶  Recording  ──tile──▶  Model
                              │
    sliders  ──thresholds──▶ Kept ──▶ labels of the region
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings, apply, changes_of, cut_by
from embedseg_large.clustering.cluster import AXES, OpenFaces, cluster_points, points_of_stored
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import background
from embedseg_large.geometry import Box
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.tiling.grid import Grid
from embedseg_large.tiling.resampling import Resampling

MOST_BYTES = 2**30
"""Maximum size of kept predictions: 77 million voxels in 3D, 107 million in 2D."""

_CLOSED: OpenFaces = ((False, False),) * AXES

Span = tuple[int, int]


class Recording:
    """A network whose predictions are kept; several threads may use it.

    Everything except `predict_tile` and `sharing` is delegated to the network.

    Parameters
    ----------
    network
        The network that predicts.
    grid
        The prediction tiles that will be requested.
    most_bytes
        If the predictions need more, none are kept.
    """

    def __init__(self, network: Network, grid: Grid, most_bytes: int = MOST_BYTES) -> None:
        self._network = network
        self._cores = [_cores(grid, axis) for axis in range(network.ndim)]
        self._left = most_bytes
        self._pieces: dict[Box, NDArray[np.float16]] = {}
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str, **quiet: Any
    ) -> NDArray[np.float16]:
        """Predict a tile, and keep its core."""
        stored = self._network.predict_tile(image, region, tta, **quiet)
        self.keep(stored, region)
        return stored

    def sharing(self, lanes: Any) -> _Sharing:
        """Return the same, with passes of the network on lanes that other tiles use, too."""
        network: Any = self._network  # only a model has lanes
        return _Sharing(self, network.sharing(lanes))

    def predictions(self, wanted: Box) -> tuple[Box, NDArray[np.float16]] | None:
        """All predictions as one array; None if there were too many.

        Parameters
        ----------
        wanted
            The part of the grid that the array must cover.

        Returns
        -------
        box, stored
            A part of the grid, and float16 ``(2·ndim + 1, *box.shape)``, background where nothing
            was predicted.
        """
        if self._left < 0:
            return None
        box = _around([wanted, *self._pieces])
        stored = background(box.shape)
        for core, piece in self._pieces.items():
            stored[(slice(None), *core.slices_in(box))] = piece
        return box, stored

    def keep(self, stored: NDArray[np.float16], region: Box) -> None:
        """Keep the core of a prediction."""
        spans = zip(region.start, region.stop, strict=True)
        core = Box(*zip(*(self._cores[d][s] for d, s in enumerate(spans)), strict=True))
        with self._lock:
            self._left -= stored.itemsize * len(stored) * core.size * (core not in self._pieces)
            if self._left < 0:
                self._pieces.clear()
            else:
                self._pieces[core] = stored[(slice(None), *core.slices_in(region))].copy()


@dataclass(frozen=True, slots=True)
class _Sharing:
    """A recording whose network shares lanes."""

    recording: Recording
    network: Network

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str, **quiet: Any
    ) -> NDArray[np.float16]:
        """Predict a tile, and keep its core in the recording."""
        stored = self.network.predict_tile(image, region, tta, **quiet)
        self.recording.keep(stored, region)
        return stored


def _cores(grid: Grid, axis: int) -> dict[Span, Span]:
    """Map each region along an axis to its core; cores with the same region are united."""
    found: dict[Span, Span] = {}
    for number in range(grid.counts[axis]):
        tile = grid.tile(tuple(number if d == axis else 0 for d in range(len(grid.shape))))
        seen = tile.region.start[axis], tile.region.stop[axis]
        start = found.get(seen, (tile.core.start[axis], 0))[0]
        found[seen] = start, tile.core.stop[axis]
    return found


def _around(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around several boxes."""
    starts, stops = zip(*((b.start, b.stop) for b in boxes), strict=True)
    return Box(
        tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True)))
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Predictions of a region and its surroundings."""

    stored: NDArray[np.float16]
    """``(2·ndim + 1, *box.shape)``, on the network's grid."""
    box: Box
    """The part of that grid that `stored` covers."""
    resampling: Resampling
    """From the layer's grid to the network's."""
    region: Box
    """The part of the layer's grid for which labels are requested."""
    reach: tuple[float, ...]
    """Longest accepted offset."""
    cleaning: CleanSettings = field(default_factory=CleanSettings)
    """What is cleaned."""
    _numbers: dict[int, int] = field(default_factory=dict)
    """Labels of instances, by the position of their seed voxel."""

    def labels(self, thresholds: ClusteringSettings) -> NDArray[np.uint32]:
        """Cluster, and return the labels of the region.

        Parameters
        ----------
        thresholds
            `min_object_size` in voxels of the layer; the reach is the model's.

        Returns
        -------
        uint32, ``region.shape``. An instance that is found again, from the same seed voxel, keeps
        its number and therefore its colour; in the first call, instances are numbered in raster
        order of their seed voxels, as in `segment`.
        """
        size = round(thresholds.min_object_size * prod(self.resampling.zoom))
        settings = replace(thresholds, min_object_size=size, reach=self.reach)
        found = cluster_points(points_of_stored(self.stored, settings), settings, _CLOSED)
        wanted = self.resampling.centers(self.region)
        inside = found.labels.reshape(self.box.shape)[wanted.slices_in(self.box)]
        if self.cleaning:
            inside = self._cleaned(inside, found.seeds, wanted)
        return self.resampling.labels(self._numbered(inside, found.seeds), self.region, wanted)

    def _cleaned(
        self, labels: NDArray[np.uint32], seeds: NDArray[np.int64], wanted: Box
    ) -> NDArray[np.uint32]:
        """Clean the same instances as a run on that part: complete ones with their seed in it."""
        shape = self.resampling.target
        left = cut_by(labels, wanted.open_faces(shape), seeds.size)
        at = np.unravel_index(seeds, self.box.shape)
        for axis, own in enumerate(wanted.slices_in(self.box)):
            left[1:] |= (at[axis] < own.start) | (at[axis] >= own.stop)
        numbers = np.where(left[labels], 0, labels).astype(np.int32)
        cleaned = np.ascontiguousarray(labels)
        apply(cleaned, changes_of(numbers, self.cleaning))
        return cleaned

    def _numbered(self, labels: NDArray[np.uint32], seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
        present = np.bincount(labels.reshape(-1), minlength=seeds.size + 1)[1:] > 0
        numbers = np.zeros(seeds.size + 1, np.uint32)
        for place in np.sort(seeds[present]).tolist():
            self._numbers.setdefault(place, len(self._numbers) + 1)
        for label in (np.flatnonzero(present) + 1).tolist():
            numbers[label] = self._numbers[int(seeds[label - 1])]
        return numbers[labels]
