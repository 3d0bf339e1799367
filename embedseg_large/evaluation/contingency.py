"""How many voxels each predicted object shares with each true one.

The table is sparse and additive: the sum of the tables of disjoint regions is the table of their
union, so two label volumes of any size are compared region by region, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from embedseg_large.errors import VolumeError

Ids = NDArray[np.uint64]
Counts = NDArray[np.int64]
Layers = NDArray[Any] | Sequence[NDArray[Any]]
"""A label array, or several whose objects may overlap."""

_SIDES = ("prediction", "truth")


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """Voxel counts of the (predicted id, true id) pairs that occur, background 0 included.

    Parameters
    ----------
    prediction_ids, truth_ids
        One pair per entry, uint64, sorted by prediction and then by truth, no pair twice.
    counts
        Number of voxels of each pair, int64. Of objects that overlap others of their side, a pair
        with the background holds the rest: the size of an object is always the sum of its
        counts, so that the rest is negative where a voxel is shared with several.
    """

    prediction_ids: Ids
    truth_ids: Ids
    counts: Counts

    @classmethod
    def empty(cls) -> Contingency:
        """Return the table of no voxels: the zero of ``+``."""
        nothing = np.zeros(0, np.uint64)
        return cls(nothing, nothing, np.zeros(0, np.int64))

    @classmethod
    def of(cls, prediction: NDArray[Any], truth: NDArray[Any]) -> Contingency:
        """Count the pairs of two label arrays.

        Parameters
        ----------
        prediction, truth
            Label arrays of one shape and of any integer dtypes up to uint64; 0 is background.

        Raises
        ------
        VolumeError
            If the shapes differ, a dtype is not an integer, or an id is negative.
        """
        if prediction.shape != truth.shape:
            raise VolumeError(
                f"prediction has shape {prediction.shape} and truth {truth.shape}; "
                "compare the same region at the same level of both"
            )
        _check_labels(prediction, "prediction")
        _check_labels(truth, "truth")
        return _from_runs(prediction.reshape(-1), truth.reshape(-1))

    @classmethod
    def of_layers(cls, prediction: Layers, truth: Layers) -> Contingency:
        """Count the pairs of objects that may overlap.

        Parameters
        ----------
        prediction, truth
            Each a label array of one shape, or a list of several, where an object may share voxels
            with those of other layers; 0 is background.

        Raises
        ------
        VolumeError
            As for `of`.
        """
        sides = [_layers(prediction), _layers(truth)]
        if all(len(side) == 1 for side in sides):
            return cls.of(sides[0][0], sides[1][0])
        shapes = sorted({layer.shape for side in sides for layer in side})
        if len(shapes) > 1:
            raise VolumeError(
                f"prediction and truth have layers of shapes {shapes[0]} and {shapes[1]}; "
                "compare the same region at the same level of both"
            )
        return _from_masks(*(_masks(*pair) for pair in zip(sides, _SIDES, strict=True)))

    @classmethod
    def of_annotated(cls, prediction: NDArray[Any], truth: Layers) -> Contingency:
        """Count the pairs where the truth is annotated, that is, not negative."""
        layers = _layers(truth)
        known = np.logical_and.reduce([layer >= 0 for layer in layers])
        return cls.of_layers([prediction[known]], [layer[known] for layer in layers])

    def __add__(self, other: Contingency) -> Contingency:
        """Return the table of both regions together."""
        both = _summed(
            np.concatenate([self.prediction_ids, other.prediction_ids]),
            np.concatenate([self.truth_ids, other.truth_ids]),
            np.concatenate([self.counts, other.counts]),
        )
        return both._without_zeros()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contingency):
            return NotImplemented
        return (
            np.array_equal(self.prediction_ids, other.prediction_ids)
            and np.array_equal(self.truth_ids, other.truth_ids)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays cannot be hashed

    def _without_zeros(self) -> Contingency:
        """Omit pairs whose counts add up to zero, as those of overlapping objects may."""
        kept = self.counts != 0
        if kept.all():
            return self
        return Contingency(self.prediction_ids[kept], self.truth_ids[kept], self.counts[kept])

    @property
    def voxels(self) -> int:
        """Number of voxels compared."""
        return int(self.counts.sum())


def _layers(side: Layers) -> list[NDArray[Any]]:
    return [side] if isinstance(side, np.ndarray) else list(side)


def _masks(layers: Sequence[NDArray[Any]], name: str) -> tuple[Ids, csr_array]:
    """Return the ids of all objects, and their masks: objects by voxels, 0 or 1."""
    places, ids = [], []
    for layer in layers:
        _check_labels(layer, name)
        flat = layer.reshape(-1)
        place = np.flatnonzero(flat)
        places.append(place)
        ids.append(flat[place].astype(np.uint64))
    distinct, row = np.unique(np.concatenate(ids), return_inverse=True)
    column = np.concatenate(places)
    ones = np.ones(column.size, np.int64)
    masks = coo_array((ones, (row, column)), shape=(distinct.size, layers[0].size)).tocsr()
    masks.data[:] = 1  # a voxel that an object has in two layers counts once
    return distinct, masks


def _from_masks(prediction: tuple[Ids, csr_array], truth: tuple[Ids, csr_array]) -> Contingency:
    """Count shared voxels; what is left of an object is its pair with the background."""
    (p_ids, p_masks), (t_ids, t_masks) = prediction, truth
    shared = (p_masks @ t_masks.T).tocoo()
    p_left = p_masks.sum(axis=1) - shared.sum(axis=1)
    t_left = t_masks.sum(axis=1) - shared.sum(axis=0)
    outside = p_masks.shape[1] - int(shared.sum() + p_left.sum() + t_left.sum())
    rows, columns = shared.coords
    none = np.zeros(1, np.uint64)
    p = np.concatenate([p_ids[rows], p_ids, np.repeat(none, t_ids.size), none])
    t = np.concatenate([t_ids[columns], np.repeat(none, p_ids.size), t_ids, none])
    counts = np.concatenate([shared.data, p_left, t_left, [outside]])
    return _summed(p, t, counts)._without_zeros()


def _check_labels(labels: NDArray[Any], name: str) -> None:
    """Refuse values that cannot be ids."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise VolumeError(
            f"{name} has dtype {labels.dtype}; labels are integers, one id per object: convert "
            "them first"
        )
    if labels.size and np.issubdtype(labels.dtype, np.signedinteger) and labels.min() < 0:
        raise VolumeError(
            f"{name} has the negative id {labels.min()}; ids are 0 (background) or positive"
        )


