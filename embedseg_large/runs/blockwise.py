"""Sums over boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from embedseg_large.geometry import Box
from embedseg_large.runs.tasks import Call, Each, Runner, Task


class Addable(Protocol):
    """A value that can be added to others of its kind, in any order."""

    def __add__(self, other: Any, /) -> Any:
        """Return the sum of both."""


T = TypeVar("T", bound=Addable)


class Sum(Generic[T]):
    """Adds up tables, small ones first, so that none is sorted more than a few times."""

    def __init__(self, zero: T) -> None:
        self._zero = zero
        self._sums: list[tuple[int, T]] = []
        """Sums of 2**n parts each, like the digits of a binary counter."""

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


def sum_over(
    boxes: Iterable[Box],
    call: Callable[[Box], Call],
    zero: T,
    *,
    stage: str,
    workers: Runner | None,
) -> T:
    """Add up the results of boxes.

    Parameters
    ----------
    boxes
        The boxes, in any order.
    call
        Picklable; returns the call for a box, whose result is added.
    zero
        The result for no boxes.
    stage
        Name of the tasks on workers.
    workers
        Process the boxes; None: this process does.
    """
    total = Sum(zero)
    if workers is None:
        for box in boxes:
            function, item, *_ = call(box)
            total.add(function(*item))
    else:
        tasks = (Task(stage=stage, make=partial(call, box)) for box in boxes)
        workers.run(Each(tasks, lambda _, part: total.add(part)))
    return total.whole()
