"""Scores of objects that overlap: one mask for each."""

import csv
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import MetadataError, VolumeError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.evaluate import evaluate_images
from embedseg_large.evaluation.scores import scores
from embedseg_large.geometry import Box
from embedseg_large.runs import boxes

Masks = NDArray[np.uint8]

SHAPE = (12, 14)
THRESHOLDS = (0.2, 0.4, 0.5, 0.75, 1.0)


@st.composite
def stacks(draw: st.DrawFn, most: int = 6) -> Masks:
    """Rectangles of an image, one in each plane, which overlap or not."""
    masks = np.zeros((draw(st.integers(1, most)), *SHAPE), np.uint8)
    for mask in masks:
        spans = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in SHAPE]
        (a, b), (c, d) = spans
        mask[a : max(b, a + 1), c : max(d, c + 1)] = draw(st.sampled_from([1, 7, 255]))
    return masks


def flat(masks: Masks) -> NDArray[np.int32]:
    """One label array, in which the last mask wins."""
    labels = np.zeros(SHAPE, np.int32)
    for number, mask in enumerate(masks, 1):
        labels[mask > 0] = number
    return labels


def by_force(prediction: Masks, truth: Masks, threshold: float) -> tuple[int, float]:
    """Matches and their total IoU, from the dense matrix of all pairs of masks."""
    sides = [[mask > 0 for mask in masks if mask.any()] for masks in (prediction, truth)]
    iou = np.array([[(p & t).sum() / max((p | t).sum(), 1) for t in sides[1]] for p in sides[0]])
    iou = iou.reshape(len(sides[0]), len(sides[1]))
    good = iou >= threshold
    value = good + iou / (2 * max(min(iou.shape), 1))
    rows, columns = linear_sum_assignment(value, maximize=True)
    kept = good[rows, columns]
    return int(kept.sum()), float(iou[rows, columns][kept].sum())


@given(stacks(), stacks(), st.sampled_from(THRESHOLDS))
def test_scores_are_those_of_a_dense_matrix_of_all_masks(
    prediction: Masks, truth: Masks, threshold: float
) -> None:
    table = Contingency.of_layers(list(prediction_ids(prediction)), list(prediction_ids(truth)))
    found = scores(table, [threshold])[0]
    tp, total = by_force(prediction, truth, threshold)
    assert (found.tp, found.fp, found.fn) == (tp, present(prediction) - tp, present(truth) - tp)
    assert found.mean_matched_iou * found.tp == pytest.approx(total)


def prediction_ids(masks: Masks) -> NDArray[np.int32]:
    """Planes of numbered objects."""
    return np.where(masks > 0, np.arange(1, len(masks) + 1).reshape(-1, 1, 1), 0).astype(np.int32)


def present(masks: Masks) -> int:
    return sum(bool(mask.any()) for mask in masks)


@given(stacks(), stacks())
def test_labels_against_masks_are_masks_without_overlap_against_masks(
    prediction: Masks, truth: Masks
) -> None:
    labels, masks = flat(prediction), list(prediction_ids(truth))
    apart = [np.where(labels == i, i, 0) for i in range(1, len(prediction) + 1)]
    table = Contingency.of_layers(labels, masks)
    assert table == Contingency.of_layers(apart, masks)
    assert Contingency.of_layers(apart, [labels]) == Contingency.of(labels, labels)


@given(stacks(), stacks(), st.integers(1, 11))
def test_tables_of_masks_add_up(prediction: Masks, truth: Masks, cut: int) -> None:
    sides = [prediction_ids(masks) for masks in (prediction, truth)]
    halves = [Box((0, 0), (cut, 14)), Box((cut, 0), SHAPE)]
    each = [
        Contingency.of_layers(*(list(side[:, *half.slices]) for side in sides)) for half in halves
    ]
    whole = Contingency.of_layers(*map(list, sides))
    assert reduce(add, each) == whole
    assert whole.voxels == np.prod(SHAPE)


def test_two_objects_in_nearly_one_place_are_found_by_one_prediction_once() -> None:
    truth = np.zeros((2, *SHAPE), np.uint8)
    truth[0, 2:8, 2:8] = truth[1, 2:8, 2:9] = 255
    (found,) = es.evaluate(flat(truth[:1]), truth, (0.5,))
    assert (found.tp, found.fp, found.fn) == (1, 0, 1)
    assert found.mean_matched_iou == 1


