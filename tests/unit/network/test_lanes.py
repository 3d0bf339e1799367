"""Passes run side by side, in order, one thread each, and never many at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event, Lock, Thread, Timer

import pytest
import torch

from embedseg_large.network.lanes import Lanes, in_order


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


def test_shared_lanes_run_no_more_passes_than_they_are() -> None:
    running, most = 0, 0
    lock = Lock()

    def one(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return n

    with Lanes(2) as lanes, ThreadPoolExecutor(4) as tiles:
        found = tiles.map(lambda _: list(lanes.in_order(one, range(6), 6)), range(4))
        assert list(found) == [list(range(6))] * 4
    assert most == 2


def test_the_first_item_can_decide_alone() -> None:
    begun: list[int] = []
    with Lanes(3) as lanes:
        results = lanes.in_order(begun.append, range(9), 3, at_first=1)
        next(results)
        assert begun == [0]
        next(results)
        assert len(begun) > 1


def test_leaving_the_lanes_ends_what_waits_for_them() -> None:
    entered, leave, begun = Event(), Event(), []

    def one(n: int) -> int:
        begun.append(n)
        entered.set()
        assert leave.wait(10)
        return n

    def tile() -> str:
        try:
            return str(list(lanes.in_order(one, range(50), 2)))
        except (CancelledError, RuntimeError):  # not begun, or asked for too late
            return "ended"

    with ThreadPoolExecutor(2) as tiles:
        with Lanes(1) as lanes:
            found = [tiles.submit(tile) for _ in range(2)]
            assert entered.wait(10)
            Timer(0.05, leave.set).start()
        assert [f.result(10) for f in found] == ["ended", "ended"]
    assert len(begun) == 1
