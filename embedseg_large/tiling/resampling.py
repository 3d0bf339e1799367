"""Two grids of voxels over the same space, and how values go from one to the other.

Voxels are intervals, and both ends of an axis stay where they are::

    source  |  0  |  1  |  2  |  3  |  4  |  5  |      6 voxels
    target  |    0    |    1    |    2    |  3  |      4 voxels: each spans 6/4 = 1.5 of the others

The value of a voxel depends only on its position in the whole grid, to the last bit, and not on the
box in which it is computed. Tiles can therefore be resampled one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from embedseg_large.voting import Taps

_PART = (16, 256, 256)
"""Voxels whose labels are computed at once."""


def nearest_voxels(start: int, stop: int, n_in: int, n_out: int) -> NDArray[np.intp]:
    """Return the voxel of an axis of `n_in` that contains the centre of each of `n_out` voxels.

    A centre on the boundary between two voxels belongs to the later one.

    Parameters
    ----------
    start, stop
        Half-open range of the `n_out` voxels.
    n_in, n_out
        Voxels of the axis to look up, and of the axis to fill.
    """
    # in integers: floor((i + 1/2) * n_in / n_out)
    return (2 * np.arange(start, stop, dtype=np.intp) + 1) * n_in // (2 * n_out)


def linear_weights(
    n_in: int, n_out: int, start: int = 0, stop: int | None = None
) -> tuple[int, csr_array]:
    """Return the weights of linear resampling without aliasing.

    The filter is a triangle of a half-width of one voxel of the coarser grid (as in Pillow's
    reducing resize); at the ends its remaining weights are scaled to add up to 1.

    Parameters
    ----------
    n_in, n_out
        Voxels of the axis before and after.
    start, stop
        Half-open range of the voxels after; default: all of them.

    Returns
    -------
    first, weights
        The first voxel needed before resampling, and float32 ``(stop - start, needed voxels)``;
        every row adds up to 1. Sums are formed in the same order for any requested range.
    """
    from scipy.sparse import csr_array

    stop = n_out if stop is None else stop
    step = n_in / n_out
    width = max(1.0, step)
    centers = (np.arange(start, stop, dtype=np.float64) + 0.5) * step - 0.5
    taps = np.ceil(centers - width)[:, np.newaxis] + np.arange(int(2 * width) + 1)
    weights = np.maximum(0.0, 1 - np.abs(taps - centers[:, np.newaxis]) / width)
    weights[(taps < 0) | (taps >= n_in)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    # indices without weight repeat those with weight, so that no unneeded voxel is read
    middle = np.clip(np.rint(centers), 0, n_in - 1)[:, np.newaxis]
    index = np.where(weights > 0, taps, middle).astype(np.intp)
    first, rows = int(index.min()), np.arange(len(index) + 1) * index.shape[1]
    shape = (len(index), int(index.max()) + 1 - first)
    flat = weights.astype(np.float32).ravel()
    return first, csr_array((flat, (index - first).ravel(), rows), shape=shape)


@dataclass(frozen=True, slots=True)
class ObjectSize:
    """Size of the objects of an image, or of those a model was trained on, as far as known.

    Parameters
    ----------
    width
        Mean extent along y and x, in voxels.
    depth
        Mean extent along z, in voxels.
    voxel_size
        Along (z,) y, x, in any unit.
    """

    width: float
    depth: float | None = None
    voxel_size: tuple[float, ...] | None = None

    def zoom_to(self, other: ObjectSize, ndim: int) -> tuple[float, ...]:
        """Return the magnification along each axis after which the objects are as large as others.

        Along z it makes depths equal if that of these objects is known. Otherwise it makes the
        elongation of the voxels equal, if known for both; or assumes that these objects are as long
        along z as along x, in units of the voxel size; or equals that along y and x.
        """
        plane = other.width / self.width
        return (*(self._zoom_along_z(other, plane),) * (ndim - 2), plane, plane)

    @property
    def likely_depth(self) -> float:
        """Depth; if unknown, as long along z as along x in units of the voxel size."""
        if self.depth is not None:
            return self.depth
        size = self.voxel_size or (1.0,)
        return self.width * (size[-1] / size[0])

    def _zoom_along_z(self, other: ObjectSize, plane: float) -> float:
        own, wanted = self.voxel_size, other.voxel_size
        if self.depth is None:
            if own is None:
                return plane
            if wanted is not None:
                return plane * (own[0] / own[-1]) / (wanted[0] / wanted[-1])
        return (other.width if other.depth is None else other.depth) / self.likely_depth


@dataclass(frozen=True, slots=True)
class Resampling:
    """A source grid, as stored, and a target grid, as the network requires it, over the same space.

    Parameters
    ----------
    source, target
        Voxels along each axis.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def by(cls, source: Sequence[int], zoom: Sequence[float]) -> Resampling:
        """Return the resampling that magnifies a grid by `zoom` along each axis, rounded."""
        target = (max(1, round(n * z)) for n, z in zip(source, zoom, strict=True))
        return cls(tuple(source), tuple(target))

    @property
    def is_identity(self) -> bool:
        """Whether both grids are the same."""
        return self.source == self.target

    @property
    def zoom(self) -> tuple[float, ...]:
        """Voxels of the target per voxel of the source."""
        return tuple(b / a for a, b in zip(self.source, self.target, strict=True))

    def needed(self, box: Box) -> Box:
        """Return the voxels of the source that a box of the target is computed from."""
        spans = []
        for a, b, n_in, n_out in zip(box.start, box.stop, self.source, self.target, strict=True):
            first, weights = linear_weights(n_in, n_out, a, b)
            spans.append((first, first + weights.shape[1]))
        return Box(*zip(*spans, strict=True))

    def image(self, voxels: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
        """Compute a box of the target, without aliasing.

        Parameters
        ----------
        voxels
            ``(channels, *needed(box).shape)``.
        box
            Of the target.

        Returns
        -------
        float32 ``(channels, *box.shape)``.
        """
        image: NDArray[np.float32] = voxels
        bounds = zip(box.start, box.stop, self.source, self.target, strict=True)
        for axis, (a, b, n_in, n_out) in enumerate(bounds, start=1):
            if n_in != n_out:
                image = _along(image, linear_weights(n_in, n_out, a, b)[1], axis)
        return image

    def nearest(self, voxels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Look up the voxels of the source that contain the centres of a box of the target.

        Parameters
        ----------
        voxels
            Any dtype, ``needed(box).shape``.
        box
            Of the target.
        """
        first = self.needed(box).start
        axes = zip(box.start, box.stop, self.source, self.target, first, strict=True)
        for axis, (a, b, n_in, n_out, start) in enumerate(axes):
            if n_in != n_out:
                voxels = voxels.take(nearest_voxels(a, b, n_in, n_out) - start, axis=axis)
        return voxels

    @property
    def back(self) -> Resampling:
        """The way back."""
        return Resampling(self.target, self.source)

    def centers(self, box: Box) -> Box:
        """Return the voxels of the target that contain the centres of a box of the source."""
        spans = zip(box.start, box.stop, self.source, self.target, strict=True)
        index = [nearest_voxels(a, b, n_out, n_in) for a, b, n_in, n_out in spans]
        return Box(tuple(int(i[0]) for i in index), tuple(int(i[-1]) + 1 for i in index))

    def covering(self, box: Box) -> Box:
        """Return the voxels of the target that the labels of a box of the source depend on."""
        return self.back.needed(box)

    def labels(self, labels: NDArray[Any], box: Box, within: Box | None = None) -> NDArray[Any]:
        """Map labels back to a box of the source, by vote: see `embedseg_large.voting`.

        Parameters
        ----------
        labels
            Integers in the machine's byte order, ``covering(box).shape``; for the whole source,
            those of the whole target.
        box
            Of the source.
        within
            The part of the target whose labels are known, with all `centers` of the box; then
            `labels` are those of ``covering(box).intersect(within)``, and are continued beyond it.
        """
        if self.is_identity:
            return labels
        from embedseg_large.voting import vote  # imports numba, slow for --help

        spans = zip(box.start, box.stop, self.target, self.source, strict=True)
        taps = [_taps(*span) for span in spans]
        seen = Box(*zip(*(one.span for one in taps), strict=True))
        if within is not None:
            known = seen.intersect(within)
            ends = zip(seen.start, known.start, known.stop, seen.stop, strict=True)
            labels = np.pad(labels, [(b - a, d - c) for a, b, c, d in ends], mode="edge")
        found = np.empty(box.shape, labels.dtype)
        for part in box.split(_PART[-len(box.shape) :]):  # a vote needs several copies of its part
            at = part.slices_in(box)
            rows = [one.rows(own) for one, own in zip(taps, at, strict=True)]
            needed = Box(*zip(*(one.span for one in rows), strict=True))
            found[at] = vote(labels[needed.slices_in(seen)], rows)
        return found


def _taps(start: int, stop: int, n_in: int, n_out: int) -> Taps:
    """Return what labels of a range of `n_out` voxels depend on, along an axis of `n_in`."""
    from embedseg_large.voting import Taps

    if n_in == n_out:
        return Taps.unchanged(start, stop)
    first, weights = linear_weights(n_in, n_out, start, stop)
    return Taps.of(first, weights, _nearest_in_turn(start, stop, n_in, n_out))


def _nearest_in_turn(start: int, stop: int, n_in: int, n_out: int) -> NDArray[np.intp]:
    """As `nearest_voxels`, but centres on a boundary belong to the later and the earlier in turn.

    Always the later one would displace labels.
    """
    at = np.arange(start, stop, dtype=np.intp)
    on_boundary = (2 * at + 1) * n_in % (2 * n_out) == 0
    found: NDArray[np.intp] = nearest_voxels(start, stop, n_in, n_out)
    found[on_boundary & (at % 2 == 1)] -= 1
    return found


def _along(image: NDArray[np.float32], weights: csr_array, axis: int) -> NDArray[np.float32]:
    """Multiply all lines along one axis by a matrix.

    The matrix is sparse: the few terms of a voxel are added in a fixed order, whatever else is
    computed, whereas BLAS would group them depending on the overall shape.
    """
    before, after = image.shape[:axis], image.shape[axis + 1 :]
    if not after:  # all lines at once
        flat: NDArray[np.float32] = weights @ image.reshape(-1, image.shape[-1]).T
        return np.ascontiguousarray(flat.T).reshape(*before, -1)
    lines = image.reshape(prod(before), image.shape[axis], prod(after))
    return np.stack([weights @ line for line in lines]).reshape(*before, -1, *after)
