"""The embryo of the package, from image to scored labels, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.data import DemoStore, copy_demo

FAST = ("--tta", "none", "--tile", "64,72,72")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoStore:
    return copy_demo(tmp_path_factory.mktemp("demo") / "blastocyst.ome.zarr")


@pytest.fixture(scope="module")
def summary(demo: DemoStore) -> dict[str, Any]:
    """What `segment --json` prints."""
    return run_json("segment", demo.image, *FAST)


def run_json(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_the_summary_has_all_that_is_promised(summary: dict[str, Any]) -> None:
    assert set(summary) >= {"n_instances", "labels", "seams", "stages", "settings", "token"}
    promised = {"faces", "voxels", "certified", "agreed", "repaired", "joined", "joined_objects"}
    assert set(summary["seams"]) >= promised
    for stage in ("statistics", "predict", "cluster", "check", "finish"):
        assert set(summary["stages"][stage]) == {"tiles", "seconds", "voxels_per_second"}
    assert summary["stages"]["predict"]["tiles"] == 8
    assert summary["seams"]["joined"] == 0


def test_the_bundled_model_finds_the_nuclei_that_its_page_tells_of(
    demo: DemoStore, summary: dict[str, Any]
) -> None:
    """In one pass 61 instances for 61 nuclei; AP .768 at 0.5, .525 at 0.7."""
    assert summary["n_instances"] == pytest.approx(61, abs=2)
    printed = run_json("evaluate", summary["labels"], demo.truth, "--thresholds", ".5,.7")
    half, more = printed["scores"]
    assert half["ap"] == pytest.approx(0.768, abs=0.03)
    assert half["ap"] > more["ap"] > 0


def test_a_strict_run_that_falls_short_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    image = copy_demo(tmp_path / "blastocyst.ome.zarr").image
    near = ("--cluster-tile", "32,72,72", "--halo", "8,8,8", "--max-halo", "8,8,8")
    arguments = ("segment", image, *FAST, *near, "--strict")
    result = CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])
    assert result.exit_code == 3, result.output
    summary = json.loads(result.stdout)
    strict = summary["seams"]["strict"]
    assert strict["reached"] < strict["aim"]
    assert Path(summary["labels"]).is_dir()  # the labels are there all the same


def test_the_labels_belong_to_the_image(demo: DemoStore, summary: dict[str, Any]) -> None:
    image = es.open_volume(demo.image)
    labels = es.open_volume(summary["labels"])
    assert labels.is_labels
    assert (labels.shape, labels.voxel_size) == (image.shape, image.voxel_size)
    assert labels.dtype == np.uint32
    group = zarr.open_group(summary["labels"], mode="r")
    recorded: Any = group.attrs["embedseg_large"]
    assert recorded["token"] == summary["token"]
    assert recorded["seams"] == summary["seams"]
    assert recorded["model"] == es.load_model("nuclei-3d").fingerprint
    assert recorded["intensity"][0]["voxels"] == np.prod(image.shape)


def test_the_store_is_valid_for_others(demo: DemoStore, summary: dict[str, Any]) -> None:
    from ome_zarr_models.v05 import Image, ImageLabel
    from yaozarrs import validate_zarr_store

    validate_zarr_store(str(demo.image))
    Image.from_zarr(zarr.open_group(demo.image, mode="r"))
    ImageLabel.from_zarr(zarr.open_group(summary["labels"], mode="r"))


@pytest.mark.slow
def test_workers_and_other_clustering_tiles_give_the_same_bytes(
    demo: DemoStore, summary: dict[str, Any], client: Any
) -> None:
    expected = es.open_volume(summary["labels"]).data.compute()
    model = es.load_model("nuclei-3d")
    settings: dict[str, Any] = {"tta": "none", "tile": (64, 72, 72)}
    tiles = es.segment(demo.image, model, "tiles", cluster_tile=(50, 61, 48), **settings)
    np.testing.assert_array_equal(tiles.labels.compute(), expected)
    spread = es.segment(demo.image, model, "spread", client=client, **settings)
    np.testing.assert_array_equal(spread.labels.compute(), expected)


def test_a_dry_run_writes_nothing(demo: DemoStore) -> None:
    before = sorted(demo.image.parent.rglob("*"))
    plan = run_json("segment", demo.image, *FAST, "--labels", "other", "--dry-run")["plan"]
    assert plan["prediction_tiles"] == 8
    assert plan["worker_bytes"] > 1e6
    assert sorted(demo.image.parent.rglob("*")) == before


def test_a_dry_run_for_workers_with_gpus_needs_no_gpu_here(
    demo: DemoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = tmp_path / "slurm.yaml"
    file.write_text("kind: slurm\ncores: 4\nmemory: 48GB\ngpus: 1\nworkers: 2\nwalltime: 1:00:00\n")
    command = ["segment", demo.image, "--labels", "other", "--dry-run"]
    here = run_json(*command, "--cluster-config", file)  # no --device: that of the workers
    assert here["settings"]["device"] == "cuda"
    assert here["time"] is None
    assert here["plan"]["worker_bytes"] > 1e6
    refused = CliRunner().invoke(app, [*map(str, command), "--device", "cuda"])
    assert refused.exit_code == 2
    assert "torch finds no CUDA device here" in refused.stderr


def test_info_tells_about_volumes_and_models(demo: DemoStore) -> None:
    about = run_json("info", demo.image)
    assert about["axes"] == "zyx"
    assert about["ngff_version"] == "0.5"
    assert run_json("info", "nuclei-3d")["ndim"] == 3
    shown = CliRunner().invoke(app, ["info", str(demo.image)])
    assert "118" in shown.stdout


def test_the_demo_command_draws_a_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "demo" / "blastocyst.png").stat().st_size > 100_000
    again = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert again.exit_code == 2
    assert "overwrite" in again.stderr


def test_info_knows_a_model_by_its_content(tmp_path: Path) -> None:
    es.load_model("nuclei-3d").save(tmp_path / "my-model")
    about = run_json("info", tmp_path / "my-model")
    assert about["fingerprint"] == es.load_model("nuclei-3d").fingerprint


def test_info_lists_labels_and_how_they_were_made(demo: DemoStore, summary: dict[str, Any]) -> None:
    assert {"nuclei", "truth"} <= set(run_json("info", demo.image)["labels"])
    about = run_json("info", summary["labels"])
    assert about["n_instances"] == summary["n_instances"]
