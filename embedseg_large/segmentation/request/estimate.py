"""Estimate the cost of a run before it starts, and check the memory of the workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dask.system import cpu_count
from dask.utils import format_bytes, parse_bytes
from psutil import virtual_memory

from embedseg_large.embedding import channel_count
from embedseg_large.errors import UsageError
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.devices import THREADS_BESIDE_GPU, is_gpu
from embedseg_large.segmentation.request.request import Request
from embedseg_large.segmentation.stages.predict import SLAB_VOXELS
from embedseg_large.tiling.axis import core, total_grown
from embedseg_large.tiling.grid import Grid

_CLUSTER_BYTES = 60.0
"""Peak memory of CLUSTER per voxel of its region at 20 % foreground, predictions included."""
_SLAB_BYTES = 16.0
"""Voxels of the volume that are being resampled: as stored, normalised, and along one axis."""
_HOST_BYTES = 50.0
"""Peak memory of PREDICT per voxel of its region, outside of the network."""
_PROCESS_BYTES = 700e6
"""A Python process with torch and numba loaded, and what its allocator keeps for later."""
_VIEW_BYTES = 4.0
"""Upper bound of a tile's result per voxel: its labels, not compressed."""


LEAST_SHARE = 0.5
"""Fraction of the estimated memory (an upper bound) below which a tile certainly kills its
worker."""

MOST_TILES = 2**28
"""Tiles of a volume of 10¹⁵ voxels; their states take 4 GB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Sizes of a run; upper bounds where compression decides."""

    prediction_tiles: int
    cluster_tiles: int
    input_voxels: int
    """Voxels that go through the network in each pass, including context and overlaps."""
    scratch_bytes: int
    """Scratch space, not compressed; real predictions, mostly background, take a fifth."""
    worker_bytes: int
    """Main memory of a worker, halos not raised: for one task, or beside a GPU for several."""
    raised_bytes: int
    """Memory of a worker while it clusters a tile with the largest halo."""

    def as_dict(self) -> dict[str, Any]:
        """The estimate as values that JSON can hold."""
        return {name: getattr(self, name) for name in self.__slots__}


def estimate_of(request: Request) -> Estimate:
    """Estimate the cost of a run, without reading a voxel."""
    if not request.segmenter.traits.predicts:
        return _of_images(request)
    settings, shape = request.settings, request.shape
    prediction = Grid(shape, settings.tile, settings.context, padded=True)
    clustering = Grid(shape, settings.cluster_tile, settings.halo, within=request.part)
    needed = clustering.seen()
    channels = request.segmenter.traits.channels or channel_count(settings.ndim)
    predicted = _region(prediction)
    clustered, raised = _region(clustering), _region(clustering.with_margin(settings.max_halo))
    predicting = _HOST_BYTES if is_gpu(settings.device) else request.segmenter.bytes_per_voxel
    tasks = THREADS_BESIDE_GPU if is_gpu(settings.device) else 1
    slab = 0 if request.resampling.is_identity else SLAB_VOXELS * _SLAB_BYTES
    count, spans = len(request.timepoints), prediction.span(needed)
    return Estimate(
        prediction_tiles=count * prediction.count(needed),
        cluster_tiles=count * clustering.count(clustering.covered),
        input_voxels=count * _all_regions(prediction, spans),
        # predictions of one timepoint at a time
        scratch_bytes=int(
            _all_cores(prediction, spans) * channels * 2
            + clustering.covered.size * count * _VIEW_BYTES
        ),
        worker_bytes=int(
            _PROCESS_BYTES
            + tasks * (max(predicted * predicting, clustered * _CLUSTER_BYTES) + slab)
        ),
        raised_bytes=int(_PROCESS_BYTES + raised * _CLUSTER_BYTES),
    )


def tiles_at_once(request: Request) -> int:
    """Return the number of tiles that this process works on concurrently, at least 1.

    One per core, if half of the free memory suffices.
    """
    task = estimate_of(request).worker_bytes - _PROCESS_BYTES
    return int(max(1, min(cpu_count(), 0.5 * virtual_memory().available / task)))


def _of_images(request: Request) -> Estimate:
    """Estimate a run without predictions: each tile is read, segmented, and stored whole."""
    settings, count = request.settings, len(request.timepoints)
    grid = Grid(request.shape, settings.cluster_tile, settings.halo, within=request.part)
    seen = count * _all_regions(grid, grid.span(grid.covered))
    voxels = (_region(g) for g in (grid, grid.with_margin(settings.max_halo)))
    per_voxel = request.segmenter.bytes_per_voxel
    worker, raised = (int(_PROCESS_BYTES + n * per_voxel) for n in voxels)
    return Estimate(
        prediction_tiles=0,
        cluster_tiles=count * grid.count(grid.covered),
        input_voxels=seen,
        scratch_bytes=int((seen + count * grid.covered.size) * _VIEW_BYTES),
        worker_bytes=worker,
        raised_bytes=raised,
    )


def _region(grid: Grid) -> int:
    """Voxels of the largest region of a grid."""
    sizes = zip(grid.step, grid.margin, grid.bounds, strict=True)
    return prod(min(step + 2 * margin, bound) for step, margin, bound in sizes)


def _all_regions(grid: Grid, spans: Sequence[tuple[int, int]]) -> int:
    """Voxels of all regions of some tiles: the product of the sums along each axis."""
    axes = zip(spans, grid.shape, grid.step, grid.margin, grid.bounds, strict=True)
    return prod(total_grown(*span, *axis) for span, *axis in axes)


def _all_cores(grid: Grid, spans: Sequence[tuple[int, int]]) -> int:
    """Voxels of all cores of some tiles."""
    axes = zip(grid.shape, grid.step, spans, strict=True)
    return prod(core(b - 1, n, step)[1] - core(a, n, step)[0] for n, step, (a, b) in axes)


def check_tiles(request: Request) -> None:
    """Refuse a volume of more tiles than a run keeps track of, of which all have a state in memory.

    Raises
    ------
    UsageError
        If there are more than `MOST_TILES`.
    """
    for name in ("tile", "cluster_tile"):
        grid = Grid(request.shape, getattr(request.settings, name), (0,) * len(request.shape))
        count = prod(grid.counts)
        if count > MOST_TILES:
            raise UsageError(
                f"{request.volume.name}: the volume has {count:,} tiles, and a run has at most "
                f"{MOST_TILES:,}; check its shape with info, or choose a coarser --level or a "
                f"larger --{name.replace('_', '-')}"
            )


def check_memory(where: object, request: Request) -> None:
    """Compare the memory limit of local workers, if one is set, with the estimate.

    Parameters
    ----------
    where
        Settings, or a client; a limit is known only for local workers.
    request
        The run. With kept predictions no network runs, and nothing is checked.

    Raises
    ------
    UsageError
        If a worker has less than half of the estimate. Less than the full estimate causes a
        warning.
    """
    if not isinstance(where, LocalSettings) or where.memory is None or request.saved_in is not None:
        return
    limit, needed = parse_bytes(where.memory), estimate_of(request).worker_bytes
    if limit >= needed:
        return
    told = (
        f"{where.file}: memory gives a worker {format_bytes(limit)}, and a tile takes up to "
        f"{format_bytes(needed)}; raise memory (with fewer workers), or make tiles smaller "
        "(--tile, --cluster-tile)"
    )
    if limit < LEAST_SHARE * needed:
        raise UsageError(told)
    logger.warning(told)
