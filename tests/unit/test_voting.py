"""Labels that go to another grid and back stay where they are, with the outlines they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.geometry import Box
from embedseg_large.tiling.resampling import Resampling, linear_weights


def ball(shape: Any, center: NDArray[Any], radius: NDArray[Any]) -> NDArray[np.int32]:
    at = np.indices(shape, dtype=float)
    parts = zip(at, center, radius, strict=True)
    inside: NDArray[np.bool_] = sum(((x - c) / r) ** 2 for x, c, r in parts) < 1
    return inside.astype(np.int32)


def overlap(a: NDArray[np.int32], b: NDArray[np.int32]) -> float:
    return np.count_nonzero((a > 0) & (b > 0)) / np.count_nonzero((a > 0) | (b > 0))


def test_the_label_with_most_weight_wins() -> None:
    grid = Resampling.by((24,), (3,))
    found = grid.labels(np.arange(72), Box.whole((24,)))
    np.testing.assert_array_equal(found, 3 * np.arange(24) + 1)


@pytest.mark.parametrize("source", [(9, 14), (20, 11), (10, 28)])
def test_a_vote_is_the_largest_sum_of_the_filters_weights(source: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    target = (14, 19)
    labels = rng.integers(-1, 3, target)
    (_, y), (_, x) = (linear_weights(n, m) for n, m in zip(target, source, strict=True))
    sums = np.stack([y @ (labels == n).astype(np.float32) @ x.T for n in range(-1, 3)])
    first, second = np.sort(sums, axis=0)[:-3:-1]
    found = Resampling(source, target).labels(labels, Box.whole(source))
    clear = first - second > 1e-4
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[clear], sums.argmax(axis=0)[clear] - 1)


@pytest.mark.parametrize("zoom", [0.5, 0.7, 1.3, 2, 2.5, 4])
def test_objects_keep_their_places_and_outlines(zoom: float) -> None:
    shape, center = np.array((40, 44, 44)), np.array((19.3, 21.8, 20.1))
    grid = Resampling.by(shape.tolist(), (zoom,) * 3)
    zooms = np.array(grid.zoom)
    radius = np.full(3, 9 / min(1, zoom) / max(1, zoom) ** 0.5)
    truth = ball(shape, center, radius)
    found = grid.labels(
        ball(grid.target, (center + 0.5) * zooms - 0.5, radius * zooms), Box.whole(grid.source)
    )
    moved = np.subtract(ndimage.center_of_mass(found), ndimage.center_of_mass(truth))
    assert np.abs(moved).max() < 0.1
    assert overlap(found, truth) > 0.92


def test_boolean_and_wide_labels_are_kept_as_they_are() -> None:
    grid = Resampling((9, 9), (6, 6))
    wide = np.full((6, 6), 2**63 + 1, np.uint64)
    assert (grid.labels(wide, Box.whole((9, 9))) == 2**63 + 1).all()
    half = np.arange(36).reshape(6, 6) > 17
    found = grid.labels(half, Box.whole((9, 9)))
    assert found.dtype == bool
    assert found[5:].all()
    assert not found[:4].any()
