"""Compare two label volumes of any size, box by box.

What a box tells is a small table that adds up, so the sum is that of the whole volumes, whatever
the boxes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.engine.label_pairs import LabelPair
from embedseg_large.geometry import Box
from embedseg_large.io.volume import Volume
from embedseg_large.metrics.contingency import Contingency
from embedseg_large.metrics.errors import Found, Positions
from embedseg_large.metrics.localisation import shell

_EDGE = {2: 4096, 3: 256}
"""Of the boxes that are read at a time, in voxels, by ndim."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What two label volumes have in common; that of disjoint regions adds up."""

    located: Contingency
    """Overlaps that are scored: of masks, or of their shells."""
    found: Found | None
    """Overlaps of masks, and positions; None if no errors are wanted."""

    def __add__(self, other: Compared) -> Compared:
        located = self.located + other.located
        if self.found is None or other.found is None:
            return Compared(located, None)
        return Compared(located, self.found + other.found)


def compare(pair: LabelPair, *, shell_width: int | None = None, errors: bool = False) -> Compared:
    """Compare two label volumes.

    Parameters
    ----------
    pair
        The volumes.
    shell_width
        Compare the shells of the objects, so many voxels thick; None compares whole masks.
    errors
        Also collect what `embedseg_large.metrics.errors.find_errors` needs.

    Raises
    ------
    VolumeError
        The voxels are no integers, or cannot be decoded.
    """
    ndim = pair.truth.ndim
    boxes = Box.whole(pair.truth.spatial_shape).split((_EDGE[ndim],) * ndim)
    parts = (_compare_box(pair, box, shell_width, errors) for box in boxes)
    return _added_up(parts, Compared(Contingency.empty(), Found.empty(ndim) if errors else None))


def _compare_box(pair: LabelPair, box: Box, width: int | None, errors: bool) -> Compared:
    prediction, p_shell = _read(pair.prediction, box, width)
    truth, t_shell = _read(pair.truth, box, width)
    located = Contingency.of(p_shell, t_shell)
    if not errors:
        return Compared(located, None)
    overlap = located if width is None else Contingency.of(prediction, truth)
    positions = (Positions.of(labels, box.start) for labels in (prediction, truth))
    return Compared(located, Found(overlap, *positions))


def _read(volume: Volume, box: Box, width: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the labels of a box, and what is compared of them: the same, or their shells."""
    if width is None:
        labels = volume.read(box)
        return labels, labels
    margin = box.grow((width,) * box.ndim)
    there = margin.clip(volume.spatial_shape)
    labels = volume.read(there)
    beyond = [
        (a - b, c - d)
        for a, b, c, d in zip(there.start, margin.start, margin.stop, there.stop, strict=True)
    ]
    return labels[box.slices_in(there)], shell(np.pad(labels, beyond), width)


def _added_up(parts: Iterable[Compared], zero: Compared) -> Compared:
    """Add tables up, small ones first, so that none is sorted more than a few times."""
    sums: list[tuple[int, Compared]] = []  # of 2**n parts, as the digits of a binary counter
    for part in parts:
        total, n = part, 0
        while sums and sums[-1][0] == n:
            total, n = sums.pop()[1] + total, n + 1
        sums.append((n, total))
    for _, total in reversed(sums):
        zero = total + zero
    return zero
