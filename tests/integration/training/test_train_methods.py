"""Every method trains with the same trainer, is kept in one file, and can be tuned further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.methods.of_model import method_of
from embedseg_large.methods.registry import FIELD_METHODS
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.record import EpochRecord, TrainWatcher

SHORT: dict[str, Any] = {
    "epochs": 3,
    "accumulate": 1,
    "epoch_crops": 6,
    "validate_every": 3,
    "threads": 1,
    "pictures_every": 0,
    "learning_rate": 2e-3,
    "validation": 0.34,
}


class Losses(TrainWatcher):
    """Keeps the terms of each epoch."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def epoch(self, record: EpochRecord) -> None:
        self.found.append(record.loss)


def data(root: Path, shape: tuple[int, ...], diameter: float) -> tuple[Path, Path]:
    for seed in range(3):
        labels = synthetic_embryo(shape, diameter=diameter, density=0.3, spacing=1.1, seed=seed)
        for kind, array in (("images", render(labels, seed=seed)), ("masks", labels)):
            (root / kind).mkdir(exist_ok=True)
            tifffile.imwrite(root / kind / f"{seed}.tif", array.astype(np.uint16))
    return root / "images", root / "masks"


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return data(tmp_path_factory.mktemp("flat"), (64, 64), 14)


@pytest.mark.parametrize("name", FIELD_METHODS)
def test_the_loss_of_every_method_falls(name: str, flat: tuple[Path, Path], tmp_path: Path) -> None:
    log = Losses()
    model = es.train(
        *flat, out=tmp_path / "m", method=name, crop=(32, 32), watcher=log, seed=1, **SHORT
    )
    method = method_of(model.settings)
    assert method is not None
    assert list(log.found[0]) == ["total", *method.terms]
    assert log.found[-1]["total"] < log.found[0]["total"]
    again = es.load_model(tmp_path / "m")
    assert (again.settings.method, again.settings.backbone) == (name, "erfnet")
    assert again.settings.fields == method.fields
    assert again.halo == method.halo
    assert dict(again.settings.knobs).keys() == {method.knobs[0].name}


def test_volumes_train_with_a_unet(tmp_path: Path) -> None:
    log = Losses()
    model = es.train(
        *data(tmp_path, (16, 32, 32), 10),
        out=tmp_path / "m",
        method="three-class",
        backbone="unet",
        crop=(16, 16, 16),
        watcher=log,
        **SHORT | {"epoch_crops": 2},
    )
    assert log.found[-1]["total"] < log.found[0]["total"]
    assert (model.ndim, model.settings.backbone) == (3, "unet")


def test_a_model_of_a_method_is_described_tuned_and_not_mixed_up(
    flat: tuple[Path, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "crop": (32, 32),
        **SHORT,
        "epochs": 1,
        "validate_every": 1,
        "epoch_crops": 2,
    }
    out = tmp_path / "start"
    es.train(*flat, out=out, method="two-class", backbone="unet", **options)
    shown = CliRunner().invoke(app, ["info", str(out), "--json"])
    facts = json.loads(shown.stdout)
    assert (facts["method"], facts["backbone"]) == ("two-class", "unet")
    tuned = es.train(
        *flat,
        out=tmp_path / "tuned",
        start=out,
        tune_thresholds=True,
        freeze_encoder=True,
        **options,
    )
    assert tuned.settings.method == "two-class"
    assert tuned.settings.extent == es.load_model(out).settings.extent
    assert [name for name, _ in tuned.settings.knobs] == ["foreground"]
    assert 0 <= tuned.card["tuned"]["ap"] <= 1
    for name, wrong in (("method", "flows"), ("backbone", "erfnet")):
        other: dict[str, Any] = options | {name: wrong, "start": out}
        with pytest.raises(ModelError, match=f"start from has the {name} .*, not {wrong}"):
            es.train(*flat, out=tmp_path / "x", **other)
    with pytest.raises(ModelError, match='method "two-class"'):
        es.train(*flat, out=out, backbone="unet", resume=True, **options)


def test_centres_that_a_method_does_not_use_are_not_searched(
    flat: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"crop": (32, 32), **SHORT, "epochs": 1, "epoch_crops": 2}
    mixed = "embedseg_large.training.data.mixed.find_centers"
    with monkeypatch.context() as patched:
        patched.setattr(mixed, lambda *_: pytest.fail("searched"))
        es.train(*flat, out=tmp_path / "a", method="two-class", **options)
    monkeypatch.setattr(mixed, interrupt)
    with pytest.raises(KeyboardInterrupt):
        es.train(*flat, out=tmp_path / "b", **options)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_masks_that_overlap_are_for_embedseg_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    stack = np.zeros((2, 32, 32), np.uint8)
    stack[0, 4:20, 4:20], stack[1, 10:28, 10:28] = 1, 1
    image = np.random.default_rng(0).integers(0, 200, (32, 32)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "images" / "a.tif", image)
    tifffile.imwrite(tmp_path / "masks" / "a.tif", stack)
    with pytest.raises(UsageError, match=r"objects that overlap, which the method flows cannot"):
        es.train(
            tmp_path / "images", tmp_path / "masks", out=tmp_path / "m", ndim=2, method="flows"
        )


def test_a_method_or_backbone_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for name, named in (
        ("method", "use embedseg, three-class"),
        ("backbone", "use erfnet or unet"),
    ):
        choice: dict[str, Any] = {name: "magic"}
        with pytest.raises(UsageError, match=f"{name} is 'magic'; {named}"):
            es.train("images", "masks", out=tmp_path / "m", **choice)