@settings(deadline=None, max_examples=12)
@given(stacks(), stacks(), st.sampled_from([5, 14]))
def test_files_of_masks_are_scored_in_any_boxes(
    tmp_path_factory: pytest.TempPathFactory, prediction: Masks, truth: Masks, edge: int
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    for name, masks in (("prediction", prediction), ("truth", truth)):
        tifffile.imwrite(folder / f"{name}.tif", masks, photometric="minisblack")
    wanted = [by_force(prediction, truth, t)[0] for t in THRESHOLDS]
    with pytest.MonkeyPatch.context() as patch:
        for ndim in (2, 3):
            patch.setitem(boxes.EDGE, ndim, edge)
        p, t = folder / "prediction.tif", folder / "truth.tif"
        found = evaluate_images(p, t, THRESHOLDS, overlapping=True, count_errors=True)
    assert [score.tp for score in found.scores] == wanted
    errors = found.errors
    assert errors is not None
    true = {"true_positive", "split", "merged", "miss"}
    assert sum(errors[kind] for kind in true) == present(truth)
    others = errors["true_positive"] + errors["merge"] + errors["fragment"]
    assert others + errors["false_positive"] == present(prediction)


def test_boundaries_of_masks_that_overlap_are_whole() -> None:
    truth = np.zeros((2, *SHAPE), np.uint8)
    truth[0, 1:9, 1:9] = truth[1, 4:11, 4:12] = 255
    for localisation in ("iou", "boundary", "reference"):
        options: dict[str, Any] = {"localisation": localisation, "overlapping": True}
        (found,) = es.evaluate(truth, truth[::-1], (1.0,), **options)
        assert (found.tp, found.fp, found.fn) == (2, 0, 0), localisation


def test_the_command_scores_labels_against_masks(tmp_path: Path) -> None:
    truth = np.zeros((3, *SHAPE), np.uint8)
    truth[0, 1:6, 1:6] = truth[1, 3:9, 3:9] = truth[2, 9:12, 9:14] = 255
    tifffile.imwrite(tmp_path / "labels.tif", flat(truth), photometric="minisblack")
    tifffile.imwrite(tmp_path / "masks.tif", truth, photometric="minisblack")
    table = tmp_path / "errors.csv"
    sides = map(str, (tmp_path / "labels.tif", tmp_path / "masks.tif"))
    result = CliRunner().invoke(app, ["evaluate", *sides, "--errors", str(table), "--json"])
    assert result.exit_code == 0, result.output
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], float(row["best_iou"])) for row in rows] == [
        ("true_positive", pytest.approx(16 / 25)),
        ("true_positive", 1.0),
        ("true_positive", 1.0),
    ]
    assert [float(rows[0][axis]) for axis in "yx"] == [3, 3]  # of the whole mask


def test_unannotated_voxels_of_a_mask_count_for_no_object() -> None:
    truth = np.zeros((2, *SHAPE), np.int16)
    truth[0, 1:5, 1:5] = truth[1, 4:9, 4:9] = 1
    truth[1, :4] = -1
    (found,) = es.evaluate(flat(truth[1:].clip(0).astype(np.uint8)), truth, (1.0,))
    assert (found.tp, found.fp, found.fn) == (1, 0, 1)


def test_what_is_negative_in_a_predicted_mask_is_outside_of_this_object_alone() -> None:
    masks = np.zeros((2, *SHAPE), np.int16)
    masks[0, 1:5, 1:5] = masks[1, 3:9, 3:9] = 1
    predicted = masks.copy()
    predicted[1, 1:3, 1:3] = -1
    (found,) = es.evaluate(predicted, masks, (1.0,), overlapping=True)
    assert (found.tp, found.fp, found.fn) == (2, 0, 0)


def test_masks_of_another_image_are_refused() -> None:
    with pytest.raises(VolumeError, match=r"\(12, 13\), the truth of \(12, 14\)"):
        es.evaluate(np.ones((12, 13), np.uint8), np.ones((2, *SHAPE), np.uint8))


def test_a_volume_is_no_stack_of_masks() -> None:
    volume = np.zeros((4, *SHAPE), np.uint16)
    volume[2, :3], volume[2, 5:] = 4, 9
    with pytest.raises(VolumeError, match=r"plane 2 has labels 4 and 9.*of a volume\?"):
        es.evaluate(flat(np.ones((1, *SHAPE), np.uint8)), volume)


def test_two_stacks_of_different_sizes_are_told_how_to_be_compared() -> None:
    one, two = np.ones((2, *SHAPE), np.uint16), np.ones((3, *SHAPE), np.uint16)
    with pytest.raises(VolumeError, match="overlapping=True"):
        es.evaluate(one, two)


def test_a_file_with_unnamed_axes_may_be_a_stack(tmp_path: Path) -> None:
    masks = np.zeros((6, *SHAPE), np.uint8)
    masks[:, 2:5, 2:5] = 255
    tifffile.imwrite(tmp_path / "masks.tif", masks, photometric="minisblack")
    with pytest.raises(MetadataError, match=r"such as axes='zyx'.*--overlapping"):
        es.evaluate(tmp_path / "masks.tif", tmp_path / "masks.tif")


@pytest.mark.parametrize("ignore", [255, 7])
def test_the_ignore_label_is_a_value_of_true_masks_only(ignore: int) -> None:
    prediction, truth = np.zeros((2, 2, *SHAPE), np.uint8)
    prediction[0, 2:6, 2:6] = truth[0, 2:6, 2:6] = 255
    prediction[1, 7:9, 7:9] = truth[1, 7:9, 7:9] = 7
    (found,) = es.evaluate(prediction, truth, (0.5,), overlapping=True, ignore=ignore)
    assert (found.tp, found.fp, found.fn) == (1, 0, 0)


def test_empty_planes_are_reported_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    truth = np.zeros((3, *SHAPE), np.uint8)
    truth[1, 2:5, 2:5] = 255
    (found,) = es.evaluate(truth[1].astype(np.uint16), truth, (0.5,))
    assert (found.tp, found.fn) == (1, 0)
    assert "no object in planes 0, 2" in caplog.text


@pytest.mark.shared_data
def test_worms_that_overlap_lose_where_they_are_flattened(shared_data: Path) -> None:
    masks = shared_data / "bbbc010_worms/train/masks/A01.tif"
    (same,) = es.evaluate(masks, masks, (1.0,), overlapping=True)
    assert (same.tp, same.fp, same.fn) == (15, 0, 0)
    stack = tifffile.imread(masks)
    labels = reduce(np.maximum, prediction_ids(stack))
    half, whole = es.evaluate(labels, masks, (0.5, 1.0))
    assert half.tp == 15
    assert 0 < whole.tp < 15
