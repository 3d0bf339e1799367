"""Bad input gets one clear line and exit code 2, before any work; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.testing.tiers import slowly

Labels = NDArray[Any]


@pytest.fixture(scope="module")
def embryo() -> Labels:
    return synthetic_embryo((24, 40, 40), n_objects=12, diameter=10).astype(np.uint16)


@pytest.fixture
def store(tmp_path: Path, embryo: Labels) -> Path:
    """An image of 16 chunks; its voxels are label ids, for the oracle."""
    path = tmp_path / "embryo.ome.zarr"
    write_image(path, embryo, "zyx", (1.0, 0.5, 0.5), ngff_version="0.4", chunks=(12, 20, 20))
    return path


def fails(*arguments: object) -> str:
    """Run a command that must refuse; its one line."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    assert "nowhere.zarr" in fails("segment", tmp_path / "nowhere.zarr")


def test_a_place_that_cannot_be_written_is_a_mistake_too(store: Path) -> None:
    pytest.importorskip("obstore")
    web = "http://127.0.0.1:1/x.zarr"
    assert "web servers are read only" in fails("segment", store, "--output", web)
    assert "web servers are read only" in fails("segment", store, "--scratch", web)
    assert "cannot be written" in fails("segment", store, "--scratch", "/proc/x")
    assert "object stores" in fails("convert", store, "s3://bucket/x.zarr")


LOCAL_ONLY = [
    "export-labels series.tif s3://bucket/a.tif --timepoint 0",
    "export-labels series.tif s3://bucket/{label}/a.obj",
    "measure series.tif --out s3://bucket/a.csv",
    "track series.tif --ctc s3://bucket/res",
    "track series.tif --ctc file:///res",
    "track series.tif --out s3://bucket/a.csv",
    "evaluate images/a.tif images/a.tif --errors s3://bucket/a.csv",
    "report images/a.tif --out s3://bucket/a.html",
    "synthesise s3://bucket/drawn --count 1",
    "train --images images --masks images --out s3://bucket/a.safetensors",
    "compare --images images --masks images --out s3://bucket/a.html",
    "convert series.tif s3://bucket/a.ome.zarr",
    "demo --out s3://bucket/demo",
    "segment images --model nuclei-2d --out s3://bucket/masks",
    "import images s3://bucket/a.safetensors",
    "tune nuclei-2d --images images --masks images --out s3://bucket/a.safetensors",
    "review images/a.tif --log s3://bucket/a.txt",
]
"""Commands whose output is written to a disk only."""


@pytest.mark.parametrize("command", LOCAL_ONLY)
def test_a_url_is_refused_where_only_a_disk_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    labels = np.zeros((2, 16, 16), np.uint16)
    labels[:, 2:6, 2:6], labels[:, 9:14, 9:14] = 1, 2
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", labels[0])
    tifffile.imwrite(tmp_path / "series.tif", labels, metadata={"axes": "TYX"})
    monkeypatch.chdir(tmp_path)
    assert "URL" in fails(*command.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "series.tif"]


