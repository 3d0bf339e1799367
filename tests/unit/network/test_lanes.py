"""Passes run side by side, in order, one thread each, and never many at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Thread

import pytest
import torch

from embedseg_large.network.lanes import in_order


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(lanes: int) -> None:
    def slower_first(n: int) -> int:
        time.sleep((3 - n % 3) / 500)
        return n

    assert list(in_order(slower_first, range(9), lanes)) == list(range(9))


@pytest.mark.parametrize("lanes", [1, 3])
def test_no_more_items_are_taken_than_there_are_lanes(lanes: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(12):
            taken += 1
            yield n

    for used, _ in enumerate(in_order(abs, items(), lanes), start=1):
        assert taken <= used + lanes


def test_a_lane_has_one_thread_and_nothing_else_is_changed() -> None:
    before = torch.get_num_threads()
    assert set(in_order(lambda _: torch.get_num_threads(), range(4), 2)) == {1}
    seen = []
    later = Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *seen] == [before, before]


def test_an_error_in_a_lane_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // n, [1, 0, 2], 2))
