"""FINISH: final labels, shard by shard and level by level, the table of instances, their sizes.

Labels are ranks over layers, so the table is the concatenation of the layers. Each piece of it is
assembled from the layers that it touches, so memory does not grow with the number of instances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.geometry import Box
from embedseg_large.labels.instances import DTYPES, SEAMS, InstanceTable
from embedseg_large.labels.pending import PendingLabels
from embedseg_large.segmentation.scratch.versions import EMPTY, TileVersions
from embedseg_large.segmentation.seams import SeamState
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.stitching.join import Joins
from embedseg_large.stitching.relabel import Ranking, occurring, rename
from embedseg_large.storage.tables import stacked
from embedseg_large.tiling.grid import Index

Columns = dict[str, NDArray[Any]]

TILES = 8
"""Number of clustering tiles whose objects are measured after a run."""


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """Maps the names of instances to final labels."""

    joins: Joins
    before: NDArray[np.int64]
    """(layers + 1,) instances in the layers before each."""
    versions: NDArray[np.uint32]
    """(layers,) version of the ids of each layer."""

    def ranking(self, job: Job) -> Ranking:
        """Final labels; caches the ids of the layers that were requested."""

        @cache
        def load(layer: int) -> NDArray[np.uint64]:
            return job.scratch.read_layer(layer, int(self.versions[layer])).ids

        return Ranking(job.layers, self.before, load)


def finish(
    job: Job, pending: PendingLabels, numbering: Numbering, box: Box, results: TileVersions
) -> int:
    """FINISH: write final labels of one shard; return its number of labelled voxels."""
    labels = _final_labels(job, numbering, results, pending.dtype, box)
    pending.write(0, box, labels, timepoint=job.timepoint)
    return int(np.count_nonzero(labels))


def finish_halved(
    job: Job, pending: PendingLabels, numbering: Numbering, box: Box, results: TileVersions
) -> int:
    """FINISH: write one shard of level 1, from the results of tiles.

    Reading level 0 back would take far longer. `results` are those of the tiles that
    ``pending.source(1, box)`` touches.
    """
    finer = partial(_final_labels, job, numbering, results, pending.dtype)
    pending.downsample(1, box, timepoint=job.timepoint, finer=finer)
    return box.size


def _final_labels(
    job: Job, numbering: Numbering, results: TileVersions, dtype: np.dtype[Any], box: Box
) -> NDArray[Any]:
    """Final labels of a box of the volume; 0 outside the part for which they are requested."""
    if job.region is None or job.region.contains(box):
        return _labels_within(job, numbering, results, dtype, box)
    labels, wanted = np.zeros(box.shape, dtype=dtype), box.intersect(job.region)
    if wanted.size:
        labels[wanted.slices_in(box)] = _labels_within(job, numbering, results, dtype, wanted)
    return labels


def _labels_within(
    job: Job, numbering: Numbering, results: TileVersions, dtype: np.dtype[Any], box: Box
) -> NDArray[Any]:
    """Final labels of a box of the volume; `results` are at least those of the tiles it touches."""
    grid = job.clustering()
    ranking = numbering.ranking(job)
    covering = job.on_grid(box)
    labels = np.zeros(covering.shape, dtype=dtype)
    tiles = list(grid.touching(covering))
    for index, result in zip(
        tiles, job.scratch.read_results(results[i] for i in tiles), strict=True
    ):
        core = grid.tile(index).core
        local, names = result.core(core.shape)
        common = core.intersect(covering)
        piece = local[common.slices_in(core)]
        used = occurring(piece, names.size)
        used[0] = False
        final = np.zeros(names.size, dtype=dtype)
        final[used] = ranking.labels(numbering.joins.apply(names[used]))
        rename(piece, final, labels[common.slices_in(covering)])
    return job.resampling.labels(labels, box, job.part)


def downsample(job: Job, pending: PendingLabels, level: int, box: Box) -> int:
    """FINISH: write one shard of a coarser level; return its number of voxels."""
    pending.downsample(level, box, timepoint=job.timepoint)
    return box.size


def write_instances(job: Job, numbering: Numbering, seams: SeamState, table: InstanceTable) -> None:
    """FINISH: write the rows of one timepoint. Repeating it gives the same result.

    Parameters
    ----------
    seams
        Says on which instances tiles disagreed at first: none of them counts as certified.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    before = numbering.before
    disputed = [
        (SEAMS.index(kind), np.array(names, np.uint64))
        for kind, names in (("repaired", seams.repaired), ("joined", seams.joined))
    ]

    @lru_cache(maxsize=1)  # a layer may end in the next piece
    def layer(number: int) -> Columns:
        roster = job.scratch.read_layer(number, int(numbering.versions[number]))
        seam = np.zeros(roster.ids.size, DTYPES["seam"])
        for code, names in disputed:
            seam[np.isin(roster.ids, names)] = code
        return {
            "seediness": roster.seediness,
            "certified": roster.sure & (seam == 0),
            "seam": seam,
        }

    for start, stop in table.pieces(int(before[-1])):
        parts = []
        for number in _layers_with(before, start, stop):
            rows = slice(max(start - before[number], 0), stop - before[number])
            parts.append({name: column[rows] for name, column in layer(number).items()})
        table.write(start, stacked(parts), job.timepoint)


def _layers_with(before: NDArray[np.int64], start: int, stop: int) -> list[int]:
    """Return the non-empty layers that hold a range of instances."""
    here = (before[:-1] < stop) & (before[1:] > start) & (before[1:] > before[:-1])
    return [int(number) for number in np.flatnonzero(here)]


def extents_of(
    job: Job, results: TileVersions, predictions: NDArray[np.uint32]
) -> tuple[float, ...]:
    """Measure objects in a few tiles: mean edge of their bounding boxes along y and x.

    Parameters
    ----------
    job
        The job that was run.
    results, predictions
        Versions of the results of tiles, and of predictions.

    Returns
    -------
    tuple of float
        In voxels of the grid. Objects that reach the border of a tile, where they may be cut, are
        ignored.
    """
    grid = job.clustering()
    tiles = sorted(_tiles_with_foreground(job, predictions))
    found: list[float] = []
    for index, result in zip(
        tiles, job.scratch.read_results(results[i] for i in tiles), strict=True
    ):
        core = grid.tile(index).core
        labels, _ = result.core(core.shape)
        low = [0 if a else -1 for a in core.start]
        high = [
            n if b < length else n + 1
            for n, b, length in zip(core.shape, core.stop, job.shape, strict=True)
        ]
        found.extend(extents(labels, low, high))
    return tuple(found)


def _tiles_with_foreground(job: Job, predictions: NDArray[np.uint32]) -> set[Index]:
    """Choose a few clustering tiles, evenly spread over those with predicted foreground."""
    grid = job.clustering()
    written = np.flatnonzero(predictions > EMPTY)
    spread = np.unique(np.linspace(0, max(0, written.size - 1), TILES).astype(int))
    tiles = set[Index]()
    for place in written[spread[: written.size]].tolist():
        index = tuple(int(i) for i in np.unravel_index(place, predictions.shape))
        tiles.update(islice(grid.touching(job.prediction.tile(index).core), 1))
    return tiles


def extents(labels: NDArray[Any], low: Sequence[int], high: Sequence[int]) -> Iterator[float]:
    """Mean edge along y and x of each object that begins after `low` and ends before `high`."""
    for box in ndimage.find_objects(labels):
        if box is None:
            continue
        axes = zip(box, low, high, strict=True)
        if all(a < s.start and s.stop < b for s, a, b in axes):
            yield float(np.mean([s.stop - s.start for s in box[-2:]]))
