"""The benchmarks run, so that they can be trusted to on the day they are wanted.

What they measure is looked at by people; here nothing is timed.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

STEP = "--steps 2 --repeats 1 --dtypes float32"
SMALL = {
    "end_to_end.py": ("--size", "32", "--tta", "none", "--repeats", "1", "--workers", "0"),
    "gpu_inference.py": (
        *("--device", "cpu", "--tile", "8,16,16", "--edge", "16", "--tiles", "8"),
        *("--tta", "none", "--batches", "1", "--dtypes", "float32"),
    ),
    "inference.py": ("--shape", "8,32,32", "--tta", "none", "--repeats", "1"),
    "io.py": ("--edge", "64", "--repeats", "1"),
    "profiles.py": ("--shape", "8,32,32"),
    "synthesis.py": ("--settings", "shape=16x48x48,diameter=8:12", "--count", "2"),
    "scheduling.py": ("--tasks", "27", "--resume", "27"),
}
"""Those that can be made small enough, and how."""


@pytest.mark.slow
def test_all_that_is_measured_of_a_gpu_runs_without_one(tmp_path: Path) -> None:
    options = [*SMALL["gpu_inference.py"][2:]]
    ran = subprocess.run(
        [str(FOLDER / "gpu.sh"), str(tmp_path / "out"), *options],
        env=os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable, "STEP_OPTIONS": STEP},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "the fastest" in (tmp_path / "out" / "gpu_inference.md").read_text()
    assert json.loads((tmp_path / "out" / "step.json").read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_says_what_it_measures(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script}" in capsys.readouterr().out
    assert f"benchmarks/{script}" in (FOLDER / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_a_small_benchmark_prints_a_table(script: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(FOLDER / script), *SMALL[script]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("\n") > 2


def test_the_table_of_the_paper_is_scored_on_masks_as_they_are_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = np.zeros((2, 24, 24), np.uint8)
    masks[0, 2:12, 2:12] = masks[1, 6:16, 6:16] = 255  # the second covers a third of the first
    for number in range(8):
        for kind, array in (("images", masks.max(axis=0)), ("masks", masks)):
            path = tmp_path / "data/bbbc010_worms/train" / kind / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, photometric="minisblack")
    names = runpy.run_path(str(FOLDER / "table1.py"))
    begun: list[str] = []

    def trained(entry: Any, data: Any, division: Any, folder: Path, minutes: float) -> None:
        begun.append(entry.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        learnt = names["learnt_from"](division, entry)
        assert [pair.stacked for pair in learnt.train] == [entry.method == "embedseg"] * 6
        assert (len(data.crop), minutes) == (2, 0.5)
        found = {pair.name: pair.flat_labels() for pair in division.held_out}
        np.savez(folder / "labels.npz", **found)
        facts = {"steps": 3, "training_seconds": 60, "prediction_seconds": 1}
        (folder / "done.json").write_text(json.dumps(facts))

    main = names["main"]
    monkeypatch.setitem(main.__globals__, "trained", trained)
    options = ["--data", tmp_path / "data", "--out", tmp_path / "out", "--minutes", "0.5"]
    arguments = ["table1.py", *map(str, options), "--sets", "bbbc010_worms"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        main()
    assert len(rows_of(tmp_path / "out/table1.csv")) == 2
    main()
    assert len(begun) == 7  # six, of which one began twice
    rows = rows_of(tmp_path / "out/table1.csv")
    assert [row["trained on"] for row in rows].count("flattened masks") == 4
    assert {(row["AP 0.5"], row["AP 0.9"], row["found"]) for row in rows} == {
        ("1.000", "0.333", "2")
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
