"""Fractal's tasks run as its server runs them, and ngio reads what they write."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.testing.plates import write_plate

PACKAGE = Path(__file__).parents[2] / "integrations" / "fractal" / "embedseg_large_fractal"
MANIFEST = json.loads((PACKAGE / "__FRACTAL_MANIFEST__.json").read_text())

pytest.importorskip("fractal_task_tools")


def cells(seed: int) -> NDArray[np.uint16]:
    """Bright discs on a dark background, far apart."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((120, 120))
    image = rng.normal(100, 5, (120, 120))
    for row in range(20, 120, 40):
        for column in range(20, 120, 40):
            a, b = rng.integers(-4, 5, 2)
            image[(y - row - a) ** 2 + (x - column - b) ** 2 < 8**2] += 900
    return image.clip(0).astype(np.uint16)


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fractal") / "plate.ome.zarr"
    write_plate(place, {("B", "03", "0"): cells(1), ("B", "03", "1"): cells(2)}, ngff_version="0.5")
    return place


def run(task: dict[str, Any], folder: Path, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a task for one image: files of arguments and output, and nothing else."""
    asked, out = folder / "args.json", folder / "out.json"
    asked.write_text(json.dumps(arguments))
    out.unlink(missing_ok=True)
    command = [sys.executable, str(PACKAGE / task["executable_parallel"])]
    command += ["--args-json", str(asked), "--out-json", str(out)]
    paths = [str(PACKAGE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def task(name: str) -> dict[str, Any]:
    (found,) = [t for t in MANIFEST["task_list"] if t["executable_parallel"] == name]
    return dict(found)


def test_the_manifest_is_that_of_the_tasks() -> None:
    check = str(Path(sys.executable).with_name("fractal-manifest"))
    command = [check, "check", "--package", PACKAGE.name]
    paths = [str(PACKAGE.parent), str(PACKAGE.parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, cwd=PACKAGE.parent, env=environment, check=True)


@pytest.mark.filterwarnings("ignore:'version' field not specified")  # 0.5 no longer has it there
def test_a_plate_is_segmented_and_measured_as_by_the_server(plate: Path, tmp_path: Path) -> None:
    ngio = pytest.importorskip("ngio")
    images = [str(plate / "B" / "03" / field) for field in "01"]
    for image in images:
        given = {"model": "classical", "object_diameter": "16", "label_name": "cells"}
        made = run(task("segment.py"), tmp_path, zarr_url=image, **given)
        assert made.returncode == 0, made.stderr
        told = json.loads((tmp_path / "out.json").read_text())
        assert told == {"image_list_updates": [{"zarr_url": image, "attributes": {}, "types": {}}]}
        measured = run(task("measure.py"), tmp_path, zarr_url=image, label_name="cells")
        assert measured.returncode == 0, measured.stderr
    for image in images:
        container = ngio.open_ome_zarr_container(image)
        assert container.list_labels() == ["cells"]
        labels = container.get_label("cells", path="0").get_as_numpy()
        assert np.unique(labels).tolist() == list(range(10))
        table = container.get_table("cells")
        assert type(table).__name__ == "FeatureTableV1"
        assert table.dataframe.index.tolist() == list(range(1, 10))
        assert (table.dataframe["intensity_mean_0"] > 800).all()
    wells = ngio.open_ome_zarr_plate(str(plate)).images_paths()
    assert sorted(wells) == ["B/03/0", "B/03/1"]


@pytest.mark.parametrize(("given", "expected"), [({}, None), ({"min_object_size": 0}, 0)])
def test_the_minimum_size_is_the_models_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, int], expected: int | None
) -> None:
    said = list[dict[str, Any]]()
    monkeypatch.setattr("embedseg_large.segment", lambda *_, **options: said.append(options))
    monkeypatch.syspath_prepend(str(PACKAGE.parent))
    importlib.import_module("embedseg_large_fractal.segment").segment(zarr_url="a.zarr", **given)
    assert said[0].get("min_object_size") == expected


def test_a_mistake_of_the_user_ends_the_task_with_one_line(plate: Path, tmp_path: Path) -> None:
    image = str(plate / "B" / "03" / "0")
    failed = run(task("segment.py"), tmp_path, zarr_url=image, model="nuclei-7d")
    assert failed.returncode != 0
    assert "nuclei-7d" in failed.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out.json").exists()


def test_versions_are_those_of_the_package() -> None:
    import tomllib

    root = PACKAGE.parents[2]
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == version
    assert f"embedseg-large[tables]=={version}" in project["dependencies"]
