"""Errors of predictions whose faults are known, and where they are."""

import csv
import sys
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import OutputError, UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.errors import KINDS, ErrorRule, Errors, Found, Positions, find_errors
from embedseg_large.evaluation.scores import scores
from embedseg_large.storage.tables import check_table_path, write_table
from embedseg_large.testing.strategies import cuts, label_pairs

Labels = NDArray[Any]

TRUE_KINDS = {"true_positive", "split", "merged", "miss"}


def found(prediction: Any, truth: Any, origin: tuple[int, ...] | None = None) -> Found:
    p, t = np.array(prediction), np.array(truth)
    at = origin or (0,) * p.ndim
    return Found(Contingency.of(p, t), Positions.of(p, at), Positions.of(t, at))


def judge(prediction: Any, truth: Any, **rule: float) -> Errors:
    return find_errors(found(prediction, truth), ErrorRule(**rule))


def rows(errors: Errors) -> list[tuple[str, int, int]]:
    """Kind, id and partner of every row."""
    return list(
        zip(errors.kind.tolist(), errors.ids.tolist(), errors.partner.tolist(), strict=True)
    )


def test_a_found_a_missed_and_an_invented_object() -> None:
    errors = judge([0, 0, 5, 5, 9], [1, 1, 2, 2, 0])
    assert rows(errors) == [("miss", 1, 0), ("true_positive", 2, 5), ("false_positive", 9, 0)]
    assert errors.best_iou.tolist() == [0, 1, 0]
    assert errors.size.tolist() == [2, 2, 1]
    assert errors.position.tolist() == [[0.5], [2.5], [4]]


def test_one_truth_under_two_predictions_is_a_split_and_they_are_fragments() -> None:
    errors = judge([1, 1, 1, 1, 2, 2], [7] * 6)
    assert rows(errors) == [("split", 7, 1), ("fragment", 1, 7), ("fragment", 2, 7)]


def test_one_prediction_over_two_truths_is_a_merge_and_they_are_merged() -> None:
    errors = judge([7] * 6, [1, 1, 1, 1, 2, 2])
    assert rows(errors) == [("merged", 1, 7), ("merged", 2, 7), ("merge", 7, 1)]


def test_a_good_match_with_a_second_fragment_is_a_split_although_it_scores() -> None:
    prediction, truth = [1] * 8 + [2] * 2, [7] * 10
    assert judge(prediction, truth).counts["split"] == 1
    assert scores(Contingency.of(np.array(prediction), np.array(truth)), [0.5])[0].tp == 1


def test_a_speck_smaller_than_the_share_is_no_fragment_but_an_invention() -> None:
    prediction, truth = [1] * 19 + [2], [7] * 20
    kinds = [("true_positive", 7, 1), ("false_positive", 2, 7)]
    assert rows(judge(prediction, truth)) == kinds
    assert judge(prediction, truth, share=0.05).counts["split"] == 1


def test_a_neighbour_that_leaks_in_is_no_fragment() -> None:
    errors = judge([1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 2, 2, 2])
    assert errors.counts["true_positive"] == 2
    assert sum(errors.counts.values()) == 2


def test_an_object_that_is_found_badly_is_missed_and_invented_with_its_partner() -> None:
    errors = judge([0, 1, 1, 1, 1], [2, 2, 2, 0, 0])
    assert rows(errors) == [("miss", 2, 1), ("false_positive", 1, 2)]
    assert errors.best_iou.tolist() == [0.4, 0.4]


def test_a_stricter_match_leaves_fewer_true_positives() -> None:
    prediction, truth = [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]
    assert judge(prediction, truth, match=0.8).counts["true_positive"] == 1
    assert judge(prediction, truth, match=0.81).counts["miss"] == 1


def test_of_equally_good_partners_the_first_is_named() -> None:
    assert judge([3, 3, 2, 2], [9] * 4).partner.tolist() == [2, 9, 9]


@pytest.mark.parametrize("side", [[0, 0], [4, 9]])
def test_one_empty_side_leaves_only_faults(side: list[int]) -> None:
    n = int(np.count_nonzero(side))
    assert judge([0, 0], side).counts == dict.fromkeys(KINDS, 0) | {"miss": n}
    assert judge(side, [0, 0]).counts == dict.fromkeys(KINDS, 0) | {"false_positive": n}


@settings(deadline=None)
@given(label_pairs())
def test_every_object_counts_once(pair: tuple[Labels, Labels]) -> None:
    prediction, truth = pair
    n = judge(prediction, truth).counts
    assert sum(n[kind] for kind in TRUE_KINDS) == np.unique(truth[truth > 0]).size
    predicted = n["true_positive"] + n["merge"] + n["fragment"] + n["false_positive"]
    assert predicted == np.unique(prediction[prediction > 0]).size
    assert (n["split"] > 0) == (n["fragment"] > 0) or n["merge"] > 0  # a fragment may be a merge
    assert n["true_positive"] <= scores(Contingency.of(prediction, truth), [0.5])[0].tp


