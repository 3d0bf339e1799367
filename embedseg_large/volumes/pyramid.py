"""The arithmetic of resolution pyramids, one axis at a time where possible; no input or output.

Level ``k + 1`` is computed from level ``k``. A *factor* is the number of voxels of the finer level
that one voxel of the coarser level spans along an axis, its *cell*. Intensities are averaged.
Labels (the mean of two would be a third one) follow the positions in the metadata: where the
coarser level has its voxels at the centres of cells, the most frequent label of each, otherwise one
voxel of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedseg_large.geometry import Box

_Scalar = TypeVar("_Scalar", bound=np.generic)

LARGEST_COARSE_AXIS = 256
"""A pyramid ends once no axis is longer, in voxels: a level that opens at once in any viewer."""

SMALLEST_HALVED_AXIS = 64
"""Axes of this many voxels or fewer are not halved: thin volumes keep their planes."""

_RATIO_TOLERANCE = 1e-3  # stored scales are often rounded to three or four digits
_POSITION_TOLERANCE = 0.01  # in voxels; stored translations are rounded like scales


def halvings(
    shape: Sequence[int], voxel_size: Sequence[float] | None = None
) -> Iterator[tuple[int, ...]]:
    """Factors from each level to the next, until no axis is longer than 256 voxels.

    Parameters
    ----------
    shape
        Voxels of level 0 along each spatial axis.
    voxel_size
        Edge of a voxel along the same axes, in any one unit. An axis whose voxels are at least
        twice as long as the shortest edge is not halved, so that coarse levels become isotropic.
        None: all edges are equal.

    Yields
    ------
    tuple of int
        One factor per axis, 1 or 2.
    """
    size = tuple(shape)
    edge = (1.0,) * len(size) if voxel_size is None else tuple(voxel_size)
    while max(size) > LARGEST_COARSE_AXIS:
        factors = _halving(size, edge)
        if max(factors) == 1:  # every long axis has long voxels
            factors = _halving(size, (1.0,) * len(size))
        yield factors
        size = coarser_shape(size, factors)
        edge = tuple(e * f for e, f in zip(edge, factors, strict=True))


def _halving(size: Sequence[int], edge: Sequence[float]) -> tuple[int, ...]:
    limit = 2 * min(edge) * (1 - _RATIO_TOLERANCE)
    return tuple(
        2 if n > SMALLEST_HALVED_AXIS and e < limit else 1 for n, e in zip(size, edge, strict=True)
    )


def coarser_shape(shape: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """Compute the shape of the next level; an incomplete last voxel is kept."""
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def axis_factor(fine: int, coarse: int, ratio: float | None) -> float:
    """Number of voxels of the finer level spanned by one voxel of the coarser level.

    Parameters
    ----------
    fine, coarse
        Voxels along the axis in the finer and in the coarser level.
    ratio
        Voxel size of the coarser level over that of the finer one, from the metadata, or None.
        It is used if it explains the shapes (300 voxels become 100 or 99 with a ratio of 3.01);
        otherwise the shapes decide, because metadata are wrong more often than arrays.
    """
    if ratio is None or not math.isfinite(ratio) or ratio <= 0:
        return fine / coarse
    nearest = round(ratio)
    factor = nearest if abs(ratio - nearest) <= _RATIO_TOLERANCE * ratio else ratio
    explains = math.floor(fine / factor) <= coarse <= math.ceil(fine / factor)
    return float(factor) if explains else fine / coarse


def source_indices(start: int, stop: int, factor: float, size: int) -> npt.NDArray[np.intp]:
    """Choose the voxels of the finer level that represent a range of the coarser one.

    Voxel ``i`` of the coarser level spans ``[i * factor, (i + 1) * factor)`` and is represented by
    the voxel that contains the centre of that span, the lower one if the centre is a boundary:
    ``ceil((i + 1/2) * factor - 1)``. A factor of 2 is ``[::2]``, of 3 ``[1::3]``.

    Parameters
    ----------
    start, stop
        Half-open range of voxels in the coarser level.
    factor
        From `axis_factor`.
    size
        Voxels of the finer level along this axis; indices are clipped to it.

    Returns
    -------
    ndarray of intp
        One index per output voxel, non-decreasing.
    """
    middle = (np.arange(start, stop) + 0.5) * factor
    # A boundary that floating point moved up by an ulp would jump to the next voxel.
    index: npt.NDArray[np.intp] = np.ceil(np.round(middle, 6) - 1).astype(np.intp)
    return np.minimum(index, size - 1)


def nearest_source(
    target: Box, factors: Sequence[float], fine_shape: Sequence[int]
) -> tuple[Box, tuple[npt.NDArray[np.intp], ...]]:
    """Find the region to read from the finer level, and the voxels of it that form `target`.

    Returns
    -------
    box
        The smallest region of the finer level that contains all required voxels.
    indices
        One array per axis, relative to `box`, for `pick`.
    """
    axes = zip(target.start, target.stop, factors, fine_shape, strict=True)
    indices = [source_indices(*axis) for axis in axes]
    box = Box(tuple(int(i[0]) for i in indices), tuple(int(i[-1]) + 1 for i in indices))
    return box, tuple(i - a for i, a in zip(indices, box.start, strict=True))


def pick(
    voxels: npt.NDArray[_Scalar], indices: Sequence[npt.NDArray[np.intp]]
) -> npt.NDArray[_Scalar]:
    """Select the voxels at the crossings of ascending indices, one array per axis.

    The same as ``voxels[np.ix_(*indices)]``; without a copy where indices are evenly spaced.
    """
    for axis, index in enumerate(indices):
        steps = np.diff(index)
        step = int(steps[0]) if steps.size else 1
        even = step > 0 and bool((steps == step).all())
        at = slice(int(index[0]), int(index[-1]) + 1, step) if even else index
        voxels = voxels[(slice(None),) * axis + (at,)]
    return voxels


def is_central(factor: float, offset: float) -> bool:
    """Whether voxels of the coarser level lie at the centres of their cells, of several voxels.

    Parameters
    ----------
    factor
        From `axis_factor`.
    offset
        Distance from the first voxel of the finer level to that of the coarser one, in voxels of
        the finer level: 0 for a pyramid of samples.
    """
    whole = factor > 1 and factor == round(factor)
    return whole and abs(offset - (factor - 1) / 2) <= _POSITION_TOLERANCE


def cell_source(target: Box, factors: Sequence[int], fine_shape: Sequence[int]) -> Box:
    """Find the region of the finer level with the cells of `target`, for whole factors."""
    start = tuple(a * f for a, f in zip(target.start, factors, strict=True))
    stop = (b * f for b, f in zip(target.stop, factors, strict=True))
    return Box(start, tuple(min(b, n) for b, n in zip(stop, fine_shape, strict=True)))


def mean_pool(image: npt.NDArray[_Scalar], factors: Sequence[int]) -> npt.NDArray[_Scalar]:
    """Average cells of ``factors`` voxels and keep the dtype, rounding half to even.

    Parameters
    ----------
    image
        Any numeric dtype, any number of axes. An incomplete last cell is padded with its last
        voxels. Of booleans, a cell is true if any voxel is.
    factors
        Voxels to average along each axis.

    Returns
    -------
    ndarray
        Shape ``ceil(image.shape / factors)``, dtype of `image`.
    """
    padding = [(0, -n % f) for n, f in zip(image.shape, factors, strict=True)]
    full: npt.NDArray[Any] = np.pad(image, padding, mode="edge")
    total: npt.NDArray[Any] = np.zeros(coarser_shape(image.shape, factors), _sum_dtype(image.dtype))
    for offset in product(*(range(f) for f in factors)):
        total += full[tuple(slice(o, None, f) for o, f in zip(offset, factors, strict=True))]
    total /= math.prod(factors)
    if np.issubdtype(image.dtype, np.integer):
        np.rint(total, out=total)
    return total.astype(image.dtype)


def mode_pool(
    labels: npt.NDArray[_Scalar], factors: Sequence[int], first: Sequence[int] | None = None
) -> npt.NDArray[_Scalar]:
    """Take the most frequent label of each cell of ``factors`` voxels.

    Parameters
    ----------
    labels
        Integers, 2D or 3D. An incomplete last cell counts the voxels that it has.
    factors
        Voxels of a cell along each axis. Of labels that are equally frequent, the voxel at the
        centre decides (`Taps.cells`); if it has none of them, the first in raster order.
    first
        Number of the first cell along each axis; default: 0.

    Returns
    -------
    ndarray
        Shape ``ceil(labels.shape / factors)``, dtype of `labels`.
    """
    if max(factors) == 1:
        return labels
    from embedseg_large.voting import Taps, vote  # imports numba, slow for --help

    axes = zip(factors, labels.shape, first or (0,) * labels.ndim, strict=True)
    return vote(labels, [Taps.cells(*axis) for axis in axes])


def _sum_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    # Sums of 16-bit voxels of a 2 x 2 x 2 cell are exact in float32, which halves the memory.
    return np.float32 if dtype.itemsize <= 2 else np.float64
