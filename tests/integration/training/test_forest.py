"""A forest learns in seconds, from masks or strokes, and its labels do not depend on the tiles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.methods.of_model import method_of
from embedseg_large.network.forest import CONTEXT, FOREST, features
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training import forest
from embedseg_large.training.data import objects
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.volumes.intensity import intensity_ranges

SHAPE = {2: (88, 96), 3: (24, 24, 88)}
TILE = {2: (32, 32), 3: (24, 24, 16)}


def example(ndim: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
    labels = synthetic_embryo(
        SHAPE[ndim], diameter=14, density=0.25, spacing=1.2, seed=seed
    ).astype(np.int32)
    return render(labels, seed=seed), labels


def strokes(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Every eighth line of a mask; the rest is not annotated."""
    drawn = np.full_like(labels, -1)
    drawn[..., ::8, :] = labels[..., ::8, :]
    return drawn


def trained(ndim: int, out: Path, **options: Any) -> es.Model:
    pairs = [example(ndim, seed) for seed in range(2)]
    images, masks = (list(part) for part in zip(*pairs, strict=True))
    return es.train(images, masks, out=out, method=FOREST, **options)


@pytest.mark.parametrize("ndim", [2, 3])
def test_objects_are_found_and_tiles_leave_no_trace(ndim: int, tmp_path: Path) -> None:
    trained(ndim, tmp_path / "m", validation=0.5)
    model = es.load_model(tmp_path / "m")
    assert (model.settings.method, model.settings.backbone) == ("three-class", FOREST)
    assert model.tta_mode(True) == "none"
    image, truth = example(ndim, 7)
    whole = es.segment(
        image, model, output=tmp_path / "whole", tile=(128,) * ndim, cluster_tile=SHAPE[ndim]
    )
    assert es.evaluate(whole.labels.compute(), truth, (0.5,))[0].f1 > 0.7
    tiled = es.segment(
        image, model, output=tmp_path / "tiled", tile=TILE[ndim], cluster_tile=(20,) * ndim
    )
    assert tiled.seams.promise == "exact"
    assert tiled.seams.joined == 0
    np.testing.assert_array_equal(tiled.labels.compute(), whole.labels.compute())


def test_filters_see_no_farther_than_the_context() -> None:
    image = np.random.default_rng(0).random((1, 96, 40), np.float32)
    part = features(image[:, 40 - CONTEXT :])[CONTEXT:]
    np.testing.assert_array_equal(features(image)[40:], part)


