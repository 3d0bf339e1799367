"""Boxes of bounded size that decode few chunks twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedseg_large.geometry import Box
from embedseg_large.runs.boxes import EDGE, box_shape

BIG = (2000, 2048, 2048)


def decoded(shape: tuple[int, ...], box: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """Voxels of the chunks that each box meets, counted one by one."""
    whole = Box.whole(shape)
    counts = (Box(b.start, b.stop).count(chunk) for b in whole.split(box))
    return sum(counts) * int(np.prod(chunk))


@pytest.mark.parametrize(
    ("shape", "chunks", "expected"),
    [
        (BIG, [(64, 64, 64)], (256, 256, 256)),
        (BIG, [(128, 128, 128), (64, 64, 64)], (256, 256, 256)),
        (BIG, [None], (256, 256, 256)),
        (BIG, [], (256, 256, 256)),
        (BIG, [(1, 2048, 2048)], (4, 2048, 2048)),
        (BIG, [(1, 2048, 2048), None], (4, 2048, 2048)),
        ((300, 600, 500), [(1, 600, 500), (32, 64, 64)], (32, 600, 500)),
        ((5, 40, 40), [(64, 64, 64)], (5, 40, 40)),
        ((50_000, 40_000), [(512, 512)], (4096, 4096)),
        ((0, 7), [None], (1, 7)),
    ],
)
def test_boxes_are_whole_chunks(
    shape: tuple[int, ...],
    chunks: list[tuple[int, ...] | None],
    expected: tuple[int, ...],
) -> None:
    assert box_shape(shape, chunks) == expected


def test_chunks_that_do_not_fit_each_other_cost_time_and_not_memory() -> None:
    """Whole chunks of both would be 128 planes: 34 GB of a large image."""
    chunks = [(128, 128, 128), (1, 2048, 2048)]
    box = box_shape(BIG, chunks)
    assert np.prod(box) <= 256**3
    times = sum(decoded(BIG, box, chunk) for chunk in chunks) / np.prod(BIG)
    cubes = sum(decoded(BIG, (256,) * 3, chunk) for chunk in chunks) / np.prod(BIG)
    assert times < 14 < 60 < cubes


@pytest.mark.parametrize("chunk", [(1, 30_000, 30_000), (4000, 4000, 4000), (10**9,) * 3])
def test_a_chunk_larger_than_a_box_is_cut(chunk: tuple[int, int, int]) -> None:
    box = box_shape((4000, 30_000, 30_000), [chunk])
    assert EDGE[3] ** 3 / 2 < np.prod(box) <= EDGE[3] ** 3


SIZES = st.tuples(*(st.integers(1, 20),) * 2)


@given(shape=SIZES, one=SIZES, other=SIZES, edge=st.integers(1, 9))
def test_boxes_decode_no_more_than_cubes_and_are_not_larger(
    shape: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...], edge: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EDGE, 2, edge)
        box = box_shape(shape, [one, other])
    cube = tuple(min(edge, n) for n in shape)
    clipped = [tuple(map(min, chunk, shape)) for chunk in (one, other)]
    costs = [sum(decoded(shape, b, chunk) for chunk in clipped) for b in (box, cube)]
    assert np.prod(box) <= edge**2
    assert costs[0] <= costs[1]
