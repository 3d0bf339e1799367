"""Which intensities become 0 and 1: as given, or percentiles of the whole volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from embedseg_large.runs.local import SerialExecutor
from embedseg_large.runs.runner import Recorder
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.request.request import Order
from embedseg_large.volumes.intensity import (
    Histogram,
    IntensityRange,
    intensity_ranges,
    otsu_ranges,
)

LEDGER = "statistics"


def find_intensity(order: Order, recorder: Recorder) -> tuple[IntensityRange, ...]:
    """The range of each channel of an order, over all of its timepoints."""
    if order.kept is not None:
        return order.kept.intensity
    if order.intensity is not None:
        return order.intensity
    journal = recorder.journal
    assert journal is not None
    known = journal.find(LEDGER, 0)
    if known is not None:
        return tuple(IntensityRange(**values) for values in known[1])
    run_on: Any = map  # where the volume is in this process's memory
    if isinstance(recorder.executor, SerialExecutor) or order.volume.path is not None:
        run_on = partial(_map, recorder)
    ranges = otsu_ranges if order.by_otsu else intensity_ranges
    found = ranges(order.volume, sample=order.intensity_sample, map=run_on)
    journal.note(LEDGER, 0, (0, [asdict(r) for r in found]))
    journal.flush()
    return found


def _map(
    recorder: Recorder, function: Callable[[Any], Histogram], items: Iterable[Any]
) -> list[Histogram]:
    """`map` on an executor, summed up as results come: there may be many, of a megabyte each."""
    todo = list(items)
    recorder.progress.begin(LEDGER, len(todo))
    total = [Histogram(np.empty(0, np.uint32), np.empty(0, np.int64))]

    def add(_: Task, result: Histogram) -> None:
        total[0] += result

    recorder.run(Each((Task(stage=LEDGER, make=partial(Call, function, (i,))) for i in todo), add))
    return total
