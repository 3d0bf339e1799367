"""How many voxels each predicted object shares with each true one.

The table is sparse and additive: the sum of the tables of disjoint regions is the table of their
union, so two label volumes of any size are compared region by region, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError

Ids = NDArray[np.uint64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """Voxel counts of the (predicted id, true id) pairs that occur, background 0 included.

    Parameters
    ----------
    prediction_ids, truth_ids
        One pair per entry, uint64, sorted by prediction and then by truth, no pair twice.
    counts
        Number of voxels of each pair, int64, all positive.
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

    def __add__(self, other: Contingency) -> Contingency:
        """Return the table of both regions together."""
        return _summed(
            np.concatenate([self.prediction_ids, other.prediction_ids]),
            np.concatenate([self.truth_ids, other.truth_ids]),
            np.concatenate([self.counts, other.counts]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contingency):
            return NotImplemented
        return (
            np.array_equal(self.prediction_ids, other.prediction_ids)
            and np.array_equal(self.truth_ids, other.truth_ids)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays cannot be hashed

    @property
    def voxels(self) -> int:
        """Number of voxels compared."""
        return int(self.counts.sum())


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
    if (int(prediction_ids.max()) + 1) * width > 2**64:
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
