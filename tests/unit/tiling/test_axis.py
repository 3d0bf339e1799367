"""One axis: balanced cores, clipped margins, and padding that every tile sees alike."""

import numpy as np
import pytest

from embedseg_large.tiling import axis as ax


@pytest.mark.parametrize(
    ("length", "step", "expected"),
    [(137, 128, 72), (128, 128, 128), (100, 128, 104), (118, 64, 64), (7, 64, 8), (300, 128, 104)],
)
def test_balanced_cores_are_multiples_of_the_stride(length: int, step: int, expected: int) -> None:
    assert ax.balance(length, step) == expected


def test_balancing_never_makes_more_cores() -> None:
    for length in range(1, 400):
        for step in (8, 32, 64, 128):
            balanced = ax.balance(length, step)
            assert balanced <= step
            assert ax.count(length, balanced) == ax.count(length, step)


@pytest.mark.parametrize("length", [9, 12, 16, 21, 23])
def test_padding_is_the_reflection_numpy_makes(length: int) -> None:
    values = np.arange(length)
    padded = ax.round_up(length, 8)
    expected = np.pad(values, (0, padded - length), mode="reflect")
    np.testing.assert_array_equal(values[ax.padded_sources(0, padded, length)], expected)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_an_axis_too_thin_to_reflect_is_padded_with_its_last_voxel(length: int) -> None:
    sources = ax.padded_sources(0, 8, length)
    np.testing.assert_array_equal(sources, np.minimum(np.arange(8), length - 1))


def test_a_tile_sees_the_padding_of_the_whole_axis() -> None:
    whole = ax.padded_sources(0, 72, 65)
    np.testing.assert_array_equal(ax.padded_sources(64, 72, 65), whole[64:])
