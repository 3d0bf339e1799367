"""Contingency tables of all kinds of ids."""

import time

import numpy as np
import pytest
from numpy.typing import DTypeLike

from embedseg_large.errors import VolumeError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.testing import synthetic_embryo


def test_background_is_a_row_and_a_column() -> None:
    table = Contingency.of(np.array([[0, 0, 5, 5]]), np.array([[0, 2, 2, 2]]))
    assert table.prediction_ids.tolist() == [0, 0, 5]
    assert table.truth_ids.tolist() == [0, 2, 2]
    assert table.counts.tolist() == [1, 1, 2]


@pytest.mark.parametrize("prediction", ["uint8", "int16", "int64", "uint64"])
@pytest.mark.parametrize("truth", ["int8", "uint16", "int32", "uint64"])
def test_sides_may_have_different_integer_dtypes(prediction: DTypeLike, truth: DTypeLike) -> None:
    ids = np.array([0, 1, 1, 100, 7])
    table = Contingency.of(ids.astype(prediction), ids[::-1].astype(truth))
    assert table == Contingency.of(ids, ids[::-1])


def test_ids_beyond_63_bits_on_both_sides_stay_apart() -> None:
    big = np.array([2**64 - 1, 2**64 - 2, 2**63, 0, 2**64 - 1], np.uint64)
    table = Contingency.of(big, big)
    assert table.prediction_ids.tolist() == [0, 2**63, 2**64 - 2, 2**64 - 1]
    assert table.counts.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("others", [[0, 0], [0, 1], [1, 1], [2**64 - 1, 2**32]])
@pytest.mark.parametrize("largest", [2**32, 2**63, 2**64 - 2, 2**64 - 1])
def test_ids_of_any_size_meet_background_and_small_ids(largest: int, others: list[int]) -> None:
    big, small = np.array([largest, 0], np.uint64), np.array(others, np.uint64)
    wanted = sorted(zip(small.tolist(), big.tolist(), strict=True))
    table = Contingency.of(small, big)
    assert list(zip(table.prediction_ids.tolist(), table.truth_ids.tolist(), strict=True)) == wanted
    turned = Contingency.of(big, small)
    assert sorted(turned.truth_ids.tolist()) == sorted(small.tolist())
    assert sorted(turned.prediction_ids.tolist()) == [0, largest]


def test_a_table_of_big_ids_adds_to_one_of_small_ids() -> None:
    small = np.array([3, 0], np.int8)
    big = np.array([2**64 - 1, 0], np.uint64)
    both = Contingency.of(small, small) + Contingency.of(big, big)
    assert both.truth_ids.tolist() == [0, 3, 2**64 - 1]
    assert both.counts.tolist() == [2, 1, 1]


def test_memory_order_does_not_matter() -> None:
    labels = np.arange(24).reshape(2, 3, 4) // 5
    truth = labels[::-1]
    table = Contingency.of(np.asfortranarray(labels), truth)
    assert table == Contingency.of(labels, truth.copy())


def test_an_empty_region_is_the_zero() -> None:
    nothing = np.zeros((0, 4), np.uint16)
    assert Contingency.of(nothing, nothing) == Contingency.empty()
    assert Contingency.empty() + Contingency.empty() == Contingency.empty()


def test_a_negative_id_is_refused_and_named() -> None:
    labels = np.array([0, 1, -3])
    with pytest.raises(VolumeError, match="truth has the negative id -3"):
        Contingency.of(abs(labels), labels)


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_what_is_no_integer_is_refused(dtype: DTypeLike) -> None:
    labels = np.ones((2, 2), np.uint8)
    with pytest.raises(VolumeError, match="prediction has dtype"):
        Contingency.of(labels.astype(dtype), labels)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(VolumeError, match=r"\(2, 3\) and truth \(3, 2\)"):
        Contingency.of(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_ten_million_voxels_take_about_a_second_at_most() -> None:
    labels = np.tile(synthetic_embryo((108, 108, 108), diameter=12), (2, 2, 2)).astype(np.uint16)
    start = time.perf_counter()
    table = Contingency.of(labels, np.roll(labels, 2, axis=1))
    assert time.perf_counter() - start < 3  # 0.2 s on an idle core
    assert table.voxels == labels.size > 10_000_000
