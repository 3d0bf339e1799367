"""The command in a report, run as it is printed, gives the same labels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.network.forest import FOREST
from embedseg_large.reporting.again import command
from embedseg_large.testing.synthetic import render, synthetic_embryo

LABELS = synthetic_embryo((2, 96, 80), diameter=16, seed=4).astype(np.int32)
IMAGE = np.stack([render(plane, seed=n) for n, plane in enumerate(LABELS)])
QUICK: dict[str, Any] = {"tta": "none", "device": "cpu"}


def assert_same_again(found: es.SegmentResult, model: str) -> None:
    """Run the command of a record in place of its labels, and compare."""
    wanted = found.labels.compute()
    assert wanted.any()
    words = shlex.split(command(found.summary, model).replace("\\\n", " "))
    result = CliRunner().invoke(app, [*words[1:], "--overwrite"])
    assert result.exit_code == 0, (words, result.output)
    again = es.open_volume(found.path, channel=None).storage
    np.testing.assert_array_equal(again[tuple(map(slice, again.shape))], wanted)


def test_of_a_model_of_another_method(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    model = tmp_path / "m.safetensors"
    es.train(list(IMAGE), list(LABELS), out=model, method=FOREST, validation=0)
    write_image(tmp_path / "a.zarr", IMAGE[0], "yx", (1, 1))
    found = es.segment(tmp_path / "a.zarr", es.load_model(model), **QUICK)
    assert found.summary["method"] == "three-class"
    assert_same_again(found, str(model))


def test_of_the_first_timepoint(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", IMAGE, "tyx", (1, 1))
    found = es.segment(tmp_path / "a.zarr", timepoint=0, **QUICK)
    assert_same_again(found, "nuclei-2d")


def test_of_a_stack_with_all_that_its_file_does_not_say(tmp_path: Path) -> None:
    stack = np.round(IMAGE * 1000).astype(np.float32)
    stack[:, :, 60:] = -32768.5
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    found = es.segment(
        tmp_path / "a.tif",
        output=tmp_path / "out.zarr",
        axes="tyx",
        voxel_size=(0.5, 0.25),
        nodata=-32768.5,
        timepoint=0,
        object_diameter="2um",
        min_object_size=40,
        intensity_range=(-1.5, 1234567.25 / 1000),
        **QUICK,
    )
    assert_same_again(found, "nuclei-2d")


def test_of_objects_whose_depth_is_stated(tmp_path: Path) -> None:
    volume = synthetic_embryo((18, 56, 60), density=0.4, diameter=11, seed=2)
    write_image(tmp_path / "a.zarr", render(volume, seed=1), "zyx", (1, 1, 1))
    found = es.segment(tmp_path / "a.zarr", object_diameter="9.37,10.1", **QUICK)
    assert "--object-diameter 9.37,10.1" in command(found.summary, "nuclei-3d")
    assert_same_again(found, "nuclei-3d")
