"""TensorBoard gets the numbers and the pictures, and without it a user is told at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from embedseg_large.errors import UsageError
from embedseg_large.training import tensorboard
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.record import EpochRecord, TrainStart
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.train import train


class Unread:
    """An image that must not be read."""

    shape, ndim, dtype = (64, 64), 2, np.dtype(np.uint16)

    def __getitem__(self, index: object) -> object:
        raise AssertionError("a voxel was read")


def test_without_the_package_training_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r'pip install "embedseg-large\[tensorboard\]", or train '):
        train([Unread()], [Unread()], out=tmp_path / "m", tensorboard=tmp_path / "board")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own making
def test_numbers_and_pictures_are_written(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    mask = np.zeros((64, 64), np.uint8)
    mask[3:9, 3:9] = 1
    start = TrainStart(
        data=measure(find_pairs([mask.astype(np.float32)], [mask])),
        halo=(6, 6),
        validation=(),
        terms=("total",),
        settings=TrainSettings(),
        crops=1,
        epochs_done=0,
        processes=1,
        device="cpu",
    )
    imsave(tmp_path / "sheet.png", np.zeros((8, 8, 3)))
    record = EpochRecord(
        epoch=1,
        steps=5,
        learning_rate=1e-3,
        loss={"total": 2.0},
        iou=0.5,
        ap={"0.5": 0.25},
        best=True,
        pictures=(str(tmp_path / "sheet.png"),),
    )
    watcher = tensorboard.TensorBoardWatcher(tmp_path / "board")
    watcher.begin(start)
    watcher.epoch(record)
    watcher.end()
    events = reader.EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"loss/total", "training/IoU", "training/learning_rate", "validation/AP_0.5"} == set(
        events.Tags()["scalars"]
    )
    assert events.Scalars("validation/AP_0.5")[0].value == 0.25
    assert events.Tags()["images"] == ["pictures"]
