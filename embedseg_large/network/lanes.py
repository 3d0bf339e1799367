"""Passes of the network side by side on the CPU, with results that do not depend on their number.

A convolution on the CPU sums in an order that depends on its number of threads, and so do the last
bits of its result. Therefore every pass has *one* thread, and several passes run at a time: those
of one tile, and those of several tiles that share the lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """Threads for passes; whoever predicts at the same time may share them.

    Inside a pass torch has one thread. Leaving the context ends them: passes that run are finished,
    and nothing begins after that.

    Parameters
    ----------
    count
        Number of passes that run at a time, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "lane", _use_one_thread)

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        # torch sets the number for this thread and for all threads started later: undo the latter
        torch.set_num_threads(self._threads)

    def in_order(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        most: int,
        at_first: int | None = None,
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item, in order.

        At most `most` items are being processed or waiting to be yielded, so memory does not grow
        with the number of items; until the first result at most `at_first`, and from it until the
        second is asked for no further one begins: the caller may want the first only. What is
        running when the caller stops is finished before this ends.
        """
        waiting = iter(items)
        running: deque[Future[Result]] = deque()
        try:
            self._fill(running, function, waiting, at_first or most)
            if running:
                yield running.popleft().result()
                self._fill(running, function, waiting, most)
            while running:
                result = running.popleft().result()
                self._fill(running, function, waiting, most)
                yield result
        finally:
            wait([future for future in running if not future.cancel()])

    def _fill(
        self,
        running: deque[Future[Result]],
        function: Callable[[Item], Result],
        waiting: Iterator[Item],
        most: int,
    ) -> None:
        free = most - len(running)
        running.extend(self._pool.submit(function, item) for item in islice(waiting, free))


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, on as many lanes of their own."""
    with Lanes(lanes) as own:
        yield from own.in_order(function, items, lanes)


def _use_one_thread() -> None:
    """Give torch one thread in the calling thread, permanently.

    A thread adopts the process's number when it first reads it. Reading before setting prevents
    another thread, which may change that number in the meantime, from overriding it.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
