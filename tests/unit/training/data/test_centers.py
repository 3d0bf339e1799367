"""Centres are those of the original program, exact, and the first among equals."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.training.data.centers import center, centers
from embedseg_large.training.options import CenterMethod

PARITY = Path(__file__).parents[3] / "data" / "parity" / "loss_3d.npz"
METHODS: tuple[CenterMethod, ...] = get_args(CenterMethod)


def medoid(points: NDArray[np.int64], spacing: NDArray[np.float64]) -> NDArray[np.int64]:
    """All n² distances."""
    steps = (points[:, None] - points[None]) * spacing
    sums = np.sqrt((steps**2).sum(axis=-1)).sum(axis=1)
    first: NDArray[np.int64] = points[np.argmax(sums <= sums.min() * (1 + 1e-11))]
    return first


def ball(n: int, stretch: tuple[float, ...] = (1, 1, 1)) -> NDArray[np.int64]:
    """The n voxels nearest to a point."""
    grid = np.argwhere(np.ones((90,) * 3, bool)) - 45
    nearest = np.argsort(((grid * stretch) ** 2).sum(axis=1), kind="stable")[:n]
    return grid[np.sort(nearest)]


@pytest.mark.parametrize("method", METHODS)
def test_centres_are_those_of_the_original(method: CenterMethod) -> None:
    data = np.load(PARITY)
    theirs = data[f"centres_{method.replace('-', '_')}"]
    ids, ours = centers(data["instances"], method)
    assert ids.tolist() == list(range(1, 10))
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_medoid_is_exact(ndim: int, rng: np.random.Generator) -> None:
    for _ in range(60):
        shape = rng.integers(2, 9, ndim)
        points = np.argwhere(rng.random(shape) < rng.uniform(0.2, 1))
        if len(points) == 0:
            continue
        for spacing in (np.ones(ndim), rng.uniform(0.2, 5, ndim)):
            np.testing.assert_array_equal(
                center(points, spacing=tuple(spacing)), medoid(points, spacing)
            )


def test_the_medoid_of_a_hollow_object_is_exact_and_lies_in_it() -> None:
    y, x = np.indices((41, 41)) - 20
    radius = np.hypot(y, x)
    points = np.argwhere((radius > 12) & (radius < 17) & ((x < 0) | (y != 0)))
    found = center(points)
    np.testing.assert_array_equal(found, medoid(points, np.ones(2)))
    assert found.tolist() in points.tolist()


def test_among_equals_the_first_in_raster_order_wins() -> None:
    square = np.argwhere(np.ones((4, 4), bool))
    assert center(square).tolist() == [1, 1]
    assert center(square, "approximate-medoid").tolist() == [1, 1]


def test_the_spacing_decides_what_is_near() -> None:
    points = np.array([[0, 0], [1, 4], [3, 1]])
    assert center(points).tolist() == [3, 1]
    assert center(points, spacing=(1, 0.1)).tolist() == [1, 4]
    assert center(points, "approximate-medoid").tolist() == [0, 0]  # the median is (1, 1)
    assert center(points, "approximate-medoid", spacing=(0.1, 1)).tolist() == [3, 1]


def test_the_centroid_rounds_half_to_even() -> None:
    assert center(np.array([[0, 1], [1, 2]]), "centroid").tolist() == [0, 2]


def test_the_approximate_medoid_is_the_voxel_nearest_the_median() -> None:
    points = np.array([[0, 0], [0, 9], [5, 1], [6, 6]])  # median (2.5, 3.5)
    assert center(points, "approximate-medoid").tolist() == [5, 1]


def test_labels_need_not_be_consecutive_and_negative_ones_are_no_objects() -> None:
    labels = np.array([[-1, 7, 7, 7], [0, 3, 0, -1]])
    ids, found = centers(labels)
    assert ids.tolist() == [3, 7]
    assert found.tolist() == [[1, 1], [0, 2]]


def test_a_volume_without_objects_has_no_centres() -> None:
    ids, found = centers(np.zeros((3, 4, 5), np.uint16))
    assert ids.shape == (0,)
    assert found.shape == (0, 3)


@pytest.mark.parametrize("stretch", [(1, 1, 1), (1, 2.5, 1.5)])
def test_20000_voxels_take_neither_time_nor_memory(stretch: tuple[float, ...]) -> None:
    points = ball(20_000, stretch)
    center(points[:5])  # compiles
    tracemalloc.start()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        center(points)
        times.append(time.perf_counter() - began)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(times) < 0.1
    assert peak < 200e6


@pytest.mark.parametrize(
    ("points", "arguments", "words"),
    [
        (np.zeros((0, 3), np.int64), {}, "without voxels"),
        (np.zeros((1, 3), np.int64), {"method": "middle"}, "no centre 'middle'"),
        (np.zeros((1, 3), np.int64), {"spacing": (1, 1)}, "3 positive numbers"),
        (np.zeros((1, 2), np.int64), {"spacing": (1, 0)}, "2 positive numbers"),
    ],
)
def test_what_has_no_centre_is_refused(
    points: NDArray[np.int64], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        center(points, **arguments)
