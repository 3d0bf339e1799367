"""Two processes on the CPU train one network: the same weights in both, everything written once."""

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

from embedseg_large.testing.synthetic import render, synthetic_embryo

SCRIPT = """
import os, signal, sys
import torch
import embedseg_large as es
from embedseg_large.training import trainer
from embedseg_large.training.record import TrainWatcher

rank, folder, out = os.environ["RANK"], sys.argv[1], sys.argv[2]
run = trainer.Trainer.run

def run_and_keep(self):
    model = run(self)
    torch.save(self.learner.network.state_dict(), f"{out}.rank{rank}")
    torch.save(self.learner.random, f"{out}.random{rank}")
    return model

class Killer(TrainWatcher):
    def batch(self, epoch, done, of, loss):
        if epoch == 2 and "kill" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)

trainer.Trainer.run = run_and_keep
es.train(f"{folder}/images", f"{folder}/masks", out=out, device="cpu", crop=(48, 48), epochs=2,
         epoch_crops=8, batch=1, accumulate=3, validation=0.5, pictures_every=2, watcher=Killer(),
         batch_norm="frozen" if "frozen" in sys.argv else "batch", resume="resume" in sys.argv)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed in range(2):
        labels = synthetic_embryo((64, 64), n_objects=8, diameter=14, seed=seed)
        for kind, array in (("images", render(labels, seed=seed)), ("masks", labels)):
            (root / kind).mkdir(exist_ok=True)
            tifffile.imwrite(root / kind / f"{seed}.tif", array.astype(np.uint16))
    (root / "script.py").write_text(SCRIPT)
    return root


def two_processes(folder: Path, out: Path, *words: str) -> int:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(folder / "script.py"), str(folder), str(out), *words]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, env=environ, timeout=240).returncode


def tensors(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module", params=["batch", "frozen"])
def norm(request: pytest.FixtureRequest) -> str:
    """Statistics of batch normalisation: in the second of two epochs they may be frozen."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(folder: Path, norm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "m"
    assert two_processes(folder, out, norm) == 0
    return out


@pytest.mark.slow
def test_both_end_with_the_same_weights_and_one_of_them_writes(whole: Path, norm: str) -> None:
    first, second = (tensors(whole.with_name(f"m.rank{rank}")) for rank in (0, 1))
    # if each normalises by its batch, the statistics of rank 0 count
    learned = [name for name in first if "running" not in name or norm == "frozen"]
    assert len(learned) > 100
    assert all(torch.equal(first[name], second[name]) for name in learned)
    lines = (whole.parent / "m.training" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    files = {p.name for p in (whole.parent / "m.training").rglob("*") if p.is_file()}
    assert files == {"best.safetensors", "last.pt", "log.jsonl", "epoch_0002.png"}
    state = tensors(whole.parent / "m.training" / "last.pt")
    assert state["processes"] == 2
    assert all(torch.equal(state["network"][name], first[name]) for name in first)
    kept = state["random"].view(2, -1)
    for rank in (0, 1):  # each drops out other channels, and goes on with its own
        assert torch.equal(kept[rank], tensors(whole.with_name(f"m.random{rank}")))
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.slow
def test_they_go_on_with_the_same_bits_when_one_is_killed(
    folder: Path, whole: Path, norm: str, tmp_path: Path
) -> None:
    assert two_processes(folder, tmp_path / "m", norm, "kill") != 0
    assert not (tmp_path / "m").exists()
    assert two_processes(folder, tmp_path / "m", norm, "resume") == 0
    for rank in (0, 1):
        ended, resumed = (tensors(p.with_name(f"m.rank{rank}")) for p in (whole, tmp_path / "m"))
        learned = [name for name in ended if "running" not in name or norm == "frozen"]
        assert all(torch.equal(ended[name], resumed[name]) for name in learned)
    ended, resumed = (tensors(p / "m.training" / "last.pt") for p in (whole.parent, tmp_path))
    assert all(torch.equal(ended["network"][n], resumed["network"][n]) for n in ended["network"])
