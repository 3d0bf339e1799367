"""Objects of other programs are named by the voxel in their middle, wherever a region begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.stitching.middle import middles, numbered


def test_the_middle_is_the_voxel_nearest_to_the_centroid() -> None:
    labels = np.zeros((9, 9), np.uint32)
    labels[1:4, 2:7] = 1
    labels[6, 6] = 2
    assert middles(labels, 2).tolist() == [2 * 9 + 4, 6 * 9 + 6]


def test_of_several_voxels_as_near_the_first_counts() -> None:
    labels = np.ones((2, 2, 2), np.uint32)
    assert middles(labels, 1).tolist() == [0]


def test_the_middle_of_a_ring_lies_on_the_ring() -> None:
    labels = np.ones((7, 7), np.uint32)
    labels[1:6, 1:6] = 0
    (at,) = middles(labels, 1)
    assert labels.reshape(-1)[at] == 1


@given(
    origin=st.tuples(*[st.integers(0, 9)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_middles_move_with_the_objects(origin: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, count = numbered(rng.integers(0, 4, (4, 5, 6)))
    shape = (20, 20, 20)
    moved = np.zeros(shape, np.uint32)
    place = tuple(slice(o, o + n) for o, n in zip(origin, labels.shape, strict=True))
    moved[place] = labels
    before = np.stack(np.unravel_index(middles(labels, count), labels.shape), -1)
    after = np.stack(np.unravel_index(middles(moved, count), shape), -1)
    np.testing.assert_array_equal(after, before + np.array(origin))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.bool_])
def test_numbers_are_dense_and_small_objects_go(dtype: type) -> None:
    labels: NDArray[Any] = np.array([[0, 5, 5], [9, 0, 1]]).astype(dtype)
    found, count = numbered(labels)
    assert found.max() == count == len(np.unique(labels)) - 1
    assert ((found > 0) == (labels > 0)).all()
    large, left = numbered(np.array([[0, 5, 5], [9, 0, 1]]), least=1)
    assert left == 1
    assert large.tolist() == [[0, 1, 1], [0, 0, 0]]
