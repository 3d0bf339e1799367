"""Intensities of instances in one channel, as sums that add up over boxes.

Voxels of up to 16 bits are added up as integers, exactly: the result is bit-identical for any
boxes. Others are added up in float64, and parts are joined by their means and squares about them
(Chan, Golub and LeVeque 1979), so the boxes affect only the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.measurement.kernels import add_integers, add_reals, add_squares

Values = NDArray[np.float64]
Integers = NDArray[np.int64]


class Intensities(Protocol):
    """Intensities of n instances."""

    def grouped(self, order: Integers, first: Integers, sizes: Integers) -> Intensities:
        """Join rows that are of one instance.

        Parameters
        ----------
        order
            The rows, sorted so that those of an instance are adjacent.
        first
            Start of each instance in `order`.
        sizes
            Number of voxels of each row, before sorting.
        """

    def and_also(self, other: Intensities) -> Intensities:
        """Put the rows of another part of the same channel after these."""

    def statistics(self, sizes: Integers) -> dict[str, NDArray[Any]]:
        """Return mean, min, max and standard deviation (n,) of instances with these sizes."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactIntensities:
    """Intensities of voxels of up to 16 bits."""

    sums: Integers
    """(n, 2) sums of the values, and of their squares modulo 2⁶⁴."""
    low: Integers
    high: Integers

    @classmethod
    def of(cls, rows: NDArray[np.int32], image: NDArray[Any], count: int) -> ExactIntensities:
        """Add up an image; row r - 1 of the result belongs to the voxels with row r."""
        limits = np.iinfo(np.int64)
        sums = np.zeros((count + 1, 2), np.int64)
        low, high = np.full(count + 1, limits.max), np.full(count + 1, limits.min)
        add_integers(rows.reshape(-1), image.reshape(-1), sums, low, high)
        return cls(sums[1:], low[1:], high[1:])

    def grouped(self, order: Integers, first: Integers, sizes: Integers) -> ExactIntensities:  # noqa: ARG002
        """Join rows that are of one instance."""
        return ExactIntensities(
            np.add.reduceat(self.sums[order], first),
            np.minimum.reduceat(self.low[order], first),
            np.maximum.reduceat(self.high[order], first),
        )

    def and_also(self, other: Intensities) -> ExactIntensities:
        """Put the rows of another part after these."""
        assert isinstance(other, ExactIntensities)
        return ExactIntensities(
            np.concatenate([self.sums, other.sums]),
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
        )

    def statistics(self, sizes: Integers) -> dict[str, NDArray[Any]]:
        """Compute mean, min, max and standard deviation."""
        total, squares = self.sums.T
        middle = np.rint(total / sizes).astype(np.int64)
        rest = (total - sizes * middle) / sizes
        about = squares - 2 * middle * total + sizes * middle * middle  # small again: exact
        variance = np.maximum(about / sizes - rest * rest, 0)
        return {
            "mean": middle + rest,
            "min": self.low,
            "max": self.high,
            "std": np.sqrt(variance),
        }


@dataclass(frozen=True, slots=True, eq=False)
class RealIntensities:
    """Intensities of floats and of integers with more bits."""

    means: Values
    squares: Values
    """Sums of squared differences from the mean."""
    low: Values
    high: Values

    @classmethod
    def of(cls, rows: NDArray[np.int32], image: NDArray[Any], count: int) -> RealIntensities:
        """Add up an image; rows as in `ExactIntensities.of`."""
        sums, squares = np.zeros(count + 1), np.zeros(count + 1)
        low, high = np.full(count + 1, np.inf), np.full(count + 1, -np.inf)
        rows, image = rows.reshape(-1), image.reshape(-1)
        if image.dtype == np.float16:  # not supported by numba
            image = image.astype(np.float32)
        add_reals(rows, image, sums, low, high)
        means = sums / np.maximum(np.bincount(rows, minlength=count + 1), 1)
        add_squares(rows, image, means, squares)
        return cls(means[1:], squares[1:], low[1:], high[1:])

    def grouped(self, order: Integers, first: Integers, sizes: Integers) -> RealIntensities:
        """Join rows that are of one instance."""
        weights = sizes[order].astype(np.float64)
        total = np.maximum(np.add.reduceat(weights, first), 1)
        lengths = np.diff(first, append=order.size)
        with np.errstate(invalid="ignore"):  # of infinite voxels
            means = np.add.reduceat(weights * self.means[order], first) / total
            apart = self.means[order] - np.repeat(means, lengths)
            squares = self.squares[order] + weights * apart * apart
        return RealIntensities(
            means,
            np.add.reduceat(squares, first),
            np.minimum.reduceat(self.low[order], first),
            np.maximum.reduceat(self.high[order], first),
        )

    def and_also(self, other: Intensities) -> RealIntensities:
        """Put the rows of another part after these."""
        assert isinstance(other, RealIntensities)
        names = ("means", "squares", "low", "high")
        return RealIntensities(
            *(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names)
        )

    def statistics(self, sizes: Integers) -> dict[str, NDArray[Any]]:
        """Compute mean, min, max and standard deviation."""
        std = np.sqrt(self.squares / sizes)
        return {"mean": self.means, "min": self.low, "max": self.high, "std": std}


def intensities_of(rows: NDArray[np.int32], image: NDArray[Any], count: int) -> Intensities:
    """Add up the voxels of an image.

    Parameters
    ----------
    rows
        Row of each voxel, 0 for background, else 1..count.
    image
        Image of the same shape.
    count
        Number of rows.
    """
    kind = ExactIntensities if is_exact(image.dtype) else RealIntensities
    return kind.of(rows, image, count)


def no_intensities(dtype: np.dtype[Any]) -> Intensities:
    """Return the intensities of zero instances, for an image of that dtype."""
    return intensities_of(np.zeros(0, np.int32), np.zeros(0, dtype), 0)


def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether voxels of a type are added up exactly."""
    return dtype.kind in "bui" and dtype.itemsize <= 2
