"""The thresholds that suit a model: the criterion, its ties, and the sweep itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.data import load_demo
from embedseg_large.geometry import Box
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import Thresholds
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.training.tuning.thresholds import IOUS, SEEDS, Sweep, sweep
from embedseg_large.training.tuning.tune import is_rounded

Labels = NDArray[np.int64]


def swept(scores: dict[tuple[float, float], int]) -> Sweep:
    """A sweep of 1000 true objects, of which so many were found."""
    counts = {
        Thresholds(*at): np.array([[found, 0, 1000 - found]] * len(IOUS))
        for at, found in scores.items()
    }
    return Sweep((counts,))


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({(0.6, 0.5): 700, (0.8, 0.5): 720}, (0.8, 0.5)),
        ({(0.6, 0.5): 716, (0.8, 0.5): 720}, (0.6, 0.5)),  # hardly below the best
        ({(0.6, 0.4): 718, (0.6, 0.3): 720}, (0.6, 0.4)),  # nearer to the paper's
        ({(0.6, 0.4): 718, (0.6, 0.6): 719}, (0.6, 0.6)),  # as near, and better
        ({(0.5, 0.5): 0, (0.9, 0.5): 0}, (0.5, 0.5)),
    ],
)
def test_the_best_thresholds_cost_hardly_anything(
    scores: dict[tuple[float, float], int], best: tuple[float, float]
) -> None:
    assert swept(scores).best == best


def test_an_augmentation_may_not_lose_what_one_pass_finds() -> None:
    tried = swept({(0.5, 0.5): 690, (0.6, 0.5): 660, (0.8, 0.5): 650})
    better = dict(tried.sets[0])
    better[Thresholds(0.8, 0.5)] = np.array([[650, 0, 100]] * len(IOUS))  # better, but finds fewer
    found = Sweep((better,))
    assert found.best == (0.8, 0.5)
    assert found.best_with([655]) == (0.8, 0.5)  # less than 1 % fewer
    assert found.best_with([680]) == (0.5, 0.5)
    assert found.best_with([2000]) == (0.5, 0.5)  # none finds enough: the most


def test_sets_count_alike_and_objects_of_a_set_are_pooled() -> None:
    at = Thresholds(0.6, 0.5)
    small, large = np.array([[1, 0, 0]] * 5), np.array([[250, 250, 500]] * 5)
    found = Sweep(({at: small}, {at: large}))
    assert found.ap(at) == dict.fromkeys(IOUS, 0.625)
    assert found.score(at) == 0.625


def predicted(flaws: Flaws) -> tuple[NDArray[np.float16], Labels]:
    labels = synthetic_embryo((20, 40, 40), density=0.5, diameter=11, seed=1).astype(np.int64)
    network = OracleNetwork.of(labels, flaws=flaws)
    return network.predict_tile(labels.astype(np.float32), Box.whole(labels.shape)), labels


def test_perfect_predictions_are_perfect_with_any_thresholds() -> None:
    stored, truth = predicted(Flaws())
    found = sweep([[(stored, truth)]], ClusteringSettings())
    assert found.score(found.best) == 1
    assert found.best == (SEEDS[0], 0.5)


def test_what_is_not_annotated_does_not_count() -> None:
    stored, truth = predicted(Flaws())
    half = truth.copy()
    half[:, 20:] = -1
    found = sweep([[(stored, half)]], ClusteringSettings())
    assert found.score(found.best) == 1
    wrong = sweep([[(stored, np.where(half < 0, 0, half))]], ClusteringSettings())
    assert wrong.score(wrong.best) < 1


def test_noise_asks_for_another_margin_and_cleaning_counts() -> None:
    example = predicted(Flaws(noise=2.0))
    found = sweep([[example]], ClusteringSettings(), more=[Thresholds(0.9, 0.2)])
    at = Thresholds(0.9, 0.5)
    assert found.best.margin < 0.5
    assert found.score(Thresholds(0.9, 0.2)) > found.score(at)
    cleaning = CleanSettings(keep_largest_piece=True, fill_holes=True)
    assert sweep([[example]], ClusteringSettings(), cleaning).score(at) > found.score(at)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of the embryo with some nuclei, as image and mask."""
    folder, demo = tmp_path_factory.mktemp("tune"), load_demo()
    for name, voxels in (("images", demo.image), ("masks", demo.truth)):
        (folder / name).mkdir()
        tifffile.imwrite(folder / name / "a.tif", voxels[44:68, 24:72, 64:112])
    return folder


def test_a_tuned_model_has_the_thresholds_that_were_found(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    sets = ["--images", str(folders / "images"), "--masks", str(folders / "masks")]
    more = ["--tta", "none,4", "--out", str(out), "--keep-largest-piece", "--json"]
    result = CliRunner().invoke(app, ["tune", "nuclei-3d", *sets, *more])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["thresholds"]
    model, tuned = load_model("nuclei-3d"), load_model(out)
    for mode in ("none", "4"):
        after = told[mode]["after"]
        assert tuned.thresholds_of(mode) == (after["seed"], after["margin"])
        assert (
            np.mean([*after["ap"].values()])
            >= np.mean([*told[mode]["before"]["ap"].values()]) - 0.005
        )
    assert told["none"]["before"]["seed"] == model.seed
    assert tuned.cleaning == (True, False)
    assert tuned.card["thresholds_from"] == {"images": [["a"]], "tta": told}
    assert out.stat().st_size < 8e6
    assert all((tuned.weights[name] == t).all() for name, t in model.weights.items())
    again = CliRunner().invoke(app, ["tune", "nuclei-3d", *sets, "--out", str(out)])
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_weights_that_float16_would_round_are_kept() -> None:
    model = load_model("nuclei-2d")
    assert is_rounded(model)
    finer = {name: t * (1 + 1e-4) if t.ndim > 1 else t for name, t in model.weights.items()}
    assert not is_rounded(Model(finer, model.settings))


def test_images_need_their_masks(folders: Path) -> None:
    images = ["--images", str(folders / "images")]
    result = CliRunner().invoke(app, ["tune", "nuclei-3d", *images, *images, "--masks", "m"])
    assert result.exit_code == 2
    assert "2 --images and 1 --masks" in result.stderr
