"""The thresholds of a model of any method can be found on annotated images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.methods.of_model import method_of
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.forest import FOREST
from embedseg_large.network.model import Model
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.tuning.knobs import KnobSweep, own_setting
from embedseg_large.training.tuning.thresholds import IOUS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, masks, and a model of the method three-class with thresholds that find little."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("tune")
    labels = synthetic_embryo((88, 96), diameter=14, density=0.25, spacing=1.2, seed=1)
    image = render(labels.astype(np.int32), seed=1)
    for kind, array in (("images", image), ("masks", labels.astype(np.uint16))):
        (folder / kind).mkdir()
        tifffile.imwrite(folder / kind / "a.tif", array)
    model = es.train([image], [labels], out=folder / "m", method=FOREST, validation=0)
    strict = replace(model.settings, knobs=(("interior", 0.8), ("foreground", 0.99)))
    Model(model.weights, strict).save(folder / "m")
    return folder


def tuned(folder: Path, *more: str) -> tuple[int, str, str]:
    places = [f"--{kind}={folder / kind}" for kind in ("images", "masks")]
    result = CliRunner().invoke(app, ["tune", str(folder / "m"), *places, *more])
    return result.exit_code, result.stdout, result.stderr


def test_a_tuned_model_has_the_best_knobs(folder: Path, tmp_path: Path) -> None:
    code, text, error = tuned(folder, f"--out={tmp_path / 'out'}", "--fill-holes", "--json")
    assert code == 0, error
    [(mode, told)] = json.loads(text)["thresholds"].items()
    model = load_model(tmp_path / "out")
    assert mode == "none"
    assert {n: told["after"][n] for n, _ in model.settings.knobs} == dict(model.settings.knobs)
    assert told["before"] | {"interior": 0.8, "foreground": 0.99} == told["before"]
    assert sum(told["after"]["ap"].values()) > sum(told["before"]["ap"].values())
    assert model.cleaning == (False, True)
    assert model.card["thresholds_from"]["tta"] == {mode: told}


def test_the_table_names_the_knobs_and_all_channels_can_be_used(folder: Path) -> None:
    code, text, error = tuned(folder, "--channel=all")
    assert code == 0, error
    assert text.splitlines()[0].split()[:4] == ["TTA", "thresholds", "interior", "foreground"]


def test_a_method_has_the_same_thresholds_for_all_augmentations(folder: Path) -> None:
    code, _, error = tuned(folder, "--tta=none,4")
    assert code == 2
    assert "three-class have the same thresholds for all; pass one of them" in error


def test_of_equally_good_knobs_those_nearest_to_the_defaults_are_taken(folder: Path) -> None:
    model = load_model(folder / "m")
    method = method_of(model.settings)
    assert method is not None
    default = tuple(knob.default for knob in method.knobs)
    far = tuple(knob.values[-1] for knob in method.knobs)
    good, bad = (np.full((len(IOUS), 3), (tp, 1, 0)) for tp in (9, 1))
    assert KnobSweep(({far: good, default: good},), method).best == default
    assert KnobSweep(({far: good, default: bad},), method).best == far
    assert KnobSweep(({far: good, own_setting(model, method): good},), method).best == far
