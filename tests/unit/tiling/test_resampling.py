"""Resampling by parts: to the last bit what the whole would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedseg_large.geometry import Box
from embedseg_large.tiling.resampling import ObjectSize, Resampling, linear_weights, nearest_voxels

LENGTHS = st.integers(1, 40)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    stops = [draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)]
    return Box(tuple(starts), tuple(stops))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_box_is_what_the_whole_image_gives(data: st.DataObject) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    source, target = (tuple(data.draw(LENGTHS) for _ in range(ndim)) for _ in range(2))
    grid = Resampling(source, target)
    image = np.random.default_rng(0).normal(size=(2, *source)).astype(np.float32)
    whole = grid.image(image, Box.whole(target))
    assert whole.shape == (2, *target)
    box = data.draw(boxes(target))
    part = grid.image(image[(slice(None), *grid.needed(box).slices)], box)
    np.testing.assert_array_equal(part, whole[(slice(None), *box.slices)])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_box_of_labels_is_what_the_whole_gives(data: st.DataObject) -> None:
    source, target = (tuple(data.draw(LENGTHS) for _ in range(2)) for _ in range(2))
    grid = Resampling(source, target)
    labels = np.arange(np.prod(target)).reshape(target)
    all_of_it = Box.whole(source)
    whole = grid.labels(labels[grid.covering(all_of_it).slices], all_of_it)
    assert whole.shape == source
    box = data.draw(boxes(source))
    part = grid.labels(labels[grid.covering(box).slices], box)
    np.testing.assert_array_equal(part, whole[box.slices])


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 7), (40, 13), (13, 40), (1, 5), (9, 1)])
def test_weights_keep_a_constant_and_a_slope(n_in: int, n_out: int) -> None:
    first, weights = linear_weights(n_in, n_out)
    assert first == 0
    full = weights.toarray()
    np.testing.assert_allclose(full.sum(axis=1), 1, rtol=1e-6)
    places = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    width = max(1.0, n_in / n_out)
    inside = (places >= width) & (places <= n_in - 1 - width)
    if n_in <= n_out or n_in % n_out == 0:  # else the triangle is sampled unevenly
        np.testing.assert_allclose((full @ np.arange(n_in))[inside], places[inside], atol=1e-5)


def test_stripes_too_fine_for_the_target_become_grey() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), 32)
    reduced = linear_weights(64, 16)[1] @ stripes
    np.testing.assert_allclose(reduced[1:-1], 0.5, atol=0.01)


def test_a_voxel_looks_up_the_voxel_that_holds_its_middle() -> None:
    np.testing.assert_array_equal(nearest_voxels(0, 6, 3, 6), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(nearest_voxels(0, 3, 6, 3), [1, 3, 5])  # a tie: the later one
    np.testing.assert_array_equal(nearest_voxels(1, 3, 5, 5), [1, 2])


def test_a_zoom_is_rounded_to_whole_voxels_and_never_to_none() -> None:
    grid = Resampling.by((100, 33, 2), (0.5, 0.5, 0.1))
    assert grid.target == (50, 16, 1)
    assert grid.zoom == (0.5, 16 / 33, 0.5)


ROUND = (2.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("own", "other", "zoom"),
    [
        (ObjectSize(20), ObjectSize(10), (0.5, 0.5, 0.5)),
        (ObjectSize(20, 5), ObjectSize(10), (2, 0.5, 0.5)),
        (ObjectSize(20, 5), ObjectSize(10, 8), (1.6, 0.5, 0.5)),
        (ObjectSize(20, 5, ROUND), ObjectSize(10, 8, ROUND), (1.6, 0.5, 0.5)),
        (ObjectSize(20, None, ROUND), ObjectSize(10), (2, 0.5, 0.5)),
        (ObjectSize(20, None, ROUND), ObjectSize(10, 8), (1.6, 0.5, 0.5)),
        (ObjectSize(20, None, ROUND), ObjectSize(10, 8, ROUND), (0.5, 0.5, 0.5)),
        (ObjectSize(20), ObjectSize(10, 8, ROUND), (0.5, 0.5, 0.5)),
    ],
)
def test_along_z_the_best_known_size_decides(
    own: ObjectSize, other: ObjectSize, zoom: tuple[float, ...]
) -> None:
    assert own.zoom_to(other, 3) == pytest.approx(zoom)
    assert own.zoom_to(other, 2) == pytest.approx(zoom[1:])


@pytest.mark.parametrize("target", [30, 48, 75, 120, 144])
def test_labels_stay_where_they_are_on_average(target: int) -> None:
    rng = np.random.default_rng(0)
    grid, zoom = Resampling((60, 60), (target, target)), target / 60
    shifts = []
    for _ in range(200):
        centre = target / 2 + rng.uniform(-3, 3, 2) * zoom
        at = np.indices((target, target)).astype(float)
        ball = np.hypot(at[0] - centre[0], at[1] - centre[1]) < 9 * zoom
        back = grid.labels(ball.astype(np.int32), Box.whole((60, 60)))
        there, here = np.argwhere(ball).mean(axis=0), np.argwhere(back).mean(axis=0)
        shifts.append(here + 0.5 - (there + 0.5) / zoom)
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.03)
