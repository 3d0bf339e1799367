"""Tiles that suit a volume: no larger than the model's, and less is seen twice."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedseg_large.tiling.axis import STRIDE, balance, count, round_up, total_grown
from embedseg_large.tiling.economy import economical_tile
from embedseg_large.tiling.grid import Grid

TILE, CONTEXT = (192,) * 3, (16,) * 3


def seen(shape: tuple[int, ...], tile: tuple[int, ...], context: tuple[int, ...]) -> int:
    grid = Grid(shape, tile, context, padded=True)
    return sum(grid.tile(index).region.size for index in grid)


def largest(shape: tuple[int, ...], tile: tuple[int, ...], context: tuple[int, ...]) -> int:
    grid = Grid(shape, tile, context, padded=True)
    return max(grid.tile(index).region.size for index in grid)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((100, 120, 192), (104, 120, 192)),  # one tile
        ((236, 275, 271), (240, 144, 272)),  # cut along one axis, not three
        ((40, 4000, 4000), (40, 576, 400)),  # flat and wide
        ((8, 10**15, 10**15), None),
    ],
)
def test_tiles_suit_the_volume(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    found = economical_tile(shape, TILE, CONTEXT)
    assert expected is None or found == expected
    assert all(core % STRIDE == 0 for core in found)


@pytest.mark.parametrize("size", [1024, 2048, 5000, 100_000])
def test_large_volumes_are_seen_at_most_1_6_times(size: int) -> None:
    cores = economical_tile((size,) * 3, TILE, CONTEXT)
    totals = (total_grown(0, count(size, core), size, core, 16, size) for core in cores)
    assert prod(total / size for total in totals) <= 1.6


@given(st.data(), st.integers(2, 3))
def test_they_need_no_more_memory_and_see_no_more(data: st.DataObject, ndim: int) -> None:
    def sizes(low: int, high: int, multiple: int = 1) -> tuple[int, ...]:
        drawn = st.tuples(*(st.integers(low, high),) * ndim)
        return tuple(n * multiple for n in data.draw(drawn))

    shape, tile, context = sizes(1, 150), sizes(1, 8, STRIDE), sizes(0, 2, STRIDE)
    found = economical_tile(shape, tile, context)
    plain = tuple(balance(n, s) for n, s in zip(shape, tile, strict=True))
    assert largest(shape, found, context) <= prod(
        t + 2 * c for t, c in zip(tile, context, strict=True)
    )
    assert seen(shape, found, context) <= seen(shape, plain, context)
    assert all(core <= round_up(n, STRIDE) for core, n in zip(found, shape, strict=True))
