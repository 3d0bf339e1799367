"""`evaluate` on arrays, files, folders and runs, and its command."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import OutputError, UsageError, VolumeError
from embedseg_large.evaluation import compare, pairs
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.evaluate import THRESHOLDS, evaluate_images, evaluate_runs
from embedseg_large.evaluation.localisation import localised_scores, shell
from embedseg_large.evaluation.options import Localisation
from embedseg_large.evaluation.scores import scores
from embedseg_large.runs import boxes
from embedseg_large.testing import synthetic_embryo
from embedseg_large.testing.strategies import label_pairs

Labels = NDArray[Any]

TWO = np.array([[1, 1, 0, 2], [1, 1, 0, 2]], np.uint8)
ONE = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], np.uint8)
BAD = np.array([[0, 0, 3, 0], [0, 0, 3, 0]], np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two images with their predictions: one object of two, and neither right nor complete."""
    prediction, truth = tmp_path / "prediction", tmp_path / "truth"
    for folder, images in ((prediction, {"a": ONE, "b": BAD}), (truth, {"b": TWO, "a": TWO})):
        folder.mkdir()
        for name, labels in images.items():
            tifffile.imwrite(folder / f"{name}.tif", labels, photometric="minisblack")
        (folder / "notes.txt").write_text("not an image")
    return prediction, truth


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *(str(a) for a in arguments)])


def run_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def read_in_boxes(patch: pytest.MonkeyPatch, edge: int) -> None:
    """Read boxes of that edge."""
    for ndim in (2, 3):
        patch.setitem(boxes.EDGE, ndim, edge)


def take_any_labels(patch: pytest.MonkeyPatch) -> None:
    """Small random labels may look like a mask, which is refused."""
    patch.setattr(pairs, "check_label_voxels", lambda *_, **__: None)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    label_pairs(), st.sampled_from(["iou", "boundary", "reference"]), st.integers(2, 9), st.data()
)
def test_scores_do_not_depend_on_the_boxes_that_are_read(
    pair: tuple[Labels, Labels], localisation: Localisation, edge: int, data: st.DataObject
) -> None:
    width = data.draw(st.integers(1, 3))
    planes = [p[0] if p.ndim == 3 and len(p) == 1 else p for p in pair]  # one plane is 2D
    sides = [shell(np.pad(p, width), width) if localisation == "boundary" else p for p in planes]
    whole = localised_scores(Contingency.of(*sides), THRESHOLDS, localisation)
    with pytest.MonkeyPatch.context() as patch:
        take_any_labels(patch)
        read_in_boxes(patch, edge)
        boxed = es.evaluate(*pair, localisation=localisation, boundary_width=width)
    assert boxed == whole


