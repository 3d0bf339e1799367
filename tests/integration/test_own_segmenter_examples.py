"""The examples with StarDist and Cellpose, on stand-ins with the signatures of these programs."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.testing.synthetic import render, synthetic_embryo

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bright(image: NDArray[np.float32]) -> NDArray[Any]:
    assert image.dtype == np.float32
    labels: NDArray[Any] = ndimage.label(image > 0.4)[0]
    return labels


class StarDist:
    def predict_instances(
        self, img: Any, axes: str | None = None, *, show_tile_progress: bool = True
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        assert (axes, show_tile_progress) == ("ZYX", False)
        return bright(img), {"prob": []}


class Cellpose:
    def __init__(self, gpu: bool = False, pretrained_model: str = "") -> None:
        assert not gpu
        assert pretrained_model

    def eval(
        self,
        x: Any,
        *,
        z_axis: int | None = None,
        normalize: bool = True,
        diameter: float | None = None,
        do_3D: bool = False,  # noqa: N803
        min_size: int = 15,
        max_size_fraction: float = 0.4,
    ) -> tuple[NDArray[Any], list[Any], NDArray[Any]]:
        assert (do_3D, z_axis, normalize, diameter) == (True, 0, False, 12.0)
        assert (min_size, max_size_fraction) == (-1, 1.0)
        return bright(x).astype(np.uint16), [], np.zeros(256)


STANDINS: dict[str, tuple[str, SimpleNamespace, list[str]]] = {
    "own_segmenter_stardist": (
        "stardist.models",
        SimpleNamespace(StarDist3D=SimpleNamespace(from_pretrained=lambda _: StarDist())),
        ["--extent", "16"],
    ),
    "own_segmenter_cellpose": (
        "cellpose.models",
        SimpleNamespace(CellposeModel=Cellpose),
        ["--diameter", "12"],
    ),
}


@pytest.mark.parametrize("name", STANDINS)
def test_an_example_finds_what_its_program_finds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = synthetic_embryo((24, 48, 48), diameter=10, density=0.2, spacing=1.5)
    tifffile.imwrite(tmp_path / "cells.tif", render(cells), metadata={"axes": "ZYX"}, imagej=True)
    module, standin, options = STANDINS[name]
    package = ModuleType(module.partition(".")[0])
    package.__spec__ = importlib.util.spec_from_loader(package.__name__, None)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module, standin)
    found = example(name).main(
        [str(tmp_path / "cells.tif"), "--out", str(tmp_path / "out.zarr"), *options]
    )
    assert found == cells.max()
    assert "0 joined" in capsys.readouterr().out


def test_stardist_takes_what_the_example_gives() -> None:
    """Read from its source: importing it would load TensorFlow."""
    package = importlib.util.find_spec("stardist")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse(Path(package.origin).with_name("models").joinpath("base.py").read_text())
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert functions["predict_instances"].args.kwarg  # all of it goes on to this one:
    taken = {a.arg for a in functions["_predict_instances_generator"].args.args}
    assert {"img", "axes", "show_tile_progress"} <= taken