@pytest.mark.parametrize("ndim", [2, 3])
def test_voxels_are_drawn_part_by_part_as_from_the_whole(
    ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = example(ndim, 0)
    annotated = np.full_like(labels, -1)
    middle = (slice(3, -2),) * ndim
    annotated[middle] = strokes(labels)[middle]
    (pair,) = find_pairs([image], [annotated])
    box, outside = forest._annotated(pair)
    assert outside == labels.size - box.size
    places = np.argwhere(annotated >= 0)
    assert box == Box(tuple(places.min(axis=0)), tuple(places.max(axis=0) + 1))
    at = np.random.default_rng(0).integers(0, box.shape, (50, ndim))
    part = (24, 16, 8)[-ndim:]
    monkeypatch.setattr(forest, "PART", {ndim: part})
    monkeypatch.setattr(objects, "PART", {ndim: part})
    assert forest._annotated(pair) == (box, outside)
    whole = features(pair.normalised(box, pair.image.read(box), intensity_ranges(pair.image)))
    np.testing.assert_array_equal(forest._features_at(pair, box, at), whole[tuple(at.T)])


def test_strokes_are_enough(tmp_path: Path) -> None:
    image, labels = example(2, 0)
    model = es.train(
        [image], [strokes(labels)], out=tmp_path / "m", method=FOREST, validation=0, seed=3
    )
    other, truth = example(2, 5)
    found = es.segment(other, model, output=tmp_path / "out", min_object_size=20)
    covered = np.count_nonzero((found.labels.compute() > 0) & (truth > 0))
    assert covered > 0.8 * np.count_nonzero(truth)


def test_the_same_strokes_give_the_same_model(tmp_path: Path) -> None:
    first, second = (trained(2, tmp_path / name, validation=0) for name in "ab")
    assert first.fingerprint == second.fingerprint
    image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    np.testing.assert_array_equal(first.predict_raw(image), second.predict_raw(image))


def test_without_background_there_is_nothing_to_learn(tmp_path: Path) -> None:
    image, labels = example(2, 0)
    with pytest.raises(UsageError, match="no voxel is annotated as background"):
        es.train(
            [image],
            [np.where(labels > 0, labels, -1)],
            out=tmp_path / "m",
            method=FOREST,
            validation=0,
        )


def test_the_command_trains_a_forest(tmp_path: Path) -> None:
    for seed in range(2):
        for kind, array in zip(("images", "masks"), example(2, seed), strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / kind / f"{seed}.tif", array.astype(np.uint16))
    places = [f"--{kind}={tmp_path / kind}" for kind in ("images", "masks")]
    out = str(tmp_path / "m")
    ran = CliRunner().invoke(app, ["train", *places, "--out", out, "--method", FOREST])
    assert ran.exit_code == 0, ran.output
    assert "mean AP" in ran.output
    told = CliRunner().invoke(app, ["info", out, "--json"])
    assert json.loads(told.output)["backbone"] == FOREST


@pytest.mark.parametrize(
    "useless",
    [
        {"synthetic": 2},
        {"epochs": 3},
        {"steps": 100},
        {"crop": (32, 32)},
        {"center": "centroid"},
        {"backbone": "unet"},
        {"recipe": "robust"},
        {"augment": AugmentSettings.robust()},
        {"epochs": 3, "learning_rate": 1e-3},
    ],
)
def test_what_a_forest_has_no_use_for_is_refused(tmp_path: Path, useless: dict[str, Any]) -> None:
    named = ", ".join(useless)
    with pytest.raises(UsageError, match=f"{named}: not supported by the method forest"):
        trained(2, tmp_path / "m", **useless)
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_samples_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    trained(2, tmp_path / "m", validation=0)
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        header = file.metadata()
    tensors = safetensors.torch.load_file(tmp_path / "m")
    wrong = tensors | {"samples": tensors["samples"][:, 1:].contiguous()}
    safetensors.torch.save_file(wrong, tmp_path / "wrong", header)
    with pytest.raises(ModelError, match=r"tensor samples is \(6000, 15\) instead of \(6000, 16\)"):
        es.load_model(tmp_path / "wrong")


def test_without_the_library_there_is_a_line_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(UsageError, match=r'pip install "embedseg-large\[forest\]"'):
        trained(2, tmp_path / "m")


@pytest.mark.parametrize(("every", "wanted"), [(1, 11200 / 26000), (4, 2.0)])
def test_probabilities_are_those_of_the_annotated_voxels(every: int, wanted: float) -> None:
    """An object that cannot be seen: what remains is how often there is foreground."""
    mask = np.full((96, 400), -1, np.int32)
    mask[::every] = 0
    mask[20:76:every, 100:300] = 1
    image = np.full(mask.shape, 100, np.uint16)
    image[:, :8], image[:, 8:12] = 0, 200
    model = forest.fit_forest(find_pairs([image], [mask]), 0)
    method = method_of(model.settings)
    assert method is not None
    raw = model.predict_raw(np.full((1, 64, 64), 0.5, np.float32))
    odds = np.exp(method.stored(raw)[1].astype(float))
    assert np.median(odds) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [("odds", np.nan, "not finite"), ("samples", np.inf, "not finite"), ("classes", 7, "0 to 2")],
)
def test_a_file_from_which_no_forest_can_be_grown_is_refused(
    tmp_path: Path, name: str, value: float, wrong: str
) -> None:
    import safetensors.torch

    forest.fit_forest(find_pairs(*([part] for part in example(2, 0))), 0).save(tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        header = file.metadata()
    tensors = safetensors.torch.load_file(tmp_path / "m")
    tensors[name].view(-1)[2] = value
    safetensors.torch.save_file(tensors, tmp_path / "wrong", header)
    with pytest.raises(ModelError, match=wrong):
        es.load_model(tmp_path / "wrong")
