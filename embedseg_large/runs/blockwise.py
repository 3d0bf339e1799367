"""Sums over boxes."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

EDGE = {2: 4096, 3: 256}
"""Edge of the boxes that are read at a time, in voxels, by ndim."""


class Addable(Protocol):
    """A value that can be added to others of its kind, in any order."""

    def __add__(self, other: Any, /) -> Any:
        """Return the sum of both."""


T = TypeVar("T", bound=Addable)


class Sum(Generic[T]):
    """Adds tables up, small ones first, so that none is sorted more than a few times."""

    def __init__(self, zero: T) -> None:
        self._zero = zero
        self._sums: list[tuple[int, T]] = []
        """Of 2**n parts, as the digits of a binary counter."""

    def add(self, part: T) -> None:
        """Add a table; their order does not matter."""
        total, n = part, 0
        while self._sums and self._sums[-1][0] == n:
            total, n = self._sums.pop()[1] + total, n + 1
        self._sums.append((n, total))

    def whole(self) -> T:
        """Return the sum."""
        whole = self._zero
        for _, total in reversed(self._sums):
            whole = total + whole
        return whole