@settings(deadline=None)
@given(label_pairs())
def test_merges_are_the_splits_of_the_other_side(pair: tuple[Labels, Labels]) -> None:
    here, there = judge(*pair).counts, judge(*reversed(pair)).counts
    assert (here["split"], here["merge"]) == (there["merge"], there["split"])
    assert here["true_positive"] == there["true_positive"]


@settings(deadline=None)
@given(label_pairs(), st.data())
def test_the_tables_of_boxes_add_up_to_the_errors_of_the_whole(
    pair: tuple[Labels, Labels], data: st.DataObject
) -> None:
    boxes = data.draw(cuts(pair[0].shape))
    parts = [found(pair[0][box.slices], pair[1][box.slices], box.start) for box in boxes]
    added = find_errors(reduce(add, parts, Found.empty(pair[0].ndim)))
    whole = judge(*pair)
    assert rows(added) == rows(whole)
    np.testing.assert_array_equal(added.position, whole.position)  # to the last bit
    np.testing.assert_array_equal(added.best_iou, whole.best_iou)


@settings(deadline=None)
@given(label_pairs())
def test_positions_are_the_centres_of_mass(pair: tuple[Labels, Labels]) -> None:
    labels = pair[0]
    positions = Positions.of(labels, (0,) * labels.ndim)
    ids = np.unique(labels[labels > 0])
    assert positions.ids.tolist() == ids.tolist()
    assert positions.sizes.tolist() == [np.count_nonzero(labels == n) for n in ids]
    if ids.size:
        centres = ndimage.center_of_mass(np.ones(labels.shape), labels, ids)
        np.testing.assert_allclose(positions.centroids, centres)


def test_positions_far_from_the_origin_are_exact() -> None:
    ones = np.ones((2, 2, 2), np.uint64)
    positions = Positions.of(ones << np.uint64(63), (2**40, 0, 7))
    assert positions.ids.tolist() == [2**63]
    assert positions.centroids.tolist() == [[2**40 + 0.5, 0.5, 7.5]]


@pytest.mark.parametrize("rule", [{"match": 0.4}, {"match": 1.1}, {"share": 0}, {"share": 0.6}])
def test_thresholds_for_which_the_rule_has_no_answer_are_refused(rule: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="is not in"):
        ErrorRule(**rule)


def columns(ndim: int = 2, voxel_size: tuple[float, ...] | None = None) -> dict[str, Any]:
    truth = np.zeros((4,) * ndim, int)
    truth[..., :2] = 1
    return judge(truth * 3, truth).columns("embryo", voxel_size)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_tells_who_what_and_where(tmp_path: Path) -> None:
    write_table(tmp_path / "errors.csv", columns(3, (2.0, 0.5, 0.5)))
    (row,) = read_csv(tmp_path / "errors.csv")
    assert row == {
        "image": "embryo",
        "kind": "true_positive",
        "side": "truth",
        "id": "1",
        "partner": "3",
        "best_iou": "1",
        "size": "32",
        "z": "1.5",
        "y": "1.5",
        "x": "0.5",
        "z_um": "3",
        "y_um": "0.75",
        "x_um": "0.25",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["errors.csv"]


def test_what_is_unknown_is_left_empty(tmp_path: Path) -> None:
    write_table(tmp_path / "errors.csv", columns(2))
    (row,) = read_csv(tmp_path / "errors.csv")
    assert [name for name, cell in row.items() if cell == ""] == ["z", "z_um", "y_um", "x_um"]


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "errors.parquet", columns(2, (0.5, 0.5)))
    (row,) = parquet.read_table(tmp_path / "errors.parquet").to_pylist()
    assert (row["id"], row["partner"], row["kind"]) == (1, 3, "true_positive")
    assert (row["z"], row["y"], row["y_um"]) == (None, 1.5, 0.75)


def test_without_pyarrow_parquet_is_refused_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "embedseg-large\[tables\]"'):
        check_table_path("errors.parquet")


def test_tables_of_other_endings_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.parquet or \.h5ad"):
        check_table_path("errors.xlsx")
    with pytest.raises(UsageError, match="no folder"):
        check_table_path(tmp_path / "nowhere" / "errors.csv")


def test_a_failed_write_leaves_the_old_table_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "errors.csv"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedseg_large.storage.tables._write_csv", full)
    with pytest.raises(OutputError, match="No space left"):
        write_table(path, columns())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