@settings(deadline=None)
@given(label_pairs(), st.integers(2, 9))
def test_counts_of_errors_do_not_depend_on_the_boxes(
    pair: tuple[Labels, Labels], edge: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        take_any_labels(patch)
        whole = evaluate_images(*pair, count_errors=True).errors
        read_in_boxes(patch, edge)
        assert evaluate_images(*pair, count_errors=True, localisation="boundary").errors == whole


def test_one_pair_is_a_list_of_its_scores() -> None:
    assert es.evaluate(ONE, TWO, (0.5, 0.9)) == scores(Contingency.of(ONE, TWO), (0.5, 0.9))


def test_folders_are_matched_by_stem_and_pooled(folders: tuple[Path, Path]) -> None:
    result = evaluate_images(*folders, (0.5,))
    assert [image.name for image in result.images] == ["a", "b"]
    assert [image.scores[0].tp for image in result.images] == [1, 0]
    (all_of_them,) = result.scores
    assert (all_of_them.tp, all_of_them.fp, all_of_them.fn) == (1, 1, 3)
    assert all_of_them.ap == 1 / 5
    assert all_of_them.mean_matched_iou == 1
    assert es.evaluate(*folders, (0.5,)) == result.scores


def test_pooling_is_scoring_one_image_of_all_objects() -> None:
    truth = synthetic_embryo((20, 60), diameter=8)
    prediction = np.roll(truth, 1, axis=0)
    apart = [prediction[:, :30], np.where(prediction[:, 30:], prediction[:, 30:] + 99, 0)]
    true = [truth[:, :30], np.where(truth[:, 30:], truth[:, 30:] + 99, 0)]
    one = es.evaluate(np.concatenate(apart), np.concatenate(true))
    for pooled, whole in zip(es.evaluate(apart, true), one, strict=True):
        assert pooled.as_dict() == pytest.approx(whole.as_dict())


def test_a_file_without_a_partner_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.tif").unlink()
    with pytest.raises(UsageError, match=r"truth: no prediction for b\.tif"):
        es.evaluate(*folders)


def test_an_image_of_another_shape_is_named(folders: tuple[Path, Path]) -> None:
    tifffile.imwrite(folders[0] / "b.tif", np.zeros((3, 3), np.uint8), photometric="minisblack")
    with pytest.raises(VolumeError, match=r"^b: .* shape"):
        es.evaluate(*folders)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([ONE], TWO, "is a list and the truth a volume"),
        ([ONE], [TWO, TWO], "1 predictions and 2 true"),
        ([], [], "0 predictions"),
    ],
)
def test_sides_that_do_not_correspond_are_refused(
    prediction: Any, truth: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        es.evaluate(prediction, truth)


def test_a_folder_without_images_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        es.evaluate(tmp_path / "empty", folders[1])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"thresholds": (1.5,)}, UsageError),
        ({"localisation": "dice"}, UsageError),
        ({"boundary_width": 0}, UsageError),
        ({"boundary_width": 20_000}, UsageError),
        ({"errors": "errors.xlsx"}, UsageError),
        ({"errors": "errors.h5ad"}, UsageError),
        ({"errors": "/nowhere/errors.csv"}, OutputError),
    ],
)
def test_wrong_options_are_refused_before_a_voxel_is_read(
    options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        pytest.fail("voxels were read")

    monkeypatch.setattr(compare, "_read", read)
    with pytest.raises(error):
        es.evaluate(ONE, TWO, **options)


def test_margins_that_fill_the_memory_are_refused_before_a_voxel_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = np.zeros((3, 4, 5), np.uint8)
    es.evaluate(volume, volume, localisation="iou", boundary_width=129)
    monkeypatch.delattr(compare, "_read")
    with pytest.raises(UsageError, match="at most 128 voxels for a 3D image") as caught:
        es.evaluate(volume, volume, localisation="boundary", boundary_width=129)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("localisation", ["iou", "boundary"])
def test_what_is_negative_in_a_prediction_is_background(localisation: Localisation) -> None:
    prediction = np.where(BAD > 0, -1, ONE.astype(np.int16))
    found = evaluate_images(
        prediction, TWO, localisation=localisation, count_errors=True, boundary_width=1
    )
    expected = evaluate_images(
        ONE, TWO, localisation=localisation, count_errors=True, boundary_width=1
    )
    assert found == expected


def test_errors_of_all_images_are_one_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate_images(*folders, errors=tmp_path / "errors.csv")
    with (tmp_path / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["kind"], r["id"]) for r in rows] == [
        ("a", "true_positive", "1"),
        ("a", "miss", "2"),
        ("b", "miss", "1"),
        ("b", "miss", "2"),
        ("b", "false_positive", "3"),
    ]
    assert (rows[1]["y"], rows[1]["x"], rows[1]["size"]) == ("0.5", "3", "2")
    assert result.errors is not None
    assert (result.errors["miss"], result.images[0].errors) == (
        3,
        {k: int(k in ("true_positive", "miss")) for k in result.errors},
    )


def test_positions_are_in_micrometres_where_the_voxel_size_is_known(tmp_path: Path) -> None:
    truth = es.open_volume(TWO, voxel_size=(2.0, 0.5))
    es.evaluate(ONE, truth, errors=tmp_path / "errors.csv")
    with (tmp_path / "errors.csv").open(newline="") as file:
        missed = list(csv.DictReader(file))[1]
    assert (missed["y_um"], missed["x_um"], missed["z_um"]) == ("1", "1.5", "")


