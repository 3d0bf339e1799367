"""Edits as text, and what each does to the labels of its box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.review.edits import (
    Accept,
    Delete,
    Edit,
    EditScene,
    Merge,
    Paint,
    Split,
    flooded,
    parse_edit,
    parse_script,
)

labels = st.integers(1, 2**40)
points = st.tuples(*[st.integers(0, 9999)] * 3)
edits = st.one_of(
    st.builds(Accept, labels),
    st.builds(Delete, labels),
    st.builds(Split, labels, st.lists(points, min_size=2, max_size=4, unique=True).map(tuple)),
    st.lists(labels, min_size=2, max_size=2, unique=True).map(lambda pair: Merge(*pair)),
    st.builds(
        Paint,
        st.integers(0, 2**40),
        st.lists(st.tuples(points, st.integers(1, 999)), min_size=1, max_size=5).map(tuple),
    ),
)


@given(edits)
def test_an_edit_is_its_line_of_text(edit: Edit) -> None:
    assert parse_edit(str(edit), 3) == edit


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("remove 3", "'remove' is none of accept, delete, split, merge, paint"),
        ("accept", "accept needs one label, not 0"),
        ("accept 3 4", "accept needs one label, not 2"),
        ("delete 0", "0 is the background"),
        ("delete -3", "'-3' is not a number"),
        ("delete 3.5", "'3.5' is not a number"),
        ("delete ³", "is not a number"),
        ("delete 99999999999999999999", "is not a number"),
        ("split 3 1,2,3", "two or more different points"),
        ("split 3 1,2,3 1,2,3", "two or more different points"),
        ("split 3 1,2 4,5", "'1,2' is not a voxel with 3 coordinates"),
        ("split", "split needs a label and two points"),
        ("merge 3", "merge needs two labels, not 1"),
        ("merge 3 3", "two different instances"),
        ("paint 3", "needs a label and runs"),
        ("paint 3 1,2,3", "'1,2,3' is not like 40,20,30+5"),
        ("paint 3 1,2,3+0", "paint 3 needs voxels"),
    ],
)
def test_what_is_no_edit_is_said_with_its_line(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_script(f"accept 1  # fine\n\n{line}\n", 3, "day1.txt")
    assert str(caught.value).startswith("day1.txt, line 3: ")
    assert message in str(caught.value)


def scene(labels: NDArray[Any], free: int = 9) -> EditScene:
    return EditScene(Box.whole(labels.shape), free, (1.0,) * labels.ndim)


def two_balls(gap: int = 9) -> NDArray[np.int64]:
    """Two overlapping balls under one label, 3."""
    z, y, x = np.indices((13, 13, 13 + gap))
    one = (z - 6) ** 2 + (y - 6) ** 2 + (x - 6) ** 2 <= 30
    two = (z - 6) ** 2 + (y - 6) ** 2 + (x - 6 - gap) ** 2 <= 30
    return np.where(one | two, 3, 0)


def test_a_split_cuts_at_the_neck_wherever_the_points_are() -> None:
    labels = two_balls()
    split = Split(3, ((6, 6, 3), (6, 6, 18)))
    after = split.apply(labels, scene(labels))
    x = np.indices(labels.shape)[2]
    assert set(np.unique(after)) == {0, 3, 9}
    assert (x[after == 3] <= 10).all()
    assert (x[after == 9] >= 10).all()
    assert np.array_equal(after > 0, labels > 0)
    elsewhere = Split(3, ((6, 2, 6), (6, 6, 12))).apply(labels, scene(labels))
    assert np.mean(elsewhere != after) < 0.01


def test_points_name_the_parts_in_their_order() -> None:
    labels = two_balls()
    there = Split(3, ((6, 6, 18), (6, 6, 3))).apply(labels, scene(labels))
    back = Split(3, ((6, 6, 3), (6, 6, 18))).apply(labels, scene(labels))
    assert np.array_equal(np.select([there == 3, there == 9], [9, 3]), back)


def test_a_split_in_three() -> None:
    labels = np.zeros((9, 9, 40), np.int64)
    labels[3:6, 3:6, 2:38] = 4
    after = Split(4, ((4, 4, 5), (4, 4, 20), (4, 4, 35))).apply(labels, scene(labels, 7))
    assert set(np.unique(after)) == {0, 4, 7, 8}


def test_a_piece_without_a_point_goes_to_the_nearest() -> None:
    inside = np.zeros((3, 3, 20), bool)
    inside[1, 1, :8] = inside[1, 1, 17:] = True
    parts = flooded(inside, [(1, 1, 0), (1, 1, 6)], (1, 1, 1))
    assert (parts[1, 1, 17:] == 2).all()
    assert (parts > 0).sum() == inside.sum()


def test_long_voxels_count_as_long() -> None:
    inside = np.ones((4, 3, 12), bool)
    points = [(0, 1, 2), (3, 1, 9)]
    flat = flooded(inside, points, (1, 1, 1))
    tall = flooded(inside, points, (8, 1, 1))
    assert not np.array_equal(flat, tall)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Accept(5), "instance 5 has no voxels left"),
        (Delete(5), "instance 5 has no voxels left"),
        (Merge(3, 5), "instance 5 has no voxels left"),
        (Split(3, ((6, 6, 6), (0, 0, 0))), "voxel 0,0,0 is not in instance 3"),
        (Split(3, ((6, 6, 6), (6, 6, 99))), "voxel 6,6,99 is not in instance 3"),
    ],
)
def test_what_is_not_possible_is_said(edit: Edit, message: str) -> None:
    labels = two_balls()
    with pytest.raises(UsageError, match=message):
        edit.apply(labels, scene(labels))


@pytest.mark.parametrize("voxels", [[1, 1, 1], [[1.5, 1, 1]], [[[1, 1, 1]]]])
def test_only_voxels_can_be_painted(voxels: Any) -> None:
    with pytest.raises(UsageError, match="voxels to paint have shape"):
        Paint.of(3, np.array(voxels))


@given(st.lists(points.map(lambda p: tuple(n % 12 for n in p)), min_size=1, max_size=40))
def test_painted_runs_are_the_painted_voxels(voxels: list[tuple[int, ...]]) -> None:
    paint = Paint.of(6, np.array(voxels))
    box = paint.box(lambda _: Box.whole((12,) * 3))
    painted = paint.apply(np.zeros(box.shape, np.int64), EditScene(box, 9, (1,) * 3))
    found = np.argwhere(painted == 6) + box.start
    assert {tuple(v) for v in found.tolist()} == set(voxels)
    ends = [(p, n) for p, n in paint.runs]
    assert all((*p[:-1], p[-1] + n) not in dict(ends) for p, n in ends)  # as few as possible
