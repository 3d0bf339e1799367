"""How large the instances of a run are: measured on a few of its tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.segmentation.request.scale import is_mismatch
from embedseg_large.segmentation.scratch.versions import EMPTY, TileVersions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.tiling.grid import Index

LEAST_OBJECTS = 5
"""Fewer say nothing about the others."""
TILES = 8
"""Clustering tiles whose objects are measured after a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeScale:
    """What is known about sizes; those in voxels are along y and x of the level segmented."""

    level: int
    is_automatic: bool
    """Whether the level was chosen by voxel sizes."""
    model_diameter: float | None
    """Mean extent of the model's training objects; None where the model does not know."""
    found_diameter: float | None
    """Median extent of objects of this run; None where too few were found to tell."""

    @property
    def ratio(self) -> float | None:
        """How many times larger the objects found are than those of the training."""
        if self.model_diameter is None or self.found_diameter is None:
            return None
        return self.found_diameter / self.model_diameter

    @property
    def warning(self) -> str | None:
        """What to say about it; None if there is nothing to say."""
        if self.ratio is None or not is_mismatch(self.ratio):
            return None
        assert self.found_diameter is not None
        return (
            f"the objects found are {self.found_diameter:.0f} voxels wide (median), those in the "
            f"training data {self.model_diameter:.0f}: check whether they are pieces or clumps; "
            "--object-diameter auto compares scales on a sample"
        )

    def as_dict(self) -> dict[str, Any]:
        """The scale as values that JSON can hold."""
        values = {"model_diameter": self.model_diameter, "found_diameter": self.found_diameter}
        rounded = {k: None if v is None else round(v, 2) for k, v in values.items()}
        return {"level": self.level, "automatic_level": self.is_automatic} | rounded


def scale_of(
    level: int, zoom: float, known: float | None, extents: Sequence[float], *, is_automatic: bool
) -> SizeScale:
    """Compare what was found with what a model knows.

    Parameters
    ----------
    level
        That was segmented.
    zoom
        Voxels of the grid along x for each voxel of that level.
    known
        Diameter of the model's objects, in voxels of the grid.
    extents
        Of some objects along y and x, in voxels of the grid; see `extents_of`.
    is_automatic
        Whether the level was chosen by voxel sizes.
    """
    enough = len(extents) >= LEAST_OBJECTS
    return SizeScale(
        level=level,
        is_automatic=is_automatic,
        model_diameter=None if known is None else known / zoom,
        found_diameter=float(np.median(extents)) / zoom if enough else None,
    )


def extents_of(
    job: Job, results: TileVersions, predictions: NDArray[np.uint32]
) -> tuple[float, ...]:
    """Measure objects in a few tiles that have some: mean edge of their boxes along y and x.

    Parameters
    ----------
    job
        What was segmented.
    results, predictions
        Versions of what tiles say, and of their predictions.

    Returns
    -------
    tuple of float
        In voxels of the grid. Objects that reach the border of a tile, where they may be cut, do
        not count.
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
    """A few clustering tiles, evenly spread over those in which something was predicted."""
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
