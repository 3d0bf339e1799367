"""Changes of voxels: forwards, backwards, in parts, and as text."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedseg_large.geometry import Box
from embedseg_large.review.change import LabelChange

SHAPE = (5, 6, 7)
BOX = Box((10, 20, 30), (15, 26, 37))


@st.composite
def two_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 4, SHAPE)
    changed = rng.random(SHAPE) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    return before, np.where(changed, rng.integers(0, 4, SHAPE), before)


@given(two_labels())
def test_a_change_leads_there_and_back_and_through_text(
    labels: tuple[np.ndarray, np.ndarray],
) -> None:
    before, after = labels
    change = LabelChange.between(BOX, before, after)
    assert change.size == np.count_nonzero(before != after)
    read = LabelChange.unpacked(BOX, change.packed())
    for each in (change, read, change.backwards().backwards()):
        now = before.copy()
        each.put_into(now, BOX)
        assert np.array_equal(now, after)
    change.backwards().put_into(now, BOX)
    assert np.array_equal(now, before)


@given(two_labels(), st.tuples(*[st.integers(1, 5)] * 3))
def test_parts_of_a_box_change_as_the_whole(
    labels: tuple[np.ndarray, np.ndarray], chunk: tuple[int, ...]
) -> None:
    before, after = labels
    change = LabelChange.between(BOX, before, after)
    whole = np.pad(before, [(a, 3) for a in BOX.start])
    seen = set()
    for cell in change.cells(chunk):
        seen.add(cell.start)
        part = whole[cell.slices].copy()
        change.put_into(part, cell)
        whole[cell.slices] = part
    assert np.array_equal(whole[BOX.slices], after)
    places = np.argwhere(before != after) + BOX.start
    assert seen == {tuple((p // chunk * chunk).tolist()) for p in places}


@pytest.mark.parametrize(
    "runs",
    [
        [[0, 0, 1, 2]],
        [[-1, 2, 1, 2]],
        [[5, 3, 1, 2], [6, 1, 1, 2]],
        [[209, 2, 1, 2]],
        [[0, 2**62, 1, 2]],
    ],
)
def test_runs_that_do_not_fit_are_refused(runs: list[list[int]]) -> None:
    text = base64.b64encode(zlib.compress(np.array(runs, "<i8").tobytes())).decode()
    with pytest.raises(ValueError, match="do not fit"):
        LabelChange.unpacked(BOX, text)


@pytest.mark.parametrize("text", ["", "no base 64!", base64.b64encode(b"no zlib").decode()])
def test_text_that_is_no_change_is_refused(text: str) -> None:
    with pytest.raises((ValueError, zlib.error)):
        LabelChange.unpacked(BOX, text)


def test_a_change_in_a_box_of_a_tebivoxel_takes_the_memory_of_its_voxels() -> None:
    box = Box((0, 0, 0), (10_000, 10_000, 10_000))
    far = LabelChange(box, np.array([[0, 2, 0, 7], [10**12 - 3, 3, 0, 9]]))
    assert [cell.start for cell in far.cells((64, 64, 64))] == [
        (0, 0, 0),
        (9984, 9984, 9984),
    ]
    here = Box((9999, 9999, 9996), (10_000, 10_000, 10_000))
    voxels = np.zeros((1, 1, 4), np.int64)
    far.put_into(voxels, here)
    assert voxels.tolist() == [[[0, 9, 9, 9]]]
