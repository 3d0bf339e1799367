"""Whether the objects of an image are as large as those that a model learned from.

A network finds objects of about the size it was trained on, and pieces or clumps of others. So the
level whose voxels are nearest to the model's is taken where both sizes are known; a mismatch is
said before a run, as far as voxel sizes tell, and after it, from the objects that were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.segmentation.scratch.versions import EMPTY, Views
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.tiling.grid import Index
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.volume import Volume

MISMATCH = 1.5
"""Objects that many times larger or smaller than the model's are found badly."""

TILES = 8
"""Clustering tiles whose objects are measured after a run."""
LEAST_OBJECTS = 5
"""Fewer say nothing about the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
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


def is_mismatch(ratio: float) -> bool:
    """Whether sizes of that ratio are too different for a model."""
    return not 1 / MISMATCH <= ratio <= MISMATCH


def scale_of(
    volume: Volume,
    network: Network,
    resampling: Resampling,
    extents: Sequence[float],
    *,
    is_automatic: bool,
) -> Scale:
    """Compare what was found with what a model knows.

    Parameters
    ----------
    volume, network, resampling
        The level segmented, by what, and on which grid.
    extents
        Of some objects along y and x, in voxels of that grid; see `extents_of`.
    is_automatic
        Whether the level was chosen by voxel sizes.
    """
    zoom, known = resampling.zoom[-1], network.object_diameter
    enough = len(extents) >= LEAST_OBJECTS
    return Scale(
        level=volume.level,
        is_automatic=is_automatic,
        model_diameter=None if known is None else known / zoom,
        found_diameter=float(np.median(extents)) / zoom if enough else None,
    )


def nearest_level(volume: Volume, network: Network) -> int:
    """Return the level whose voxels are nearest in size to the model's along y and x.

    Parameters
    ----------
    volume
        Any level of the image.
    network
        The model.

    Returns
    -------
    int
        The volume's own level where a voxel size is not known; the finest of equally near ones.
    """
    if volume.voxel_size is None or network.voxel_size is None:
        return volume.level
    ratio = _voxel_ratio(volume, network)
    known = [(abs(log(ratio * step)), k) for k, step in _steps(volume)]
    return min(known)[1]


def voxel_size_warning(volume: Volume, network: Network, resampling: Resampling) -> str | None:
    """Say that voxels are far from the model's in size; None if they are not, or nobody knows.

    Parameters
    ----------
    volume, network, resampling
        As for `scale_of`. Where tiles are resampled the user has said how large objects are.
    """
    if volume.voxel_size is None or network.voxel_size is None or not resampling.is_identity:
        return None
    ratio = _voxel_ratio(volume, network)
    if not is_mismatch(ratio):
        return None
    times = f"{1 / ratio:.1f} times larger" if ratio < 1 else f"{ratio:.1f} times smaller"
    return (
        f"voxels are {volume.voxel_size[-1]:g} µm wide, those of the training images "
        f"{network.voxel_size[-1]:g}: objects look {times} than in the model's training data, if "
        "they are of the same size; --object-diameter auto compares scales on a sample"
    )


def _voxel_ratio(volume: Volume, network: Network) -> float:
    """How many times wider voxels are than the model's: geometric mean over y and x."""
    assert volume.voxel_size is not None
    assert network.voxel_size is not None
    pairs = zip(volume.voxel_size[-2:], network.voxel_size[-2:], strict=True)
    return exp(sum(log(image / model) for image, model in pairs) / 2)


def _steps(volume: Volume) -> Iterator[tuple[int, float]]:
    """Each level that is there, and how many voxels of this one each of its voxels is wide."""
    at = [volume.stored_axes.index(axis) for axis in "yx"]
    here = [volume.stored_shape[i] for i in at]
    for number, level in enumerate(volume.levels):
        if number == volume.level:
            yield number, 1.0
        elif level.shape is not None:
            logs = [log(n / level.shape[i]) for n, i in zip(here, at, strict=True)]
            yield number, exp(sum(logs) / 2)


def extents_of(job: Job, views: Views, predictions: NDArray[np.uint32]) -> tuple[float, ...]:
    """Measure objects in a few tiles that have some: mean edge of their boxes along y and x.

    Parameters
    ----------
    job
        What was segmented.
    views, predictions
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
    for index, view in zip(tiles, job.scratch.read_views(views[i] for i in tiles), strict=True):
        core = grid.tile(index).core
        labels, _ = view.core(core.shape)
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
