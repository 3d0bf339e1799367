"""How commands speak to people: mistakes, help, models, and streams that are not terminals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.cli.commands.demo import store_of
from embedseg_large.conversion.plan import write_image
from embedseg_large.data import copy_demo
from embedseg_large.documents import difference
from embedseg_large.errors import UsageError
from embedseg_large.training.state import STATE

NAMES = sorted(str(command.name) for command in app.registered_commands)

LONG = "x" * 999

FORCED = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"}
"""What notebooks tell the commands that they run."""


@pytest.mark.parametrize(
    ("arguments", "said", "command"),
    [
        ("segment", "missing argument", "segment"),
        ("segment a --objekt-diameter 3", "--object-diameter", "segment"),
        ("segment a --workers 0", "'--workers'", "segment"),
        ("segment a --region deep", "not like 0:64,100:300", "segment"),
        ("evaluate a b c", "extra argument", "evaluate"),
        ("segmnt a", "did you mean 'segment'", ""),
    ],
)
def test_a_wrong_option_is_told_in_one_line_with_where_to_read_more(
    arguments: str, said: str, command: str
) -> None:
    result = CliRunner().invoke(app, arguments.split())
    lines = [line for line in result.stderr.splitlines() if line]
    assert (result.exit_code, len(lines)) == (2, 1)
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert lines[0].endswith(f"{command} --help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", LONG),
        ("evaluate", LONG, "IMAGE"),
        ("convert", "IMAGE", LONG),
        ("measure", "IMAGE", "--out", f"{LONG}.csv"),
        ("report", "IMAGE", "--out", f"{LONG}.html"),
        ("export-labels", "IMAGE", f"{LONG}.tif"),
        *(("segment", "IMAGE", option, LONG) for option in ("--output", "--mask", "--model")),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_no_disk_takes_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_image(tmp_path / "a.zarr", np.eye(16, dtype="u2")[None].repeat(8, 0), "zyx", (1, 1, 1))
    words = [str(tmp_path / "a.zarr") if w == "IMAGE" else w for w in arguments]
    result = CliRunner().invoke(app, words)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code in (1, 2), len(lines)) == (True, 1), result.stderr


def test_no_arguments_at_all_ask_for_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "segment" in result.output
    assert "error" not in result.output


@pytest.mark.parametrize("command", NAMES)
def test_help_fits_a_narrow_terminal_and_names_no_types_of_flags(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "<bool>" not in result.output
    assert "int range" not in result.output


def test_nothing_is_coloured_where_there_is_no_terminal_whatever_the_environment_says() -> None:
    code = (
        "from embedseg_large.cli.console import print_error, print_facts, stderr_console\n"
        "print_error('wrong'); print_facts('title', {'name': 1})\n"
        "assert not stderr_console().is_terminal"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=FORCED, capture_output=True, text=True, check=True
    )
    assert run.stderr == "error: wrong\n"
    assert run.stdout == "title\n name  1\n\n"


def test_the_scores_of_a_model_are_a_table() -> None:
    lines = CliRunner().invoke(app, ["info", "nuclei-3d"]).output.splitlines()
    (head,) = (line for line in lines if "AP of images" in line)
    rows = lines[lines.index(head) + 1 :]
    assert head.split()[-2:] == ["≥", "0.9"]
    assert rows[0].split()[:2] == ["validation", "none"]
    assert max(map(len, rows)) <= 150


def test_a_mistaken_name_of_a_model_is_told_the_right_ones() -> None:
    result = CliRunner().invoke(app, ["info", "nuclei3d"])
    assert result.exit_code == 2
    assert "nuclei-3d" in result.stderr


def test_an_absent_fact_of_an_older_version_is_the_same_as_an_empty_one() -> None:
    now = {"volume": {"files": "", "level": 0, "timepoint": None}}
    assert difference({"volume": {"level": 0}}, now) == ""
    assert difference({"volume": {"level": None}}, now) == "volume level null (now 0)"


@pytest.mark.parametrize(("option", "value"), [("--device", "gpu"), ("--dtype", "int8")])
def test_a_plan_is_not_made_for_a_device_or_number_format_that_there_is_not(
    option: str, value: str, tmp_path: Path
) -> None:
    write_image(tmp_path / "image.zarr", np.arange(4096, dtype=np.uint16).reshape(16, 16, 16))
    arguments = ["segment", str(tmp_path / "image.zarr"), option, value, "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"{option[2:]} is '{value}'; use " in result.stderr


def test_a_demo_that_was_interrupted_goes_on_with_what_it_has_copied(tmp_path: Path) -> None:
    copied = copy_demo(tmp_path / "blastocyst.ome.zarr")
    assert store_of(copied.image, overwrite=False) == copied
    (copied.image / "labels" / "nuclei").mkdir()
    with pytest.raises(UsageError, match="overwrite"):
        store_of(copied.image, overwrite=False)


@pytest.mark.parametrize(
    ("kept", "advice"),
    [(False, "rerun the same command to start over"), (True, "use --resume to continue")],
)
def test_a_training_that_was_interrupted_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool, advice: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        if kept:
            (tmp_path / "m.safetensors.training").mkdir()
            (tmp_path / "m.safetensors.training" / STATE).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("embedseg_large.training.train.train", interrupted)
    folders = ("--images", str(tmp_path), "--masks", str(tmp_path))
    result = CliRunner().invoke(app, ["train", *folders, "--out", str(tmp_path / "m.safetensors")])
    assert result.exit_code == 130
    assert advice in result.stderr


def test_a_mistyped_option_of_segment_is_named_with_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"'sed'; did you mean 'seed'\?"):
        es.segment(np.zeros((8, 8, 8)), sed=0.5)


@pytest.mark.parametrize("region", ["0:4,0:4,0:4", 5])
def test_a_region_that_is_no_list_is_refused_in_words(tmp_path: Path, region: Any) -> None:
    with pytest.raises(UsageError, match="pass slices"):
        es.segment(
            np.zeros((8, 8, 8)),
            axes="zyx",
            output=tmp_path / "out.zarr",
            region=region,
        )


def test_a_volume_is_printed_in_one_line(tmp_path: Path) -> None:
    write_image(
        tmp_path / "a.ome.zarr", np.zeros((4, 5, 6), np.uint8), "zyx", voxel_size=(2, 0.5, 0.5)
    )
    said = str(es.open_volume(tmp_path / "a.ome.zarr"))
    assert said.endswith("a.ome.zarr: zyx 4 x 5 x 6, uint8, 2 x 0.5 x 0.5 µm")


def test_options_that_a_format_has_no_place_for_are_refused(tmp_path: Path) -> None:
    command = ["export", "nuclei-2d", str(tmp_path / "a.onnx"), "--sample", "nope.tif"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "--sample: not supported by onnx" in result.stderr