def test_a_timepoint_of_a_series_is_scored(tmp_path: Path) -> None:
    truth = np.stack([synthetic_embryo((32, 32), n_objects=4, diameter=7, seed=s) for s in (0, 1)])
    found = truth.copy()
    found[0] = 0
    for name, labels in (("found", found), ("true", truth)):
        tifffile.imwrite(tmp_path / f"{name}.tif", labels.astype(np.uint16))
    where = [str(tmp_path / "found.tif"), str(tmp_path / "true.tif"), "--axes", "tyx"]
    failed = CliRunner().invoke(app, ["evaluate", *where])
    assert failed.exit_code == 2
    assert "2 timepoints; choose one (--timepoint)" in failed.stderr
    for timepoint, recall in (("0", 0.0), ("1", 1.0)):
        done = CliRunner().invoke(app, ["evaluate", *where, "--timepoint", timepoint, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["scores"][0]["recall"] == recall
    series, one = es.open_volume(found, axes="tyx"), es.open_volume(truth[1], axes="yx")
    assert es.evaluate(series, one, (0.5,), timepoint=1)[0].fn == 0
    with pytest.raises(UsageError, match="neither the prediction nor the truth is a series"):
        es.evaluate(one, one, (0.5,), timepoint=0)
    with pytest.raises(UsageError, match="no timepoint 2"):
        es.evaluate(series, one, (0.5,), timepoint=2)


def test_errors_are_not_counted_unless_asked_for() -> None:
    assert evaluate_images(ONE, TWO).errors is None


def test_runs_have_a_mean_and_a_deviation() -> None:
    result = evaluate_runs([TWO, ONE, BAD], TWO, (0.5,))
    aps = [run.scores[0].ap for run in result.runs]
    assert aps == [1, 0.5, 0]
    assert result.mean[0]["ap"] == pytest.approx(statistics.mean(aps))
    assert result.deviation[0]["ap"] == pytest.approx(statistics.stdev(aps))
    assert result.mean[0]["threshold"] == result.deviation[0]["threshold"] == 0.5
    assert result.mean[0]["tp"] == 1


def test_runs_of_folders_are_pooled_each(folders: tuple[Path, Path]) -> None:
    result = evaluate_runs([folders[0], folders[1]], folders[1], (0.5,))
    assert [run.scores[0].ap for run in result.runs] == [1 / 5, 1]


def test_one_run_has_no_deviation() -> None:
    with pytest.raises(UsageError, match="at least two predictions"):
        evaluate_runs([ONE], TWO)


def test_the_command_prints_images_and_pooled_scores(folders: tuple[Path, Path]) -> None:
    printed = run_json(*folders, "--thresholds", ".5,.75")
    assert [s["threshold"] for s in printed["scores"]] == [0.5, 0.75]
    assert printed["scores"][0]["ap"] == 0.2
    assert [image["name"] for image in printed["images"]] == ["a", "b"]
    assert printed["images"][0]["scores"][0]["ap"] == 0.5
    assert "AP of image" in run(*folders).stdout


def test_the_command_counts_and_writes_errors(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "errors.csv"
    printed = run_json(*folders, "--errors", table)
    assert printed["errors"]["miss"] == 3
    assert printed["images"][1]["errors"]["false_positive"] == 1
    assert table.is_file()
    assert "false positive" in run(*folders, "--errors", table).stdout


def test_the_command_scores_by_other_measures(folders: tuple[Path, Path]) -> None:
    printed = run_json(*folders, "--localisation", "boundary", "--boundary-width", "1")
    assert printed["localisation"] == "boundary"
    assert printed["scores"] == run_json(*folders)["scores"]  # all of so small objects is boundary
    assert "mean IoR" in run(*folders, "--localisation", "reference").stdout
    assert run(*folders, "--localisation", "dice").exit_code == 2


def test_the_command_averages_runs(folders: tuple[Path, Path]) -> None:
    printed = run_json(folders[0], folders[1], "--run", folders[1], "--thresholds", ".5")
    assert printed["scores"][0]["ap"] == pytest.approx(0.6)
    assert printed["deviations"][0]["ap"] == pytest.approx(statistics.stdev([0.2, 1]))
    assert [run[0]["ap"] for run in printed["runs"]] == [0.2, 1]
    assert "0.600 ± 0.566" in run(folders[0], folders[1], "--run", folders[1]).stdout


def test_errors_of_several_runs_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "errors.csv"
    assert run(*folders, "--run", folders[1], "--errors", table).exit_code == 2
    assert not table.exists()
