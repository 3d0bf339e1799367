"""``review`` on the command line: the queue, decisions from a file, undo, the copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.data import copy_demo
from embedseg_large.volumes.volume import open_volume


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The embryo of the package, with its labels drawn by hand."""
    copy_demo(tmp_path / "embryo.ome.zarr")
    return tmp_path / "embryo.ome.zarr"


def run(*arguments: str | Path, given: str | None = None, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["review", *map(str, arguments)], input=given)
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return found


def test_the_queue_is_a_table_with_reasons(store: Path) -> None:
    text = run(store, "--show", "4").stdout
    assert "61, 61 to look at" in text
    header, *rows = text.strip().splitlines()[-5:]
    assert header.split() == ["label", "doubt", "voxels", "z,", "y,", "x", "reasons"]
    assert len(rows) == 4
    doubts = [float(row.split()[1]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    assert "border" in rows[0]
    assert not (store / "reviews").exists()


def test_decisions_are_made_undone_written_and_repeated(store: Path, tmp_path: Path) -> None:
    script, log = tmp_path / "day 1.txt", tmp_path / "log.txt"
    script.write_text("accept 1\ndelete 2  # debris\n\nmerge 3 4\n")
    found = answer(store / "labels" / "truth", "--apply", script, "--log", log)
    assert found["decisions"] == ["accept 1", "delete 2", "merge 3 4"]
    assert (found["n_instances"], found["n_left"]) == (61, 57)
    assert log.read_text() == "accept 1\ndelete 2\nmerge 3 4\n"
    found = answer(store, "--undo", "2", "--redo", "1")
    assert (found["decisions"], found["undone"]) == (["accept 1", "delete 2"], 1)
    again = answer(store, "--name", "second", "--apply", log)
    assert len(again["decisions"]) == 3
    assert "undone     1" in run(store, "--show", "0").stdout


def test_a_copy_is_written_on_demand(store: Path) -> None:
    run(store, "--apply", "-", "--publish", given="delete 2\n")
    truth = open_volume(store / "labels" / "truth").data.compute()
    copy = open_volume(store / "labels" / "truth_reviewed").data.compute()
    assert np.array_equal(copy, np.where(truth == 2, 0, truth))
    assert answer(store, "--publish")["published"] == str(store / "labels" / "truth_reviewed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STORE/labels/nuclei"], "existing labels: truth"),
        (["STORE", "--apply", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["STORE", "--log", "nowhere/log.txt"], "there is no folder nowhere"),
        (["STORE", "--timepoint", "3"], "no timepoint 3"),
        (["STORE", "--name", "a/b"], "cannot name reviewed labels"),
        (["STORE/labels"], "has no labels inside"),
        (["nowhere.ome.zarr"], "there is no such file or folder"),
        (["https://127.0.0.1:1/x.ome.zarr/labels/a"], "127.0.0.1"),
    ],
)
def test_bad_input_gets_one_line(store: Path, arguments: list[str], message: str) -> None:
    given = [a.replace("STORE", str(store)) for a in arguments]
    lines = [line for line in run(*given, code=2).stderr.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (store / "reviews").exists()
