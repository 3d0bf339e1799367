"""Training on synthetic volumes: alone, without any annotation, or beside annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.sets import TrainingSet
from embedseg_large.training.record import TrainStart, TrainWatcher

SMALL = "ndim=2,shape=64x64,diameter=10:16"
FEW: dict[str, Any] = {
    "synthetic": 6, "synthetic_settings": SMALL, "crop": (32, 32), "epochs": 2, "epoch_crops": 20,
    "accumulate": 1, "device": "cpu",
}  # fmt: skip


class Log(TrainWatcher):
    """Keeps what a training reports."""

    def __init__(self) -> None:
        self.starts: list[TrainStart] = []
        self.losses: list[float] = []
        self.batches = 0

    def begin(self, start: TrainStart) -> None:
        self.starts.append(start)

    def batch(self, *_: Any) -> None:
        self.batches += 1

    def epoch(self, record: Any) -> None:
        self.losses.append(record.loss["total"])


def same(a: es.Model, b: es.Model) -> bool:
    return all(torch.equal(w, dict(b.weights)[name]) for name, w in dict(a.weights).items())


def test_twenty_steps_on_nothing_annotated_learn_and_give_a_model(tmp_path: Path) -> None:
    log = Log()
    model = es.train(out=tmp_path / "m", watcher=log, **FEW)
    assert log.batches == 20
    assert log.losses[1] < log.losses[0]
    (start,) = log.starts
    assert start.facts()["synthetic"] == "6 volumes of 64 x 64 voxels, 100% of the crops"
    # held out: numbers that are not trained on
    assert start.validation == ("synthetic 6",)
    assert model.ndim == 2
    assert 0 < model.min_object_size < 120
    assert 8 < (model.settings.object_diameter or 0) < 20
    assert model.card["data"]["synthetic_volumes"] == 6
    assert model.card["data"]["synthetic_settings"]["diameter"] == [10, 16]


def test_a_volume_is_trained_on_as_a_volume(tmp_path: Path) -> None:
    settings = "shape=16x40x40,diameter=10,anisotropy=2"
    few = FEW | {"synthetic_settings": settings, "crop": (8, 32, 32), "epochs": 1, "epoch_crops": 4}
    model = es.train(out=tmp_path / "m", **few)
    assert model.ndim == 3
    assert model.pitch[0] == pytest.approx(2 * model.pitch[2])


def test_crops_of_few_planes_are_learned_in_float32(tmp_path: Path) -> None:
    """In bfloat16, gradients along z would differ from run to run (torch 2.13, AVX512-BF16)."""
    settings = "shape=16x40x40,diameter=10,anisotropy=2"
    few = FEW | {"synthetic_settings": settings, "crop": (8, 32, 32), "epochs": 1, "epoch_crops": 2}
    one, other = (
        es.train(out=tmp_path / dtype, **few | {"dtype": dtype})
        for dtype in ("bfloat16", "float32")
    )
    assert one.fingerprint == other.fingerprint


def test_beside_annotated_images_each_source_has_its_share(tmp_path: Path) -> None:
    masks = [synthetic_embryo((64, 64), n_objects=6, diameter=14, seed=n) for n in range(3)]
    images = [render(mask, seed=n) for n, mask in enumerate(masks)]
    few = FEW | {"synthetic_settings": "shape=64x64,diameter=10:16", "epochs": 1}
    log = Log()
    model = es.train(images, masks, out=tmp_path / "m", synthetic_share=0.25, watcher=log, **few)
    (start,) = log.starts
    assert start.sources["synthetic"].endswith("25% of the crops")
    assert start.sources["annotated"] == "2 images, 12 objects, 75% of the crops"
    assert len(start.validation) == 1
    assert not start.validation[0].startswith("synthetic")  # there is something real
    assert model.card["data"]["synthetic_share"] == 0.25
    with pytest.raises(ModelError, match="synthetic_share"):
        es.train(images, masks, out=tmp_path / "m", resume=True, synthetic_share=0.5, **few)


def test_a_training_goes_on_with_the_same_bits_whoever_draws(tmp_path: Path) -> None:
    whole = es.train(out=tmp_path / "whole", **FEW)

    class Cut(TrainWatcher):
        def batch(self, epoch: int, done: int, *_: Any) -> None:
            if (epoch, done) == (2, 3):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        es.train(out=tmp_path / "cut", watcher=Cut(), **FEW)
    resumed = es.train(out=tmp_path / "cut", resume=True, workers=2, **FEW)
    assert same(whole, resumed)


def test_several_annotated_sets_have_their_shares_and_validate_on_their_own(tmp_path: Path) -> None:
    masks = [synthetic_embryo((64, 64), n_objects=6, diameter=14, seed=n) for n in range(6)]
    images = [render(mask, seed=n) for n, mask in enumerate(masks)]
    further = TrainingSet(name="others", images=images[4:], masks=masks[4:], share=0.25)
    few = FEW | {"synthetic_settings": "shape=64x64,diameter=10:16", "epochs": 1}
    log = Log()
    model = es.train(
        images[:4],
        masks[:4],
        out=tmp_path / "m",
        also=[further],
        validation=0.25,
        synthetic_share=0.2,
        watcher=log,
        **few,
    )
    (start,) = log.starts
    assert start.sources["annotated"] == "3 images, 18 objects, 60% of the crops"
    assert start.sources["others"] == "1 images, 6 objects, 20% of the crops"
    assert model.card["data"]["others_share"] == pytest.approx(0.2)
    assert set(model.card["validation"]["sets"]) == {"held out", "others"}


def test_a_set_of_other_images_is_refused(tmp_path: Path) -> None:
    volume = np.zeros((8, 32, 32), np.float32)
    plane = synthetic_embryo((64, 64), n_objects=6, diameter=14, seed=0)
    deep = TrainingSet(name="deep", images=[volume], masks=[volume.astype(np.int32)])
    with pytest.raises(es.EmbedSegError, match="deep"):
        es.train([render(plane, seed=0)], [plane], out=tmp_path / "m", also=[deep])
    with pytest.raises(UsageError, match="deep is given without images"):
        es.train(out=tmp_path / "m", also=[deep], synthetic=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to train on"),
        ({"synthetic": 0}, "synthetic is 0"),
        ({"synthetic_share": 0.5}, "without synthetic"),
        ({"synthetic_settings": "diameter=12"}, "without synthetic"),
        ({"synthetic": 4, "synthetic_share": 0.5}, "without images"),
        ({"synthetic": 4, "masks": [np.zeros((9, 9), int)]}, "without images"),
        ({"synthetic": 4, "synthetic_settings": "diameter=30:12"}, "descends; pass 12:30"),
        ({"synthetic": 4, "synthetic_settings": "anisotropy=0.5"}, "between 1 and 100"),
        ({"synthetic": 4, "synthetic_settings": "diametr=12"}, "did you mean diameter"),
        ({"synthetic": 4, "synthetic_settings": "ndim=2", "ndim": 3}, "2D, but 3D is required"),
        ({"synthetic": 4, "synthetic_settings": "absent.yaml"}, "absent.yaml: No such file"),
        ({"synthetic": 4, "start": "nuclei-2d"}, "for 2D images"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, ModelError), match=message) as caught:
        es.train(out=tmp_path / "m", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command_trains_on_synthetic_volumes_and_refuses_a_share_without_them(
    tmp_path: Path,
) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(
            app, ["train", "--out", str(tmp_path / "m"), *map(str, arguments)]
        )

    refused = run("--synthetic-share", 0.5)
    assert refused.exit_code == 2
    assert "synthetic" in refused.stderr
    made = run("--synthetic", 3, "--synthetic-settings", SMALL, "--crop", "32,32", "--epochs", 1,
               "--epoch-crops", 4, "--device", "cpu")  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "3 volumes of 64 x 64 voxels" in made.stderr
    assert es.load_model(tmp_path / "m").ndim == 2
