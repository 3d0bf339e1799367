"""Boundary IoU and intersection over reference: definitions, margins, matching."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.localisation import check_localisation, localised_scores, shell
from embedseg_large.evaluation.options import Localisation
from embedseg_large.evaluation.scores import Score, score_of_counts, scores
from embedseg_large.geometry import Box
from embedseg_large.testing.strategies import cuts, embryos, label_pairs

THRESHOLDS = (0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 1.0)

Labels = NDArray[Any]


def shells(labels: Labels, width: int) -> Labels:
    return shell(np.pad(labels, width), width)


def shells_by_erosion(labels: Labels, width: int) -> Labels:
    """The definition: erode one object after the other; what is gone is its shell."""
    cube = np.ones((3,) * labels.ndim, bool)
    shell = np.zeros_like(labels)
    for n in np.unique(labels[labels > 0]):
        mask = labels == n
        shell[mask & ~ndimage.binary_erosion(mask, cube, iterations=width)] = n
    return shell


def score(prediction: Any, truth: Any, localisation: Localisation, threshold: float) -> Score:
    table = Contingency.of(np.array(prediction), np.array(truth))
    return localised_scores(table, [threshold], localisation)[0]


@settings(deadline=None)
@given(embryos(longest=16), st.integers(1, 4))
def test_a_shell_is_what_erosion_takes_away(labels: Labels, width: int) -> None:
    np.testing.assert_array_equal(shells(labels, width), shells_by_erosion(labels, width))


@settings(deadline=None)
@given(label_pairs(), st.integers(1, 4), st.data())
def test_boxes_with_a_margin_give_the_boundaries_of_the_whole(
    pair: tuple[Labels, Labels], width: int, data: st.DataObject
) -> None:
    boxes = data.draw(cuts(pair[0].shape))
    grown = [box.shift((width,) * box.ndim).grow((width,) * box.ndim) for box in boxes]
    padded = [np.pad(side, width) for side in pair]
    table = Contingency.empty()
    for box in grown:
        table += Contingency.of(*(shell(side[box.slices], width) for side in padded))
    assert table == Contingency.of(*(shells(side, width) for side in pair))


def test_a_shell_wider_than_the_objects_is_the_objects() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 1:6] = 4
    np.testing.assert_array_equal(shells(labels, 3), labels)
    assert np.count_nonzero(shells(labels, 2)) == 25 - 1
    assert np.count_nonzero(shells(labels, 1)) == 25 - 9


def test_the_end_of_a_volume_is_a_boundary() -> None:
    assert shells(np.full((3, 3), 7), 1).tolist() == [[7, 7, 7], [7, 0, 7], [7, 7, 7]]


def test_touching_objects_have_a_boundary_between_them() -> None:
    row = np.array([[1] * 7 + [2] * 7] * 7)
    assert shells(row, 2)[3].tolist() == [1, 1, 0, 0, 0, 1, 1, 2, 2, 0, 0, 0, 2, 2]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_ids_of_every_size_keep_their_type_and_value(dtype: str) -> None:
    big = np.iinfo(dtype).max
    labels = np.array([[big, big - 1]] * 2, dtype)
    assert shells(labels, 1).dtype == labels.dtype
    np.testing.assert_array_equal(shells(labels, 1), labels)


def test_boundary_iou_sees_what_mask_iou_of_a_large_object_does_not() -> None:
    truth = np.zeros((60, 60), int)
    truth[10:50, 10:50] = 1
    prediction = np.roll(truth, 1, axis=0)
    mask = scores(Contingency.of(prediction, truth), [0.5])[0].mean_matched_iou
    table = Contingency.of(shells(prediction, 2), shells(truth, 2))
    outline = localised_scores(table, [0.5], "boundary")[0].mean_matched_iou
    both = shells(prediction, 2) & shells(truth, 2)
    assert mask == pytest.approx(39 / 41)
    assert outline == np.count_nonzero(both) / (2 * 304 - np.count_nonzero(both))
    assert outline < 0.65


def test_a_prediction_around_its_object_is_perfect_over_the_reference() -> None:
    found = score([3, 3, 3, 3], [0, 1, 0, 0], "reference", 1.0)
    assert (found.tp, found.mean_matched_iou, found.pq) == (1, 1, 1)
    assert score([3, 3, 3, 3], [0, 1, 0, 0], "iou", 0.3).tp == 0


def test_a_prediction_over_two_objects_is_one_match_over_the_reference() -> None:
    found = score([3, 3, 3, 3], [1, 2, 2, 0], "reference", 0.5)
    assert (found.tp, found.fp, found.fn) == (1, 0, 1)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [([1, 1, 1, 2], [1, 1, 2, 2]), ([1, 2, 1, 1], [1, 1, 2, 2]), ([2, 2, 2, 1], [1, 1, 2, 2])],
)
def test_over_the_reference_as_many_as_possible_are_matched(
    prediction: list[int], truth: list[int]
) -> None:
    # one prediction covers both objects, the other half of one: the first must leave it that one
    found = score(prediction, truth, "reference", 0.5)
    assert (found.tp, found.fp, found.fn) == (2, 0, 0)
    assert found.mean_matched_iou == 0.75


@pytest.fixture(scope="module")
def stardist_matching() -> Any:
    """The reference implementation, whose import is not free of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist.matching import matching
    return matching


