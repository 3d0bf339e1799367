"""Training end to end: it learns, it is repeatable, and it survives being killed."""

from __future__ import annotations

import json
import os
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
from embedseg_large.errors import EmbedSegError, ModelError, OutputError, RunError, UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.testing.tiers import slowly
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch": 2,
    "epoch_crops": 8,
    "crop": (64, 64),
    "accumulate": 2,
    "validation": 0.34,
}
FEW: dict[str, Any] = {"epoch_crops": 2, "validate_every": 3}


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


class Log(TrainWatcher):
    """Keeps what a training tells."""

    def __init__(self) -> None:
        self.starts: list[TrainStart] = []
        self.batches = 0
        self.records: list[EpochRecord] = []

    def begin(self, start: TrainStart) -> None:
        assert not self.batches
        self.starts.append(start)

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        assert epoch >= 1
        assert 1 <= done <= of
        assert np.isfinite(loss)
        self.batches += 1

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
    (start,) = log.starts
    assert start.data.n_objects == 16
    assert loaded.card["validation"]["images"] == list(start.validation)
    lines = (tmp_path / "m.training" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_every_few_epochs_and_at_the_last_a_sheet_of_pictures_is_drawn(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    log = Log()
    # neither of the first two epochs is validated, yet the second one is drawn
    es.train(*folders, out=tmp_path / "m", watcher=log, pictures_every=2, **SETTINGS | FEW)
    drawn = sorted((tmp_path / "m.training" / "pictures").iterdir())
    assert [path.name for path in drawn] == ["epoch_0002.png", "epoch_0003.png"]
    assert [r.pictures for r in log.records] == [(), *((str(path),) for path in drawn)]
    assert [r.ap is not None for r in log.records] == [False, False, True]


def test_without_validation_the_last_model_is_kept_and_training_images_are_drawn(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    log = Log()
    settings = SETTINGS | FEW | {"validation": 0, "epochs": 1}
    es.train(*folders, out=tmp_path / "m", watcher=log, **settings)
    assert log.starts[0].validation == ()
    (record,) = log.records
    assert record.best
    assert record.ap is None
    (sheet,) = record.pictures
    assert Path(sheet).exists()


def test_an_epoch_may_be_shorter_than_the_data(folders: tuple[Path, Path], tmp_path: Path) -> None:
    log = Log()
    es.train(*folders, out=tmp_path / "m", watcher=log, **SETTINGS | FEW | {"batch": 1})
    assert log.starts[0].crops == FEW["epoch_crops"] < log.starts[0].data.n_objects
    assert log.batches == SETTINGS["epochs"] * FEW["epoch_crops"]


def test_training_stops_when_validation_has_not_improved_for_long(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    log = Log()
    few = FEW | {"validate_every": 1, "pictures_every": 0}
    settings = SETTINGS | few | {"epochs": 9, "patience": 2, "learning_rate": 1e-9}
    es.train(*folders, out=tmp_path / "m", watcher=log, **settings)
    assert [r.best for r in log.records] == [True, False, False]
    assert not (tmp_path / "m.training" / "pictures").exists()
    again = Log()
    es.train(*folders, out=tmp_path / "m", watcher=again, resume=True, **settings)
    assert [start.epochs_done for start in again.starts] == [3]
    assert not again.records


IN_STEPS: dict[str, Any] = {
    "recipe": "robust",
    "batch": 2,
    "steps": 8,
    "epoch_steps": 3,
    "late_share": 0.67,
    "late_crop": (72, 72),
    "hard_share": 0.5,
    "average_steps": 3,
    "crop": (64, 64),
    "validation": 0.34,
}
"""Three epochs, of which the last two are late and the last one is short."""


AT_THE_CHANGEOVER = IN_STEPS | {"frozen_share": 0.34, "statistics_crops": 4}
"""The statistics of batch normalisation are frozen in the epoch in which the training is killed."""


@pytest.mark.parametrize(
    "settings", [*slowly(SETTINGS | {"average_steps": 3}, AT_THE_CHANGEOVER), IN_STEPS]
)
def test_a_training_that_is_killed_goes_on_with_the_same_bits(
    folders: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # the bits must not depend on what others left behind
    log = Log()
    whole = es.train(*folders, out=tmp_path / "whole", watcher=log, **settings)
    torch.set_num_threads(before)
    if "steps" in settings:
        assert [record.steps for record in log.records] == [3, 6, 8]
        assert log.records[-1].learning_rate < 1e-4
    killed_at = (3, 2) if "steps" in settings else (2, 3)
    code = f"""
import os, signal
import embedseg_large as es

from embedseg_large.training.record import TrainWatcher

class Killer(TrainWatcher):
    def batch(self, epoch, done, of, loss):
        if (epoch, done) == {killed_at}:
            os.kill(os.getpid(), signal.SIGKILL)

es.train({str(folders[0])!r}, {str(folders[1])!r}, out={str(tmp_path / "cut")!r},
         watcher=Killer(), **{settings!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "cut").exists()
    resumed = es.train(*folders, out=tmp_path / "cut", resume=True, **settings)
    assert same(resumed, whole)
    last, other = (torch.load(tmp_path / f"{n}.training/last.pt", weights_only=True)
                   for n in ("whole", "cut"))  # fmt: skip
    for part in ("network", "average"):
        assert all(torch.equal(last[part][name], other[part][name]) for name in last[part])
    network, mean = last["network"], last["average"]
    differ = {name for name in network if not torch.equal(network[name], mean[f"module.{name}"])}
    assert any("weight" in name for name in differ)
    if "steps" in settings:  # frozen: the mean has the statistics that the network learned with
        assert not any("running" in name for name in differ)


def test_statistics_stay_frozen_once_they_are_measured(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    class Keeper(Log):
        def epoch(self, record: EpochRecord) -> None:
            super().epoch(record)
            state = torch.load(tmp_path / "m.training" / "last.pt", weights_only=True)["network"]
            kept.append({name: state[name] for name in state if "running" in name})

    settings = SETTINGS | FEW | {"validation": 0, "pictures_every": 0, "epochs": 4}
    settings |= {"batch_norm": "frozen", "statistics_crops": 2}
    log = Keeper()
    model = es.train(*folders, out=tmp_path / "m", watcher=log, **settings)
    assert log.starts[0].facts()["batch norm"] == "frozen from epoch 3 on, as measured on 2 crops"
    assert model.card["training"]["frozen_share"] == 0.5
    first, second, third, fourth = kept
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(second[name], third[name]) for name in first)
    assert all(torch.equal(third[name], fourth[name]) for name in first)


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
    first, second = weights(start), weights(tuned)
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    assert changed
    assert not [name for name in changed if name.startswith("encoder")]


@pytest.mark.parametrize("recipe", ["paper", "robust"])
def test_a_model_to_start_from_keeps_its_statistics_unless_others_are_asked_for(
    folders: tuple[Path, Path], tmp_path: Path, recipe: str
) -> None:
    settings: dict[str, Any] = {"steps": 4, "epoch_steps": 2, "recipe": recipe, "accumulate": 1}
    settings |= {"start": "nuclei-2d", "crop": (64, 64), "pictures_every": 0, "validation": 0.34}
    start = weights(es.load_model("nuclei-2d"))
    log = Log()
    tuned = es.train(*folders, out=tmp_path / "tuned", watcher=log, **settings)
    assert "of the model to start from" in log.starts[0].facts()["batch norm"]
    assert tuned.card["training"]["batch_norm"] == "frozen"
    assert tuned.card["training"]["frozen_share"] == 1
    known = es.load_model("nuclei-2d")
    assert tuned.margin == known.margin
    assert [own.mode for own in tuned.settings.thresholds] == ["4", "8"]
    assert tuned.reach == known.reach
    assert log.starts[0].facts()["largest object"].endswith("halo of tiles is 126 x 105")
    same = {name for name, tensor in weights(tuned).items() if torch.equal(tensor, start[name])}
    assert {name for name in start if "running" in name} <= same
    assert not {name for name in start if name.endswith("bn.bias")} & same
    moved = es.train(*folders, out=tmp_path / "moved", batch_norm="batch", **settings)
    assert not any(torch.equal(weights(moved)[n], start[n]) for n in start if "running" in n)


def test_a_few_large_examples_do_not_make_a_tuned_model_drop_smaller_objects(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    masks = tmp_path / "large"
    masks.mkdir()
    for path in sorted(folders[1].iterdir()):
        labels = tifffile.imread(path)
        sizes = np.bincount(labels[labels > 0])
        tifffile.imwrite(masks / path.name, np.where(labels == sizes.argmax(), labels, 0))
    start = es.train(*folders, out=tmp_path / "start", **SETTINGS | {"epochs": 1})
    alone = es.train(folders[0], masks, out=tmp_path / "alone", **SETTINGS | {"epochs": 1})
    tuned = es.train(
        folders[0],
        masks,
        out=tmp_path / "tuned",
        start=tmp_path / "start",
        **SETTINGS | {"epochs": 1},
    )
    assert alone.min_object_size > start.min_object_size
    assert tuned.min_object_size == start.min_object_size


@pytest.mark.parametrize("predicts", [True, False])
def test_a_training_that_diverges_ends_with_a_line_and_keeps_no_state_of_it(
    folders: tuple[Path, Path], tmp_path: Path, predicts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"crop": (64, 64), "validation": 0.34, "pictures_every": 0}
    settings |= {"batch": 1, "accumulate": 1}
    if predicts:
        settings |= {"steps": 4, "learning_rate": 1e30}
    else:
        monkeypatch.setattr("embedseg_large.training.trainer.validate", overflow)
        settings |= {"steps": 1, "learning_rate": 10}
    with pytest.raises(RunError, match=r"diverged in epoch 1, .* 1(0|e\+30): .* --learning-rate"):
        es.train(*folders, out=tmp_path / "m", **settings)
    assert not list(tmp_path.glob("m.training/*"))


def overflow(*_: object, **__: object) -> None:
    raise ModelError("the network returns infinities or NaN in float32")


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *(str(a) for a in arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def test_trainings_are_not_overwritten_and_only_resumed_with_the_same_settings(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "m"
    es.train(*folders, out=out, **SETTINGS | {"epochs": 1})
    command = ("--images", folders[0], "--masks", folders[1], "--out", out, "--crop", "64,64",
               "--batch", 2, "--epoch-crops", 8, "--device", "cpu")  # fmt: skip
    assert "delete" in refused(*command)
    assert "epochs 1 (now 7)" in refused(*command, "--resume", "--epochs", 7)
    settings = ("--accumulate", 2, "--validation", 0.34, "--epochs", 1)
    centers = refused(*command, "--resume", *settings, "--center", "centroid")
    assert 'center "medoid" (now "centroid")' in centers
    panel = ("--panel", f"a={folders[0]},{folders[1]},most=1,object_diameter=9")
    assert 'validation ["2 96x96"] (now ["held out 2 96x96", "a 0 96x96 diame' in refused(
        *command, "--resume", *settings, *panel
    )
    state = tmp_path / "m.training" / "last.pt"
    kept = torch.load(state, weights_only=True)
    torch.save({name: kept[name] for name in kept if name != "version"}, state)
    assert "in format 1" in refused(*command, "--resume")
    torch.save(kept | {"processes": 2}, state)
    assert "resume with 2" in refused(*command, "--resume", *settings)
    facts = json.loads(kept["facts"])
    older = {name: facts[name] for name in facts if name not in ("center", "validation")}
    torch.save(kept | {"facts": json.dumps(older)}, state)
    es.train(*folders, out=out, resume=True, **SETTINGS | {"epochs": 1})
    state.unlink()
    assert "m exists" in refused(*command)  # a model is not replaced
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


def test_the_command_says_what_the_data_are_like_before_it_trains(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ["--images", folders[0], "--masks", folders[1], "--out", tmp_path / "m",
                 "--crop", "64,64", "--epochs", 1, "--epoch-crops", 2, "--json",
                 "--voxel-size", "0.5,0.5", "--center", "centroid", "--device", "cpu"]  # fmt: skip
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["settings"]["voxel_size"] == [0.5, 0.5]
    assert made["card"]["training"]["epoch_crops"] == 2
    assert not result.stderr
    arguments[5] = tmp_path / "n"
    arguments.remove("--json")
    stderr = CliRunner().invoke(app, ["train", *map(str, arguments)]).stderr
    facts, _, epochs = stderr.partition("\nepoch ")
    for fact in ("16, about", "64 x 64 voxels", "0.5 x 0.5 µm", "1 of 2 crops", "halo"):
        assert fact in facts
    assert epochs.splitlines()[1].split()[0] == "1"


def test_a_panel_is_scored_set_by_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    log = Log()
    images, masks = folders
    sets = [f"as it is={images},{masks},most=1", f"wide={images},{masks},object_diameter=40,most=1"]
    settings = SETTINGS | FEW | {"epochs": 1, "validation": None, "validate_every": 1}
    model = es.train(images, masks, out=tmp_path / "m", panel=sets, watcher=log, **settings)
    (record,) = log.records
    assert list(record.sets) == ["as it is", "wide"]
    assert record.ap is not None
    for threshold, mean in record.ap.items():
        assert mean == pytest.approx(np.mean([ap[threshold] for ap in record.sets.values()]))
    assert [Path(p).name for p in record.pictures] == [
        "epoch_0001_as_it_is.png",
        "epoch_0001_wide.png",
    ]
    assert model.card["validation"]["sets"] == record.sets


class Unread:
    """An image that must not be read."""

    dtype = np.dtype(np.uint16)

    def __init__(self, *shape: int) -> None:
        self.shape, self.ndim = shape, len(shape)

    def __getitem__(self, index: object) -> Any:
        raise AssertionError("a voxel was read")


VALIDATED = {name: [Unread(64, 64)] for name in ("validation_images", "validation_masks")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (30, 32)}, "pass 2 multiples of 8"),
        ({"validation_masks": [Unread(64, 64)]}, "validation_masks is given without"),
        ({**VALIDATED, "validation": 0.3}, "validation is 0.3 and validation_images is given"),
        ({"freeze_encoder": True}, "freeze_encoder is given without a model to start from"),
        ({"epoch_steps": 9}, "epoch_steps is given without steps"),
        ({"epoch_steps": 9, "recipe": "robust", "epochs": 2}, "epoch_steps is given without"),
        ({"tune_thresholds": True, "validation": 0}, "tune_thresholds is given without images"),
        ({"patience": 3, "validation": 0}, "patience is given without images to validate on"),
        ({"out": "absent/m"}, "absent is not a folder"),
        ({"out": "taken"}, "is a folder"),
        ({"resume": True}, "no training to resume"),
        ({"center": "middle"}, "medoid, approximate-medoid, centroid"),
        ({"patience": 0}, "patience is 0"),
        ({"pictures_every": -1}, "pictures_every is -1"),
        ({"dtype": "float8"}, "float8"),
        ({"panel": ["a=b"]}, "masks or labels"),
        ({"recipe": "strong"}, "use paper or robust"),
        ({"late_share": 0.5, "late_crop": (8, 8, 8)}, "pass 2 multiples of 8"),
        ({"late_share": 0.5, "late_synthetic_share": 0.5}, "both images and synthetic"),
        ({"recipe": "robust", "frozen_share": 1}, "without a model to start from"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"start": "nuclei-3d"}, "for 3D images"),
        ({"validation_images": [Unread(8, 64, 64)], "validation_masks": [Unread(8, 64, 64)]}, "3D"),
        ({"device": "tpu"}, "cpu, cuda or mps"),
    ],
)
def test_what_cannot_work_is_refused_before_a_voxel_is_read(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "taken").mkdir()
    images = [Unread(64, 64)] * 3
    out = tmp_path / options.get("out", "m")
    with pytest.raises(EmbedSegError, match=message) as caught:
        es.train(images, images, **options | {"out": out})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        es.train([Unread(64, 64)], [Unread(64, 64)], out=tmp_path / "m", device="cuda")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        es.train([Unread(64, 64)], [Unread(64, 64)], out=tmp_path / "m")
