"""Which intensities become 0 and 1: given ones, or percentiles of the whole volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import BlankError
from embedseg_large.geometry import Box
from embedseg_large.runs.runner import SerialExecutor, TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.intensity_field import IntensityField, intensity_fields
from embedseg_large.segmentation.request.request import High, Request, Timepoint
from embedseg_large.segmentation.stages.job import USUAL_DIAMETER, Foreground
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.tiling.resampling import ObjectSize
from embedseg_large.volumes.histogram import Histogram
from embedseg_large.volumes.intensity import (
    IntensityRange,
    darkest_ranges,
    intensity_ranges,
    otsu_ranges,
)
from embedseg_large.volumes.volume import Volume


def find_intensity(
    request: Request, runner: TaskRunner, at: Timepoint | None = None
) -> tuple[IntensityRange, ...]:
    """Find the range of each channel, over all timepoints of a request or for one of them."""
    if at is not None and at.saved is not None:
        return at.saved.intensity
    if request.intensity.given is not None:
        return request.intensity.given
    journal = runner.journal
    assert journal is not None
    known = journal.find(LedgerKind.STATISTICS.part(), 0)
    if known is not None:
        return tuple(IntensityRange(**values) for values in known[1])
    mask, volume = request.foreground.mask, _measured(request, at)
    run_on: Any = map  # if the volume is in this process's memory
    in_files = volume.path is not None and (mask is None or mask.path is not None)
    if isinstance(runner.executor, SerialExecutor) or in_files:
        run_on = partial(_map, runner)
    ranges = _finder(request.intensity.high)
    inside = None if mask is None else partial(_inside, request.foreground, volume)
    found = ranges(volume, sample=request.intensity.sample, inside=inside, map=run_on)
    journal.note(LedgerKind.STATISTICS.part(), 0, (0, [asdict(r) for r in found]))
    journal.flush()
    return found


def _finder(high: High) -> Callable[..., tuple[IntensityRange, ...]]:
    """Return what finds the ranges, see `IntensityChoice.high`."""
    if high == "percentile":
        return intensity_ranges
    if high == "otsu":
        return otsu_ranges
    return partial(darkest_ranges, high=high)


def find_intensity_at(
    request: Request, at: Timepoint, runner: TaskRunner
) -> tuple[IntensityRange, ...]:
    """Find the range of each channel of one timepoint; arbitrary if it holds no data."""
    try:
        return find_intensity(request, runner, at)
    except BlankError:
        count = prod(at.volume.spatial_shape)
        return (IntensityRange(0.0, 1.0, excluded_voxels=count),) * request.segmenter.channels


def _inside(
    foreground: Foreground, volume: Volume, box: Box, timepoint: int | None
) -> NDArray[np.bool_]:
    """Return which voxels of a box of the volume are inside the mask."""
    at = volume.timepoint if timepoint is None else timepoint
    inside = foreground.inside(box, volume.spatial_shape, at)
    assert inside is not None
    return inside


def find_fields(
    request: Request, runner: TaskRunner, at: Timepoint | None = None
) -> tuple[IntensityField, ...]:
    """Measure the field of each channel, over all timepoints or for one; empty if unused."""
    if at is not None and at.saved is not None:
        return at.saved.fields
    if request.intensity.field == "none":
        return ()
    journal = runner.journal
    assert journal is not None
    known = journal.find(LedgerKind.FIELD.part(), 0)
    if known is not None:
        return tuple(IntensityField.from_dict(values) for values in known[1])
    volume = _measured(request, at)
    found = intensity_fields(
        volume,
        request.intensity.field,
        _diameters(request, volume),
        volume.timepoints,
        request.foreground.inside,
    )
    journal.note(LedgerKind.FIELD.part(), 0, (0, [one.as_dict() for one in found]))
    journal.flush()
    return found


def _measured(request: Request, at: Timepoint | None) -> Volume:
    """What intensities are measured on: one timepoint, or all, whichever are segmented."""
    return request.volume.with_time() if at is None else at.volume


def _diameters(request: Request, volume: Volume) -> list[float]:
    """Approximate the diameter of objects along (z,) y, x, in voxels of the volume."""
    own, zoom = request.segmenter, request.resampling.zoom
    grid = own.voxel_size
    if volume.voxel_size is not None:
        grid = tuple(step / z for step, z in zip(volume.voxel_size, zoom, strict=True))
    size = ObjectSize(own.object_diameter or USUAL_DIAMETER, own.object_depth, grid)
    known = (*(size.likely_depth,) * (volume.ndim - 2), size.width, size.width)
    return [length / z for length, z in zip(known, zoom, strict=True)]


def _map(
    runner: TaskRunner, function: Callable[[Any], Histogram], items: Iterable[Any]
) -> list[Histogram]:
    """`map` on an executor, with results added up as they arrive: each may take a megabyte."""
    todo = list(items)
    runner.progress.begin(Stage.STATISTICS, len(todo))
    total = [Histogram(np.empty(0, np.uint32), np.empty(0, np.int64))]

    def add(_: Task, result: Histogram) -> None:
        total[0] += result

    runner.run(
        Each((Task(stage=Stage.STATISTICS, make=partial(Call, function, (i,))) for i in todo), add)
    )
    return total
