"""Clean masks: what is dropped, what is filled, and whose it is then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

import embedseg_large as es
from embedseg_large.errors import UsageError

Labels = NDArray[np.int64]


def drawn(picture: str) -> Labels:
    rows = [[0 if c == "." else int(c) for c in row] for row in picture.split()]
    return np.array(rows)


def plainly(labels: Labels, *, pieces: bool, holes: bool) -> Labels:
    """The rule, word for word and slowly."""
    result, everywhere = labels.copy(), np.ones((3,) * labels.ndim)
    kept = {}
    for name in np.unique(labels[labels != 0]).tolist():
        own = labels == name
        parts, count = ndimage.label(own, everywhere)
        firsts = [np.flatnonzero(parts.ravel() == k)[0] for k in range(1, count + 1)]
        ranked = sorted(range(count), key=lambda k: (-(parts == k + 1).sum(), firsts[k]))
        kept[name] = parts == ranked[0] + 1 if pieces else own
        result[own & ~kept[name]] = 0
    best = np.full(labels.shape, labels.size + 1)
    free = result == 0
    for name, own in kept.items():
        outside, count = ndimage.label(np.pad(~own, 1, constant_values=True))
        outside = outside[(slice(1, -1),) * labels.ndim]
        filled = ndimage.binary_fill_holes(own)
        for k in range(1, count + 1):
            hole = (outside == k) & filled & ~own
            size = hole.sum()
            won = hole & free & (size < best)
            if holes and size:
                result[won], best[won] = name, size
    return result


def test_the_largest_piece_is_kept_and_corners_connect() -> None:
    labels = drawn("""
        11..2
        ..1.2
        1....
        ..2.2
    """)
    expected = drawn("""
        11..2
        ..1.2
        .....
        .....
    """)
    expected[2, 0] = 0
    np.testing.assert_array_equal(es.clean(labels, fill_holes=False), expected)


def test_of_equal_pieces_the_first_is_kept() -> None:
    np.testing.assert_array_equal(es.clean(drawn("11.11")), drawn("11..."))


def test_only_background_that_one_instance_encloses_becomes_its_own() -> None:
    labels = drawn("""
        111111.
        1.2..1.
        1....1.
        111111.
        1..333.
        1..3.3.
        111333.
    """)
    expected = drawn("""
        111111.
        112111.
        111111.
        111111.
        1..333.
        1..333.
        111333.
    """)
    np.testing.assert_array_equal(es.clean(labels), expected)


def test_a_cavity_at_the_border_is_no_hole() -> None:
    labels = drawn("""
        11.11
        1...1
        11111
    """)
    np.testing.assert_array_equal(es.clean(labels), labels)


def test_a_piece_that_is_dropped_in_a_hole_is_filled() -> None:
    labels = drawn("""
        11111..
        1...1..
        1.2.122
        1...122
        11111..
    """)
    expected = drawn("""
        11111..
        11111..
        1111122
        1111122
        11111..
    """)
    np.testing.assert_array_equal(es.clean(labels), expected)
    kept = es.clean(labels, keep_largest_piece=False)
    assert (kept == 2).sum() == (labels == 2).sum()
    assert kept[1, 1] == 1


def test_the_inner_of_two_instances_gets_a_hole() -> None:
    labels = drawn("""
        1111111
        1.....1
        1.222.1
        1.2.2.1
        1.222.1
        1.....1
        1111111
    """)
    cleaned = es.clean(labels)
    assert cleaned[3, 3] == 2
    assert (cleaned == 1).sum() == 49 - 9


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_keep_their_names_and_dtype(dtype: type) -> None:
    labels: NDArray[Any] = np.zeros((3, 4, 5), dtype)
    labels[0, 0, 0], labels[2, 2:, 3:] = 7, 100
    labels[0, 3, 0] = 100
    cleaned = es.clean(labels)
    assert cleaned.dtype == dtype
    assert labels[0, 3, 0] == 100
    assert np.unique(cleaned).tolist() == [0, 7, 100]
    assert (cleaned == 100).sum() == 4


def test_nothing_is_clean_and_full_is_clean() -> None:
    for labels in (np.zeros((3, 3), int), np.ones((3, 3), int), np.zeros((0, 3), int)):
        np.testing.assert_array_equal(es.clean(labels), labels)


def test_masks_of_other_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        es.clean(np.zeros((3, 3)))


@given(
    st.one_of(
        arrays(np.int64, (9, 9), elements=st.sampled_from([0, 1, 1, 1, 2])),
        arrays(np.int64, (5, 6, 5), elements=st.sampled_from([0, 1, 1, 1, 1, 5])),
    ),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_quick_way_is_the_rule(labels: Labels, pieces: bool, holes: bool) -> None:
    cleaned = es.clean(labels, keep_largest_piece=pieces, fill_holes=holes)
    np.testing.assert_array_equal(cleaned, plainly(labels, pieces=pieces, holes=holes))
    again = es.clean(cleaned, keep_largest_piece=pieces, fill_holes=False)
    np.testing.assert_array_equal(again, cleaned)