@pytest.mark.parametrize(("number", "mistaken"), [(errno.EROFS, True), (errno.ENOSPC, False)])
def test_a_read_only_store_is_a_mistake_but_a_full_disk_is_none(
    store: Path, number: int, mistaken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(*_: Any, **__: Any) -> None:
        raise OSError(number, "cannot")

    monkeypatch.setattr(Path, "touch", touch)
    result = CliRunner().invoke(app, ["segment", str(store)])
    assert result.exit_code == (2 if mistaken else 1), result.output
    assert ("read-only" if mistaken else "disk is full") in result.stderr


def test_a_missing_level_is_told_how_many_there_are(store: Path) -> None:
    assert "level 7" in fails("segment", store, "--level", 7)


@pytest.mark.parametrize("option", ["--channel", "--timepoint"])
def test_a_channel_or_timepoint_out_of_range(store: Path, option: str) -> None:
    line = fails("segment", store, option, 3)
    assert option[2:] in line
    assert "3" in line


def test_a_2d_image_does_not_fit_a_3d_model(tmp_path: Path) -> None:
    write_image(tmp_path / "flat.zarr", np.zeros((64, 64), np.uint8))
    assert "3D" in fails("segment", tmp_path / "flat.zarr", "--model", "nuclei-3d")


def test_labels_are_not_an_image(store: Path, embryo: Labels) -> None:
    es.segment(store, OracleNetwork.of(embryo), intensity_range=(0, 1))
    assert "labels" in fails("segment", store / "labels" / "nuclei")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tile", "60,64,64"), ("--tile", "0,64,64"), ("--context", "5,8,8"), ("--halo", "1,1,1"),
     ("--tile", "64,64"), ("--seed", "1.5"), ("--tta", "7"), ("--intensity-range", "5,5"),
     ("--intensity-range", "5,1e39"), ("--min-object-size", str(2**64)), ("--series", "3"),
     ("--workers", "9" * 20)],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(store: Path, option: str, value: str) -> None:
    line = fails("segment", store, option, value)
    assert option[2:].split("-")[0] in line or "augmentation" in line
    assert len(line) < 400
    assert value.split(",")[0].lstrip("0") in line


def test_labels_of_that_name_are_not_overwritten_unasked(store: Path, embryo: Labels) -> None:
    network = OracleNetwork.of(embryo)
    first = es.segment(store, network, intensity_range=(0, 1))
    assert "--overwrite" in fails("segment", store) or "overwrite" in fails("segment", store)
    again = es.segment(store, network, intensity_range=(0, 1), overwrite=True)
    assert again.n_instances == first.n_instances


def test_a_constant_image_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "flat.zarr", np.full((16, 32, 32), 7, np.uint16), "zyx")
    assert "constant" in fails("segment", tmp_path / "flat.zarr")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_located(tmp_path: Path, value: float) -> None:
    image = np.random.default_rng(0).random((16, 32, 32), np.float32)
    image[3, 4, 5] = value
    write_image(tmp_path / "holes.zarr", image, "zyx")
    line = fails("segment", tmp_path / "holes.zarr")
    assert "3, 4, 5" in line
    line = fails("segment", tmp_path / "holes.zarr", "--intensity-range", "0,1", "--tta", "none")
    assert "NaN or infinite" in line


def test_a_truncated_chunk_is_named_and_older_labels_stay(store: Path, embryo: Labels) -> None:
    network = OracleNetwork.of(embryo)
    before = es.segment(store, network, intensity_range=(0, 1))
    old = before.labels.compute()
    chunk = next(p for p in store.rglob("1/0/1") if "labels" not in p.parts)
    chunk.write_bytes(chunk.read_bytes()[:40])
    assert "1/0/1" in fails("segment", store, "--overwrite")
    with pytest.raises(es.EmbedSegError, match="1/0/1"):
        es.segment(store, network, intensity_range=(0, 1), overwrite=True)
    np.testing.assert_array_equal(before.labels.compute(), old)
    left = {p.name for p in (store / "labels").iterdir()} | {p.name for p in store.parent.iterdir()}
    assert not [name for name in left if "nuclei-" in name], "nothing is left lying about"


