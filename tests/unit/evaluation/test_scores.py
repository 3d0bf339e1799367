"""Scores of predictions whose faults are known."""

import json
import time
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import Score, scores
from embedseg_large.testing import synthetic_embryo


def score(prediction: Any, truth: Any, threshold: float = 0.5) -> Score:
    return scores(Contingency.of(np.array(prediction), np.array(truth)), [threshold])[0]


def test_a_perfect_prediction_scores_one_everywhere() -> None:
    labels = synthetic_embryo((40, 40, 40), diameter=10)
    for result in scores(Contingency.of(labels[::1], labels), (0.1, 0.5, 1.0)):
        assert (result.ap, result.f1, result.pq, result.mean_matched_iou) == (1, 1, 1, 1)
        assert (result.tp, result.fp, result.fn) == (labels.max(), 0, 0)


def test_a_missed_an_invented_and_a_found_object() -> None:
    result = score([0, 0, 5, 5, 9], [1, 1, 2, 2, 0])
    assert (result.tp, result.fp, result.fn) == (1, 1, 1)
    assert result.ap == pytest.approx(1 / 3)
    assert result.precision == result.recall == result.f1 == 0.5
    assert result.pq == 0.5


def test_objects_merged_and_objects_split_are_counted() -> None:
    merged = score([7] * 6, [1, 1, 1, 2, 2, 2], 0.6)
    assert (merged.tp, merged.fp, merged.fn) == (0, 1, 2)
    split = score([1, 1, 1, 2, 2, 2], [7] * 6, 0.6)
    assert (split.tp, split.fp, split.fn) == (0, 2, 1)


def test_an_iou_equal_to_the_threshold_is_a_match() -> None:
    assert score([1, 1, 0], [1, 0, 0], 0.5).tp == 1
    assert score([1, 1, 1, 0, 0], [0, 0, 1, 1, 1], 0.2).tp == 1


def test_of_two_halves_of_one_object_one_matches_at_one_half() -> None:
    result = score([1, 1, 2, 2], [9, 9, 9, 9], 0.5)
    assert (result.tp, result.fp, result.fn) == (1, 1, 0)
    assert result.mean_matched_iou == 0.5


def test_more_matches_are_better_than_one_good_match() -> None:
    # prediction 1 overlaps both true objects; taking its better partner would leave 2 alone
    truth = [1] * 6 + [2] * 4
    prediction = [2, 2, 1, 1, 1, 1, 1, 1, 1, 0]
    result = score(prediction, truth, 0.3)
    assert result.tp == 2


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_nothing_predicted_and_nothing_there_scores_zero_as_in_stardist(threshold: float) -> None:
    result = score([0, 0], [0, 0], threshold)
    assert result == Score(threshold, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_one_empty_side_leaves_only_faults(threshold: float) -> None:
    assert score([0, 0], [4, 9], threshold).fn == 2
    assert score([4, 9], [0, 0], threshold).fp == 2


def test_no_voxels_have_no_objects() -> None:
    assert scores(Contingency.empty(), [0.5])[0].tp == 0


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_iou_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        scores(Contingency.empty(), [0.5, threshold])


def test_a_score_becomes_json() -> None:
    row = json.loads(json.dumps(score([1, 1, 0], [1, 1, 0], 0.75).as_dict()))
    assert row["threshold"] == 0.75
    assert row["tp"] == 1
    assert {"ap", "precision", "recall", "f1", "pq", "mean_matched_iou", "fp", "fn"} < set(row)


def noisy(labels: NDArray[np.uint32], rng: np.random.Generator) -> NDArray[np.uint32]:
    """Objects moved, some merged into another, some lost."""
    names = np.arange(int(labels.max()) + 1, dtype=np.uint32)
    some = rng.choice(names[1:], names.size // 3, replace=False)
    names[some] = rng.choice(names, some.size)
    return names[np.roll(labels, rng.integers(-1, 2, 3), (0, 1, 2))]


@pytest.mark.parametrize("seed", range(4))
def test_every_number_of_a_packed_tissue_is_stardists(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports are not our business
        from stardist.matching import matching
    truth = synthetic_embryo((48, 48, 48), density=1, spacing=0.6, diameter=9, seed=seed)
    prediction = noisy(truth, np.random.default_rng(seed))
    thresholds = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    ours = scores(Contingency.of(prediction, truth), thresholds)
    assert ours[0].tp > ours[4].tp > 0
    for our, their in zip(ours, matching(truth, prediction, thresholds), strict=True):
        assert (our.tp, our.fp, our.fn) == (their.tp, their.fp, their.fn)
        assert our.pq == pytest.approx(their.panoptic_quality, rel=1e-6)
        assert our.mean_matched_iou == pytest.approx(their.mean_matched_score, rel=1e-6)


def test_a_hundred_thousand_touching_objects_are_matched_in_seconds() -> None:
    # every object overlaps the next one a little: all are one component of the overlap graph
    n = 100_000
    ids = np.arange(1, n + 1)
    prediction = np.repeat(ids, 10)
    truth = np.roll(prediction, 1)
    start = time.perf_counter()
    results = scores(Contingency.of(prediction, truth), (0.1, 0.3, 0.5))
    assert time.perf_counter() - start < 20  # about 1 s on an idle core
    assert [result.tp for result in results] == [n, n, n]
