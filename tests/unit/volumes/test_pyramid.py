from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.volumes.pyramid import (
    axis_factor,
    cell_source,
    coarser_shape,
    halvings,
    is_central,
    mean_pool,
    mode_pool,
    nearest_source,
    pick,
    source_indices,
)


def shapes_of(shape: tuple[int, ...], voxel: tuple[float, ...] | None) -> list[tuple[int, ...]]:
    shapes = [shape]
    for factors in halvings(shape, voxel):
        shapes.append(coarser_shape(shapes[-1], factors))
    return shapes


def test_a_small_volume_has_one_level() -> None:
    assert shapes_of((256, 100, 256), None) == [(256, 100, 256)]


def test_thin_axes_keep_their_planes() -> None:
    assert shapes_of((64, 1000, 1000), None)[-1] == (64, 250, 250)


def test_long_voxels_wait_until_the_others_are_as_long() -> None:
    shapes = shapes_of((400, 2000, 2000), (2.0, 0.5, 0.5))
    assert shapes == [(400, 2000, 2000), (400, 1000, 1000), (400, 500, 500), (200, 250, 250)]


def test_a_long_axis_of_long_voxels_is_halved_all_the_same() -> None:
    assert shapes_of((1000, 60, 60), (5.0, 1.0, 1.0))[-1] == (250, 60, 60)


@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=3),
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_every_pyramid_shrinks_to_the_largest_coarse_axis(
    shape: list[int], voxel: list[float]
) -> None:
    shapes = shapes_of(tuple(shape), tuple(voxel[: len(shape)]))
    assert max(shapes[-1]) <= 256
    assert all(np.prod(a) > np.prod(b) for a, b in pairwise(shapes))


@pytest.mark.parametrize(
    ("fine", "coarse", "ratio", "factor"),
    [
        (100, 50, 2.0, 2.0),
        (101, 51, 2.0, 2.0),  # rounded up
        (101, 50, 2.0, 2.0),  # rounded down
        (300, 100, 3.001, 3.0),  # a rounded scale
        (100, 40, 2.5, 2.5),
        (100, 25, 2.0, 4.0),  # the metadata are wrong
        (100, 25, None, 4.0),
        (100, 25, 0.0, 4.0),
        (100, 25, float("nan"), 4.0),
    ],
)
def test_scales_decide_factors_only_if_they_explain_the_shapes(
    fine: int, coarse: int, ratio: float | None, factor: float
) -> None:
    assert axis_factor(fine, coarse, ratio) == factor


@pytest.mark.parametrize(
    ("factor", "first"), [(1.0, [0, 1, 2]), (2.0, [0, 2, 4]), (3.0, [1, 4, 7]), (2.5, [1, 3, 6])]
)
def test_a_coarse_voxel_is_the_middle_of_its_span_or_the_lower_of_two(
    factor: float, first: list[int]
) -> None:
    assert source_indices(0, 3, factor, 100).tolist() == first


def test_indices_do_not_leave_the_finer_level() -> None:
    assert source_indices(0, 2, 4.0, 5).tolist() == [1, 4]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 299))
def test_any_cut_of_the_work_takes_the_same_voxels(fine: int, coarse: int, cut: int) -> None:
    coarse, cut = min(fine, coarse), min(cut, fine, coarse)
    factor = axis_factor(fine, coarse, None)
    whole = source_indices(0, coarse, factor, fine)
    parts = source_indices(0, cut, factor, fine), source_indices(cut, coarse, factor, fine)
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.all(np.diff(whole) >= 1)  # no voxel twice when shrinking


def test_nearest_source_reads_no_more_than_it_needs() -> None:
    box, indices = nearest_source(Box((2, 0), (4, 3)), (2.0, 3.0), (9, 9))
    assert box == Box((4, 1), (7, 8))
    assert [i.tolist() for i in indices] == [[0, 2], [0, 3, 6]]


def test_cell_source_is_clipped_to_the_volume() -> None:
    assert cell_source(Box((2, 1), (4, 3)), (2, 1), (7, 3)) == Box((4, 1), (7, 3))


def test_means_keep_the_dtype_and_round_half_to_even() -> None:
    image = np.array([[0, 1, 1, 2], [0, 1, 1, 2]], dtype=np.uint8)
    pooled = mean_pool(image, (2, 2))
    assert pooled.dtype == np.uint8
    assert pooled.tolist() == [[0, 2]]  # 0.5 and 1.5


def test_means_of_large_integers_do_not_overflow() -> None:
    image = np.full((4, 4, 4), 65535, dtype=np.uint16)
    assert np.all(mean_pool(image, (2, 2, 2)) == 65535)


def test_a_last_cell_that_is_not_full_averages_what_is_there() -> None:
    assert mean_pool(np.array([1.0, 3.0, 7.0]), (2,)).tolist() == [2.0, 7.0]


@pytest.mark.parametrize("index", [[0, 2, 4], [3], [0, 1, 2], [0, 0, 1], [1, 4, 5]])
def test_voxels_are_picked_at_the_crossings_of_indices(index: list[int]) -> None:
    voxels = np.arange(36).reshape(6, 6)
    indices = (np.array(index, np.intp), np.array([1, 3, 5], np.intp))
    np.testing.assert_array_equal(pick(voxels, indices), voxels[np.ix_(*indices)])


def plain_mode(labels: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """The definition of `mode_pool`, cell by cell."""
    found = np.empty([-(-n // f) for n, f in zip(labels.shape, factors, strict=True)], labels.dtype)
    for at in np.ndindex(found.shape):
        axes = zip(at, factors, labels.shape, strict=True)
        cell = labels[tuple(slice(i * f, min((i + 1) * f, n)) for i, f, n in axes)]
        sizes = zip(at, factors, cell.shape, strict=True)
        middle = cell[tuple(min((f - 1 + i % 2) // 2, n - 1) for i, f, n in sizes)]
        order = [middle, *cell.ravel()]
        found[at] = max(dict.fromkeys(order), key=cell.ravel().tolist().count)
    return found


@given(st.integers(0, 10**6))
def test_a_cell_takes_its_most_frequent_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(2, 4))
    factors = tuple(rng.integers(1, 4, ndim).tolist())
    labels = rng.integers(-1, 3, rng.integers(1, 8, ndim)).astype(np.int32)
    np.testing.assert_array_equal(mode_pool(labels, factors), plain_mode(labels, factors))


@pytest.mark.parametrize(
    ("factor", "offset", "central"),
    [
        (2, 0.5, True),
        (3, 1.0, True),
        (4, 1.5, True),
        (2, 0.496, True),  # a rounded scale
        (2, 0.0, False),
        (2, 0.25, False),
        (2.5, 0.75, False),
        (1, 0.0, False),
    ],
)
def test_voxels_at_the_centres_of_cells_are_recognised(
    factor: float, offset: float, central: bool
) -> None:
    assert is_central(factor, offset) is central


@pytest.mark.parametrize("factors", [(2, 2), (2, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_modes_do_not_displace_labels(factors: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shape, steps, shifts = (24,) * len(factors), np.array(factors), []
    for _ in range(60):
        centre = 12 + rng.uniform(-2, 2, len(factors))
        at = np.moveaxis(np.indices(shape), 0, -1) - centre
        ball = ((at**2).sum(axis=-1) < 64).astype(np.uint16)
        coarse = np.argwhere(mode_pool(ball, factors)).mean(axis=0)
        shifts.append(coarse * steps + (steps - 1) / 2 - np.argwhere(ball).mean(axis=0))
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.06)