def _from_runs(prediction: NDArray[Any], truth: NDArray[Any]) -> Contingency:
    """Count pairs of flat arrays by runs, of which real labels have a tenth as many as voxels."""
    if prediction.size == 0:
        return Contingency.empty()
    changes = prediction[1:] != prediction[:-1]
    changes |= truth[1:] != truth[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=prediction.size)
    return _summed(prediction[starts].astype(np.uint64), truth[starts].astype(np.uint64), lengths)


def _summed(prediction_ids: Ids, truth_ids: Ids, counts: Counts) -> Contingency:
    """Sort the pairs and add up the counts of equal ones."""
    if counts.size == 0:
        return Contingency.empty()
    width = int(truth_ids.max()) + 1
    if (int(prediction_ids.max()) + 1) * width >= 2**64:  # the width itself must fit, too
        return _summed_wide(prediction_ids, truth_ids, counts)
    # A pair fits in one integer, which sorts several times faster than two.
    pairs = prediction_ids * np.uint64(width) + truth_ids
    order = np.argsort(pairs)
    pairs = pairs[order]
    first = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    prediction, truth = np.divmod(pairs[first], np.uint64(width))
    return Contingency(prediction, truth, _sums(counts[order], first))


def _summed_wide(prediction_ids: Ids, truth_ids: Ids, counts: Counts) -> Contingency:
    """Do the same for ids too large for two of them to fit in one integer."""
    order = np.lexsort((truth_ids, prediction_ids))
    p, t = prediction_ids[order], truth_ids[order]
    first = np.concatenate([[True], (p[1:] != p[:-1]) | (t[1:] != t[:-1])])
    return Contingency(p[first], t[first], _sums(counts[order], first))


def _sums(counts: Counts, first: NDArray[np.bool_]) -> Counts:
    """Add up the stretches of `counts` that begin where `first` is true."""
    return np.add.reduceat(counts, np.flatnonzero(first))
