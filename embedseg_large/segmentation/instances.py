"""What a run knows of its instances and labels do not tell: written in the order of the labels.

Labels are ranks over layers, so that the table is the layers one after the other. A piece of it is
put together from those that it touches: nothing grows with the number of instances.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.labels.instances import InstanceTable
from embedseg_large.segmentation.pipeline import Found
from embedseg_large.storage.tables import stacked

Columns = dict[str, NDArray[Any]]


def columns_known(found: Found) -> tuple[str, ...]:
    """Name what is known of each instance; other people's segmenters tell no seediness."""
    return ("certified",) if found.job.segments else ("seediness", "certified")


def write_instances(found: Found, table: InstanceTable) -> None:
    """Write the rows of one timepoint. Done twice, it does the same twice.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    before = found.numbering.before
    disputed = np.array([*found.state.repaired, *found.state.joined], np.uint64)

    @lru_cache(maxsize=1)  # a layer may end in the next piece
    def layer(number: int) -> Columns:
        version = int(found.numbering.versions[number])
        roster = found.job.scratch.read_layer(number, version)
        certified = roster.sure & ~np.isin(roster.ids, disputed)
        return {"seediness": roster.seediness, "certified": certified}

    for start, stop in table.pieces(found.n_instances):
        parts = []
        for number in _layers_with(before, start, stop):
            rows = slice(max(start - before[number], 0), stop - before[number])
            parts.append({name: column[rows] for name, column in layer(number).items()})
        table.write(start, stacked(parts), found.job.timepoint)


def _layers_with(before: NDArray[np.int64], start: int, stop: int) -> list[int]:
    """Layers, none of them empty, that hold a range of instances."""
    here = (before[:-1] < stop) & (before[1:] > start) & (before[1:] > before[:-1])
    return [int(number) for number in np.flatnonzero(here)]
