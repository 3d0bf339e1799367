"""The examples run; small, so that they show nothing but that."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = {
    "train_2d": ["--epochs", "1", "--size", "96"],
    "train_3d": ["--epochs", "1", "--size", "40"],
    "sparse_annotation": ["--epochs", "1", "--size", "96"],
    "fine_tune": ["--epochs", "1", "--epoch-crops", "2"],
    "ablation": ["--epochs", "1", "--epoch-crops", "4", "--crop", "64,64"],
    "own_segmenter_watershed": [],
}
SAYS = {
    "train_2d": "AP at IoU 0.5",
    "train_3d": "AP at IoU 0.5",
    "sparse_annotation": "trained on",
    "fine_tune": "after",
    "ablation": "| centroid | yes |",
    "own_segmenter_watershed": "tiled against untiled: AP 1.000",
}
ELSEWHERE = {"own_segmenter_stardist", "own_segmenter_cellpose"}
"""Examples with programs that are not here; see `test_own_segmenter_examples.py`."""


def test_every_example_is_tried_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(SMALL) | ELSEWHERE
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"({name}.py)" in listed for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_example_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / ("models" if name == "ablation" else "model.safetensors")
    example(name).main([*SMALL[name], "--out", str(out)])
    assert out.exists()
    assert SAYS[name] in capsys.readouterr().out
