"""Passes of the network side by side on the CPU, with results that do not depend on their number.

A convolution on the CPU sums in an order that depends on its number of threads, and so do the last
bits of its result. Therefore every pass has *one* thread, and several passes run at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computed on `lanes` threads.

    Inside the function torch has one thread. At most `lanes` items are being processed or waiting
    to be yielded, so memory does not grow with the number of items. After the first result no
    further item begins until the second is asked for, as the caller may not want it.
    """
    threads = torch.get_num_threads()
    waiting = iter(items)
    try:
        with ThreadPoolExecutor(lanes, "lane", _use_one_thread) as pool:
            running = deque(pool.submit(function, item) for item in islice(waiting, lanes))
            if running:
                yield running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(waiting, 1))
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(waiting, 1))
                yield result
    finally:
        # torch sets the number for this thread and for all threads started later: undo the latter
        torch.set_num_threads(threads)


def _use_one_thread() -> None:
    """Give torch one thread in the calling thread, permanently.

    A thread adopts the process's number when it first reads it. Reading before setting prevents
    another thread, which may change that number in the meantime, from overriding it.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
