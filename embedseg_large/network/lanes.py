"""Concurrent passes of the network on the CPU, with results that do not depend on their number.

The order in which a convolution on the CPU sums, and therefore the last bits of its result, depend
on its number of threads. So every pass has *one* thread, and several passes run concurrently: those
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
    """Threads for passes; concurrent predictions may share them.

    Inside a pass torch uses one thread. Leaving the context ends them: running passes are finished,
    and no further ones start.

    Parameters
    ----------
    count
        Number of concurrent passes, at least 1.
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
        # torch sets the number for this thread and all threads started later: undo the latter
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
        with the number of items. Before the first result at most `at_first` items are started, and
        no further one until the second result is requested, because the caller may only need the
        first. Items that are running when the caller stops are finished before the iterator ends.
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
    """Yield ``function(item)`` for each item, in order, on a private set of lanes."""
    with Lanes(lanes) as own:
        yield from own.in_order(function, items, lanes)


def _use_one_thread() -> None:
    """Give torch one thread in the calling thread, permanently.

    A thread adopts the process's number when it first reads it. Reading before setting prevents
    another thread, which may change that number in the meantime, from overriding it.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
