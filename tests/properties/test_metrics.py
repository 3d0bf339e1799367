"""Contingency tables add up, and the scores that follow are those of StarDist."""

import warnings
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores
from embedseg_large.testing.strategies import cuts, label_pairs

THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)

Pair = tuple[NDArray[np.uint32], NDArray[np.uint32]]


@st.composite
def tiny_pairs(draw: st.DrawFn) -> Pair:
    """Arrays of a few voxels, in which IoUs of exactly 1/2, and empty sides, are common."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)))
    ids = st.lists(st.integers(0, 4), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    sides = [np.array(draw(ids), np.uint32).reshape(shape) for _ in range(2)]
    return sides[0], sides[1]


@given(label_pairs(), st.data())
def test_the_tables_of_boxes_add_up_to_the_table_of_the_whole(
    pair: Pair, data: st.DataObject
) -> None:
    prediction, truth = pair
    boxes = data.draw(cuts(truth.shape))
    tables = [Contingency.of(prediction[box.slices], truth[box.slices]) for box in boxes]
    assert reduce(add, tables, Contingency.empty()) == Contingency.of(prediction, truth)


@given(label_pairs())
def test_every_voxel_is_counted_once(pair: Pair) -> None:
    prediction, truth = pair
    table = Contingency.of(prediction, truth)
    for p, t, n in zip(table.prediction_ids, table.truth_ids, table.counts, strict=True):
        assert n == np.count_nonzero((prediction == p) & (truth == t))
    assert table.voxels == truth.size
    pairs = list(zip(table.prediction_ids.tolist(), table.truth_ids.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


@pytest.fixture(scope="module")
def stardist_matching() -> Any:
    """The reference implementation, whose import is not free of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist.matching import matching
    return matching


@settings(deadline=None)
@given(st.one_of(tiny_pairs(), label_pairs()))
def test_scores_are_those_of_stardist(stardist_matching: Any, pair: Pair) -> None:
    prediction, truth = pair
    ours = scores(Contingency.of(prediction, truth), THRESHOLDS)
    theirs = stardist_matching(truth, prediction, thresh=THRESHOLDS)
    for our, their in zip(ours, theirs, strict=True):
        assert (our.tp, our.fp, our.fn) == (their.tp, their.fp, their.fn)
        assert our.ap == their.accuracy
        assert (our.precision, our.recall, our.f1) == (their.precision, their.recall, their.f1)
        if our.threshold >= 0.5:  # below, equally good matchings may differ in these two
            assert our.pq == pytest.approx(their.panoptic_quality, abs=1e-6)
            assert our.mean_matched_iou == pytest.approx(their.mean_matched_score, abs=1e-6)


@settings(deadline=None)
@given(st.one_of(tiny_pairs(), label_pairs()))
def test_scores_do_not_depend_on_names_of_objects(pair: Pair) -> None:
    prediction, truth = pair
    renamed = np.where(prediction > 0, prediction.astype(np.uint64) * 7919 + 2**60, 0)
    ours = scores(Contingency.of(prediction, truth), THRESHOLDS)
    assert ours == scores(Contingency.of(renamed, truth), THRESHOLDS)
