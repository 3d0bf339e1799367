"""The benchmarks run, so that they can be trusted to on the day they are wanted.

What they measure is looked at by people; here nothing is timed.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

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