@settings(deadline=None)
@given(label_pairs())
def test_scores_over_the_reference_are_those_of_stardist(
    stardist_matching: Any, pair: tuple[Labels, Labels]
) -> None:
    prediction, truth = pair
    ours = localised_scores(Contingency.of(prediction, truth), THRESHOLDS, "reference")
    theirs = stardist_matching(truth, prediction, thresh=THRESHOLDS, criterion="iot")
    for our, their in zip(ours, theirs, strict=True):
        assert (our.tp, our.fp, our.fn) == (their.tp, their.fp, their.fn)
        assert our.ap == their.accuracy


@pytest.mark.parametrize("localisation", ["iou", "boundary"])
def test_other_measures_are_scored_as_ever(localisation: Localisation) -> None:
    table = Contingency.of(np.array([0, 1, 1, 2]), np.array([1, 1, 1, 0]))
    assert localised_scores(table, THRESHOLDS, localisation) == scores(table, THRESHOLDS)


@pytest.mark.parametrize("localisation", ["iou", "boundary", "reference"])
def test_no_voxels_have_no_objects(localisation: Localisation) -> None:
    assert localised_scores(Contingency.empty(), [0.5], localisation)[0].tp == 0


@given(label_pairs())
def test_a_score_is_made_of_its_counts(pair: tuple[Labels, Labels]) -> None:
    for made in scores(Contingency.of(*pair), THRESHOLDS):
        total = made.mean_matched_iou * made.tp
        again = score_of_counts(made.threshold, total, made.tp, made.fp, made.fn)
        assert again.as_dict() == pytest.approx(made.as_dict())


def test_what_is_no_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="choose from iou, boundary, reference"):
        check_localisation("dice", 2)
    with pytest.raises(UsageError, match="width 0"):
        check_localisation("boundary", 0)
    check_localisation("boundary", 4096)
    check_localisation("boundary", 128, ndim=3)
    with pytest.raises(UsageError, match="at most 4,096 voxels for a 2D image"):
        check_localisation("boundary", 4097)


def test_a_box_grown_by_the_width_is_all_that_is_read() -> None:
    """The margin cannot be smaller: the farthest voxel of it decides."""
    labels = np.ones((5, 5), int)
    assert shell(labels, 2).tolist() == [[0]]
    labels[0, 0] = 0
    assert shell(labels, 2).tolist() == [[1]]
    assert Box((2, 2), (3, 3)).grow((2, 2)).shape == labels.shape
