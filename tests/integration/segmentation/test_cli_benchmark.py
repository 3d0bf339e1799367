"""``embedseg-large benchmark``, as a user meets it. Figures are looked at, never judged."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from embedseg_large.cli.app import app

STAGES = {"read", "statistics", "predict", "cluster", "check", "finish"}


def command(*arguments: str) -> str:
    run = CliRunner().invoke(app, ["benchmark", *arguments])
    assert run.exit_code == 0, run.output
    return run.stdout


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("--size", "32", "--tta", "none", "--json"))
    return found


def test_every_stage_has_a_speed(figures: dict[str, Any]) -> None:
    assert {stage["name"] for stage in figures["stages"]} >= STAGES
    assert all(s["voxels_per_second"] > 0 and s["tasks"] > 0 for s in figures["stages"])
    assert figures["voxels_per_second"] == pytest.approx(32**3 / figures["seconds"])


def test_shares_add_up_and_the_largest_is_the_limit(figures: dict[str, Any]) -> None:
    shares = {stage["name"]: stage["share"] for stage in figures["stages"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[figures["limit"]] == max(shares.values())


def test_the_network_is_compared_with_the_machine(figures: dict[str, Any]) -> None:
    network, fastest = figures["network"], figures["machine"][-1]
    assert network["input_voxels"] == 32**3
    assert network["passes"] == 1
    assert 0 < network["roofline"] < 2
    ratio = network["flops_per_second"] / fastest["matmul_flops_per_second"]
    assert network["roofline"] == pytest.approx(ratio)
    assert all(rates["copy_bytes_per_second"] > 0 for rates in figures["machine"])


def test_it_says_what_was_measured_with_what(figures: dict[str, Any]) -> None:
    assert (figures["shape"], figures["tta"], figures["workers"]) == ([32] * 3, "none", 0)
    assert figures["device"] in {"cpu", "cuda"}
    assert figures["dtype"] in {"float32", "bfloat16", "float16"}
    assert set(figures["versions"]) >= {"embedseg-large", "torch", "zarr"}


def test_a_table_is_for_people_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = command("--model", "nuclei-2d", "--size", "40", "--tta", "4")
    assert "40 x 40 voxels" in said
    assert "4 passes" in said
    assert "matrix product" in said
    # torch makes a folder for its compiler as soon as operations are counted
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("torchinductor")] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--size", "8"], "size is 8"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--tta", "5"], "5"),
        (["--dtype", "int8"], "int8"),
        pytest.param(
            ["--device", "cuda"],
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], reason: str) -> None:
    run = CliRunner().invoke(app, ["benchmark", *arguments])
    assert run.exit_code == 2
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error:")
    assert reason in last
