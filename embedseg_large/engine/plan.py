"""What a run will take, told before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from embedseg_large.embedding import channel_count
from embedseg_large.engine.order import Order
from embedseg_large.engine.reading import SLAB_VOXELS
from embedseg_large.tiling.axis import core, grown
from embedseg_large.tiling.grid import Grid

_CLUSTER_BYTES = 60.0
"""Peak memory of CLUSTER per voxel of its region at 20 % foreground, predictions included."""
_SLAB_BYTES = 16.0
"""Voxels of the volume that are being resampled: as stored, normalised, and along one axis."""
_PROCESS_BYTES = 600e6
"""A Python process with torch and numba loaded."""
_VIEW_BYTES = 4.0
"""Upper bound of a view per voxel: its labels, not compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run; upper bounds where compression decides."""

    prediction_tiles: int
    cluster_tiles: int
    input_voxels: int
    """Voxels that go through the network, context and overlaps included, once a TTA transform."""
    scratch_bytes: int
    """Scratch space, not compressed; real predictions take about half."""
    worker_bytes: int
    """Memory of a worker that runs one task at a time, halos not raised."""
    raised_bytes: int
    """Memory of a worker that clusters a tile with the largest halo."""

    def as_dict(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        return {name: getattr(self, name) for name in self.__slots__}


def make_plan(order: Order) -> Plan:
    """Work out what a run will take, without reading a voxel."""
    network, settings, shape = order.network, order.settings, order.shape
    prediction = Grid(shape, settings.tile, settings.context, padded=True)
    clustering = Grid(shape, settings.cluster_tile, settings.halo)
    channels = channel_count(settings.ndim)
    predicted = _region(prediction)
    clustered, raised = _region(clustering), _region(clustering.with_margin(settings.max_halo))
    count = len(order.timepoints)
    return Plan(
        prediction_tiles=count * len(prediction),
        cluster_tiles=count * len(clustering),
        input_voxels=count * _all_regions(prediction),
        # predictions of one timepoint at a time
        scratch_bytes=int(prod(shape) * (channels * 2 + count * _VIEW_BYTES)),
        worker_bytes=int(
            _PROCESS_BYTES
            + max(predicted * network.bytes_per_voxel, clustered * _CLUSTER_BYTES)
            + (0 if order.resampling.is_identity else SLAB_VOXELS * _SLAB_BYTES)
        ),
        raised_bytes=int(_PROCESS_BYTES + raised * _CLUSTER_BYTES),
    )


def _region(grid: Grid) -> int:
    """Voxels of the largest region of a grid."""
    sizes = zip(grid.step, grid.margin, grid.bounds, strict=True)
    return prod(min(step + 2 * margin, bound) for step, margin, bound in sizes)


def _all_regions(grid: Grid) -> int:
    """Voxels of all regions of a grid: the product of the sums along each axis."""
    return prod(
        sum(b - a for a, b in (grown(*core(i, n, step), margin, bound) for i in range(count)))
        for n, step, margin, bound, count in zip(
            grid.shape, grid.step, grid.margin, grid.bounds, grid.counts, strict=True
        )
    )
