"""Compare two label volumes of any size, box by box.

Each box yields a small additive table, so the sum equals the table of the whole volumes for any
boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.errors import Found, Positions
from embedseg_large.evaluation.localisation import shell
from embedseg_large.evaluation.pairs import LabelPair
from embedseg_large.geometry import Box
from embedseg_large.runs.blockwise import sum_over
from embedseg_large.runs.boxes import box_shape
from embedseg_large.runs.tasks import Call, Runner
from embedseg_large.volumes.label_images import unannotated
from embedseg_large.volumes.pieces import pieces


@dataclass(frozen=True, slots=True)
class Compared:
    """Overlaps of two label volumes; those of disjoint regions add up."""

    located: Contingency
    """Overlaps that are scored: of masks, or of their shells."""
    found: Found | None
    """Overlaps of masks, and positions; None if no errors are wanted."""

    def __add__(self, other: Compared) -> Compared:
        located = self.located + other.located
        if self.found is None or other.found is None:
            return Compared(located, None)
        return Compared(located, self.found + other.found)


def compare(
    pair: LabelPair,
    *,
    shell_width: int | None = None,
    errors: bool = False,
    workers: Runner | None = None,
) -> Compared:
    """Compare two label volumes.

    Parameters
    ----------
    pair
        The volumes.
    shell_width
        Compare the shells of the objects, with this thickness in voxels; None: compare whole masks.
    errors
        Also collect the input of `embedseg_large.evaluation.errors.find_errors`.
    workers
        Process the boxes; None: this process.

    Raises
    ------
    VolumeError
        If the voxels are not integers, or cannot be decoded.
    """
    ndim = len(pair.shape)
    boxes = pieces(pair.compared, box_shape(pair.shape, pair.chunks), pair.prediction.name)
    zero = Compared(Contingency.empty(), Found.empty(ndim) if errors else None)
    call = partial(_call, pair, shell_width, errors)
    return sum_over(boxes, call, zero, stage="compare", workers=workers)


def _call(pair: LabelPair, width: int | None, errors: bool, box: Box) -> Call:
    return Call(
        _compare_box, (pair, box, width, errors), where=f"{pair.name} {box}", voxels=box.size
    )


def _compare_box(pair: LabelPair, box: Box, width: int | None, errors: bool) -> Compared:
    whole = _read(pair, box, width)
    shells = whole if width is None else [[shell(a, width) for a in side] for side in whole]
    located = Contingency.of_layers(*shells)
    if not errors:
        return Compared(located, None)
    if width is not None:
        whole = [[a[(slice(width, -width),) * box.ndim] for a in side] for side in whole]
    overlap = located if width is None else Contingency.of_layers(*whole)
    positions = (_positions(side, box) for side in whole)
    return Compared(located, Found(overlap, *positions))


def _positions(layers: Sequence[NDArray[Any]], box: Box) -> Positions:
    each = (Positions.of(labels, box.start) for labels in layers)
    return reduce(add, each, Positions.empty(box.ndim))


def _read(pair: LabelPair, box: Box, width: int | None) -> list[list[NDArray[Any]]]:
    """Read the predicted and the true layers of a box, with a margin for shells.

    Outside the compared region both sides are background, and likewise where the truth is not
    annotated.
    """
    margin = box if width is None else box.grow((width,) * box.ndim)
    there = margin.intersect(pair.compared)
    prediction, truth = pair.read(there)
    for unknown in [unannotated(layer, pair.ignore) for layer in truth]:
        if unknown is not None:
            prediction, truth = (
                [np.where(unknown, 0, a).astype(a.dtype) for a in side]
                for side in (prediction, truth)
            )
    widths = margin.widths_around(there)
    return [[np.pad(labels, widths) for labels in side] for side in (prediction, truth)]