def test_a_volume_without_spatial_axes(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "odd.zarr", zarr_format=2)
    group.create_array("0", shape=(4, 5), dtype="uint8")
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    scale = [{"type": "scale", "scale": [1, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale: Any = {"version": "0.4", "axes": axes, "datasets": datasets}
    group.attrs["multiscales"] = [multiscale]
    assert "axes" in fails("segment", tmp_path / "odd.zarr")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never run",))


def test_a_pickled_checkpoint_with_more_than_tensors_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "data_properties.json").write_text(json.dumps({"min_object_size": 5}))
    torch.save({"model_state_dict": Malicious()}, folder / "checkpoint.pth")
    fails("segment", store, "--model", folder)
    assert "never run" not in capsys.readouterr().out
    (folder / "checkpoint.pth").write_bytes(pickle.dumps(Malicious()))
    fails("segment", store, "--model", folder)


def test_a_model_file_of_another_kind(store: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    assert "other.safetensors" in fails("segment", store, "--model", tmp_path / "other.safetensors")
    assert "nuclei-3d" in fails("segment", store, "--model", "no-such-model")
    (tmp_path / "bad.safetensors").write_bytes(bytes(range(200)))
    assert "no model file" in fails("info", tmp_path / "bad.safetensors")


def test_workers_and_scheduler_exclude_each_other(store: Path) -> None:
    told = fails("segment", store, "--workers", 2, "--scheduler", "tcp://x:1")
    assert "workers (--workers), scheduler (--scheduler): pass only one" in told


@pytest.mark.slow
def test_a_scheduler_that_is_not_there(store: Path) -> None:
    """In a process of its own: a client that never connected leaves sockets behind."""
    code = f"""
import embedseg_large as es
from embedseg_large.runs.dask import executor as run
run.CONNECT_SECONDS = 1
try:
    es.segment({str(store)!r}, "nuclei-3d", scheduler="tcp://127.0.0.1:1")
except es.EmbedSegError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no Dask scheduler responds at tcp://127.0.0.1:1" in done.stdout


def test_two_label_volumes_of_different_shape_are_not_compared(tmp_path: Path) -> None:
    for name, edge in (("a", 20), ("b", 21)):
        array: Any = zarr.create_array(tmp_path / f"{name}.zarr", shape=(edge,) * 3, dtype="uint8")
        array[...] = 1
    assert "shape" in fails("evaluate", tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_a_failed_task_on_a_worker_is_the_same_error(
    store: Path, embryo: Labels, client: Any
) -> None:
    network = OracleNetwork.of(embryo)
    chunk = next(p for p in store.rglob("1/0/1") if "labels" not in p.parts)
    chunk.write_bytes(b"garbage")
    with pytest.raises(es.EmbedSegError, match="1/0/1"):
        es.segment(store, network, intensity_range=(0, 1), client=client)


def test_nothing_is_read_before_metadata_are_checked(
    store: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedseg_large.volumes.volume import Volume

    def read(*_: Any) -> Labels:
        raise AssertionError("read before the settings were checked")

    monkeypatch.setattr(Volume, "read", read)
    with pytest.raises(es.EmbedSegError, match="tile"):
        es.segment(store, OracleNetwork.of(embryo), tile=(60, 64, 64))


@pytest.mark.parametrize("workers", [(), *slowly(("--workers", "1"))])
def test_an_interrupt_ends_in_one_line_and_is_gone_on_from(
    store: Path, workers: tuple[str, ...]
) -> None:
    """As Ctrl-C in a terminal does: the whole process group gets the signal."""
    command = [sys.executable, "-c", "from embedseg_large.cli import main; main()", "segment"]
    run = subprocess.Popen(
        [*command, str(store), "--tile", "8,8,8", *workers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        done = wait_for(lambda: next(store.parent.glob(".*.run/predictions"), None))
        os.killpg(run.pid, signal.SIGINT)
        printed, complaint = run.communicate(timeout=60)
    finally:  # what is left of it would disturb other tests
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert (run.returncode, printed) == (130, "")
    *progress, last = complaint.strip().splitlines()  # a slow start is told about
    assert last == "interrupted; rerun the same command to resume"
    assert all(line.startswith("predict ") for line in progress)
    assert done is not None
    assert (done.parent / "run.json").exists()
    assert not (store / "labels").exists()
    assert not list(store.parent.glob(".*.lock"))


def wait_for(look: Callable[[], Path | None], seconds: float = 60) -> Path | None:
    """What `look` finds, as soon as it finds it."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
