"""Training end to end: it learns, it is repeatable, and it survives being killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.trainer import EpochRecord

SETTINGS: dict[str, Any] = {"epochs": 3, "crop": (64, 64), "accumulate": 2, "validation": 0.34}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three small 2D images and their masks."""
    root = tmp_path_factory.mktemp("data")
    for seed in range(3):
        labels = synthetic_embryo((96, 96), n_objects=8, diameter=20, spacing=1.1, seed=seed)
        for kind, array in (("images", render(labels, seed=seed)), ("masks", labels)):
            (root / kind).mkdir(exist_ok=True)
            tifffile.imwrite(root / kind / f"{seed}.tif", array.astype(np.uint16))
    return root / "images", root / "masks"


class Log:
    """Keeps what a training tells."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        assert epoch >= 1
        assert 1 <= done <= of
        assert np.isfinite(loss)

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def weights(model: es.Model) -> dict[str, torch.Tensor]:
    return dict(model.weights)


def same(a: es.Model, b: es.Model) -> bool:
    one, two = weights(a), weights(b)
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_the_loss_falls_and_the_model_is_written(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    log = Log()
    model = es.train(*folders, out=tmp_path / "m", watcher=log, **SETTINGS)
    assert [r.epoch for r in log.records] == [1, 2, 3]
    assert log.records[-1].loss["total"] < log.records[0].loss["total"]
    assert log.records[1].learning_rate == pytest.approx(5e-4 * (2 / 3) ** 0.9)
    assert all(r.ap is not None for r in log.records)
    loaded = es.load_model(tmp_path / "m")
    assert same(loaded, model)
    assert loaded.ndim == 2
    assert loaded.card["data"]["n_objects"] == 16
    lines = (tmp_path / "m.training" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_training_that_is_killed_goes_on_with_the_same_bits(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # the bits must not depend on what others left behind
    whole = es.train(*folders, out=tmp_path / "whole", **SETTINGS)
    torch.set_num_threads(before)
    code = f"""
import os, signal
import embedseg_large as es

class Killer:
    def batch(self, epoch, done, of, loss):
        if (epoch, done) == (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)
    def epoch(self, record): pass

es.train({str(folders[0])!r}, {str(folders[1])!r}, out={str(tmp_path / "cut")!r},
         watcher=Killer(), **{SETTINGS!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "cut").exists()
    resumed = es.train(*folders, out=tmp_path / "cut", resume=True, **SETTINGS)
    assert same(resumed, whole)
    last = [torch.load(tmp_path / f"{n}.training/last.pt", weights_only=True)["network"]
            for n in ("whole", "cut")]  # fmt: skip
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_processes_that_cut_crops_change_nothing(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = SETTINGS | {"epochs": 1}
    alone = es.train(*folders, out=tmp_path / "alone", **settings)
    helped = es.train(*folders, out=tmp_path / "helped", workers=2, **settings)
    assert same(alone, helped)


def test_fine_tuning_starts_where_the_model_was(folders: tuple[Path, Path], tmp_path: Path) -> None:
    start = es.train(*folders, out=tmp_path / "start", **SETTINGS)
    log = Log()
    tuned = es.train(
        *folders,
        out=tmp_path / "tuned",
        start=tmp_path / "start",
        freeze_encoder=True,
        learning_rate=1e-5,
        watcher=log,
        **SETTINGS,
    )
    encoders = [
        {n: t for n, t in weights(m).items() if n.startswith("encoder") and "running" not in n}
        for m in (start, tuned)
    ]
    changed = [n for n, t in encoders[0].items() if not torch.equal(t, encoders[1][n])]
    assert all(name.endswith("num_batches_tracked") for name in changed)
    assert not same(start, tuned)


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *(str(a) for a in arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def test_trainings_are_not_overwritten_and_only_resumed_with_the_same_settings(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "m"
    es.train(*folders, out=out, **SETTINGS | {"epochs": 1})
    command = ("--images", folders[0], "--masks", folders[1], "--out", out, "--crop", "64,64")
    assert "exists" in refused(*command)
    assert "other data or settings" in refused(*command, "--resume", "--epochs", 7)
    other = ("--images", folders[0], "--masks", folders[1], "--out", tmp_path / "n")
    assert "nothing" in refused(*other, "--resume") or "no training" in refused(*other, "--resume")


def test_a_mask_that_cannot_be_trained_on_is_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed in range(3):
        tifffile.imwrite(masks / f"{seed}.tif", np.zeros((96, 96), np.float32))
    assert "0.tif" in refused("--images", folders[0], "--masks", masks, "--out", tmp_path / "m")
