"""Faults that a cluster and its disks have: nothing is lost, and the bytes are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import (
    CorruptChunkError,
    LabelsExistError,
    OutputError,
    RunError,
    UsageError,
)
from embedseg_large.geometry import Box
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.segment import begin
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.tiers import slowly

Labels = NDArray[Any]
OPTIONS: dict[str, Any] = {
    "intensity_range": (0, 1),
    "cluster_tile": (24, 30, 30),
    "halo": (6, 6, 6),
}


@pytest.fixture
def store(tmp_path: Path, image: Labels) -> Path:
    path = tmp_path / "embryo.ome.zarr"
    write_image(path, image, "zyx", (1.0, 1.0, 1.0), ngff_version="0.4", chunks=(26, 30, 29))
    return path


def oracle(image: Labels) -> OracleNetwork:
    return OracleNetwork.of(image, flaws=Flaws(noise=1.0), tile=(24, 24, 24))


@dataclass(frozen=True, kw_only=True, eq=False)
class Interrupted(OracleNetwork):
    """Does something to its own process at one tile, once."""

    place: Path
    """Says that it has been done; holds the process id."""
    fault: str
    """``sleep`` some seconds, or take ``memory``."""

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        is_there = region.contains(Box((30, 30, 30), (31, 31, 31)))
        if is_there and self.fault == "memory":
            np.ones(2**30, np.uint8).sum()
            held = [np.ones(2**27, np.uint8) for _ in range(40)]  # touched, so it is really taken
            time.sleep(len(held))
        if is_there and not self.place.exists():
            self.place.write_text(str(os.getpid()))
            time.sleep(2)
        return super().predict_tile(image, region, tta)


@contextmanager
def bare_workers(folder: Path, count: int) -> Iterator[Client]:
    """A client of worker processes that nobody watches over or restarts."""
    file, repository = folder / "scheduler.json", Path(__file__).parents[3]
    dask = [sys.executable, "-m"]
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    main = [*dask, "distributed.cli.dask_scheduler", *common, "--port", "0"]
    bare = ["--no-nanny", "--nthreads", "1", "--local-directory", str(folder)]
    one = [*dask, "distributed.cli.dask_worker", *common, *bare]
    settings = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s"}
    processes = [
        subprocess.Popen(
            command,
            env=settings,
            cwd=repository,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in [main, *[one] * count]
    ]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        with Client(scheduler_file=str(file), timeout=30) as client:
            client.wait_for_workers(count, timeout=30)
            yield client
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_that_was_cut_off_and_comes_back_changes_nothing(
    tmp_path: Path, image: Labels, expected: Labels
) -> None:
    """It is stopped in the middle of a tile, given up, and writes that tile after all."""
    place, out = tmp_path / "pid", tmp_path / "place" / "out.zarr"
    network = Interrupted.like(oracle(image), place=place, fault="sleep")

    def predictions() -> list[str]:
        folder = tmp_path / "place" / ".out.zarr-nuclei.run" / "predictions" / "1"
        return sorted(p.name for p in folder.iterdir() if p.name.startswith("1.1-"))

    def cut_off() -> None:
        while not place.exists() or not place.read_text():
            time.sleep(0.02)
        os.kill(int(place.read_text()), signal.SIGSTOP)

    class Reconnect:
        """Lets the worker go on when the others have come to the last stage."""

        late: tuple[list[str], list[str]] = ([], [])

        def begin(self, stage: str, tiles: int) -> None:
            assert tiles > 0
            if stage == "check" and not self.late[1]:
                self.late[0].extend(predictions())
                os.kill(int(place.read_text()), signal.SIGCONT)
                time.sleep(5)
                self.late[1].extend(predictions())

        def advance(self, stage: str) -> None: ...

    watcher = Reconnect()
    stopper = threading.Thread(target=cut_off)
    with bare_workers(tmp_path, 2) as client:
        stopper.start()
        result = es.segment(image, network, output=out, client=client, watcher=watcher, **OPTIONS)
    stopper.join()
    before, after = watcher.late
    assert len(before) == 1
    assert len(after) == 2  # it did write
    np.testing.assert_array_equal(np.asarray(result.labels), expected)
    assert [p.name for p in out.parent.iterdir()] == ["out.zarr"]


@pytest.mark.slow
def test_a_tile_that_takes_all_memory_is_named_and_the_rest_is_done(
    tmp_path: Path, image: Labels, expected: Labels
) -> None:
    place, out = tmp_path / "pid", tmp_path / "out.zarr"
    hungry = Interrupted.like(oracle(image), place=place, fault="memory")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster_client(LocalSettings(workers=2, memory="900MB"), "cpu") as client,
        pytest.raises(RunError, match=r"predict of tile \[24:48, 24:48, 24:48\].*memory"),
    ):
        es.segment(image, hungry, output=out, client=client, **OPTIONS)
    result = es.segment(image, oracle(image), output=out, **OPTIONS)
    tiles = result.summary["stages"]["predict"]["tiles"]
    assert tiles // 2 < result.summary["resumed"]["predict"] < tiles
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


def test_workers_of_this_machine_that_all_died_for_good_are_not_waited_for(
    tmp_path: Path, image: Labels, expected: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedseg_large.runs.dask.monitor.RESTART_SECONDS", 1)
    out = tmp_path / "out.zarr"
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        class Deadly:
            tiles = 0

            def begin(self, stage: str, tiles: int) -> None: ...

            def advance(self, stage: str) -> None:
                self.tiles += stage == "predict"
                if self.tiles == 10:
                    cluster.scale(0)

        with pytest.raises(RunError, match=r"all workers of this machine died.*is kept"):
            es.segment(image, oracle(image), output=out, client=client, watcher=Deadly(), **OPTIONS)
    result = es.segment(image, oracle(image), output=out, **OPTIONS)
    assert result.summary["resumed"]["predict"] >= 10
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


def test_local_workers_without_the_memory_for_a_tile_are_refused_before_they_start(
    tmp_path: Path, image: Labels
) -> None:
    file, out = tmp_path / "workers.yaml", tmp_path / "out.zarr"
    file.write_text("{kind: local, workers: 2, memory: 300MB}")
    began = time.perf_counter()
    with pytest.raises(UsageError, match=r"workers\.yaml: memory gives a worker .* a tile takes"):
        es.segment(image, oracle(image), output=out, cluster_config=file, **OPTIONS)
    assert time.perf_counter() - began < 2
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a part of a run."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, store: Path, image: Labels, expected: Labels
) -> None:
    options = OPTIONS | {"scratch": small_disk}
    with pytest.raises(OutputError, match="disk is full; free some space and rerun the same"):
        es.segment(store, oracle(image), **options)
    assert not (store / "labels" / "nuclei").exists()
    room = ["mount", "-o", "remount,size=50m", str(small_disk)]
    subprocess.run(room, check=True)
    result = es.segment(store, oracle(image), **options)
    assert result.summary["resumed"]["predict"] > 0
    np.testing.assert_array_equal(np.asarray(result.labels), expected)
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("on_cluster", [False, *slowly(True)], ids=["serial", "cluster"])
def test_a_truncated_chunk_is_named_and_only_its_tiles_are_done_later(
    store: Path, image: Labels, expected: Labels, client: Any, on_cluster: bool
) -> None:
    chunk = next(p for p in store.rglob("0/1/1/1") if "labels" not in p.parts)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    # without a look for blank regions, which reads far around a tile
    where: dict[str, Any] = {"nodata": "none"} | ({"client": client} if on_cluster else {})
    with pytest.raises(CorruptChunkError, match=r"0/1/1/1.*the rest is done|0/1/1/1") as error:
        es.segment(store, oracle(image), context=(0, 0, 0), **OPTIONS, **where)
    assert "\n" not in str(error.value)
    chunk.write_bytes(whole)
    result = es.segment(store, oracle(image), context=(0, 0, 0), **OPTIONS, **where)
    tiles = result.summary["stages"]["predict"]["tiles"]
    assert tiles - 8 <= result.summary["resumed"]["predict"] < tiles
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


def test_two_runs_that_publish_different_names_at_once_are_both_listed(
    store: Path, image: Labels, expected: Labels
) -> None:
    barrier = threading.Barrier(2)

    class Together:
        def begin(self, stage: str, tiles: int) -> None:
            if stage == "finish" and tiles > 0:
                barrier.wait(timeout=60)

        def advance(self, stage: str) -> None: ...

    def segment(name: str) -> None:
        es.segment(store, oracle(image), name, watcher=Together(), **OPTIONS)

    threads = [threading.Thread(target=segment, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "two"):
        labels = es.open_volume(store / "labels" / name)
        np.testing.assert_array_equal(labels.data.compute(), expected)
    listed = (store / "labels" / ".zattrs").read_text()
    assert '"one"' in listed
    assert '"two"' in listed


def test_a_run_that_finds_the_labels_of_another_is_refused_before_any_work(
    store: Path, image: Labels
) -> None:
    """Both have looked for older labels before either had the lock."""
    options = SegmentOptions.of(OPTIONS, "segment")
    second = prepare(store, oracle(image), "nuclei", options)
    es.segment(store, oracle(image), **OPTIONS)
    with pytest.raises(LabelsExistError, match="--overwrite"), begin(second):
        pass
    assert [place.name for place in store.parent.iterdir()] == [store.name]
    assert sorted(p.name for p in (store / "labels").iterdir() if p.is_dir()) == ["nuclei"]


def test_hand_painted_labels_are_kept_when_they_are_overwritten(
    store: Path, image: Labels, expected: Labels
) -> None:
    es.segment(store, oracle(image), **OPTIONS)
    attributes = store / "labels" / "nuclei" / ".zattrs"
    attributes.write_text(attributes.read_text().replace('"embedseg_large"', '"painted"'))
    es.segment(store, oracle(image), overwrite=True, **OPTIONS)
    for name in ("nuclei", "nuclei.bak"):
        labels = es.open_volume(store / "labels" / name)
        np.testing.assert_array_equal(labels.data.compute(), expected)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_image_that_changed_since_is_refused_or_starts_over(
    store: Path, image: Labels, expected: Labels, overwrite: bool
) -> None:
    class Stop:
        tiles = 0

        def begin(self, stage: str, tiles: int) -> None: ...

        def advance(self, stage: str) -> None:
            self.tiles += stage == "predict"
            if self.tiles == 10:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        es.segment(store, oracle(image), watcher=Stop(), overwrite=overwrite, **OPTIONS)
    chunk = next(p for p in store.rglob("0/0/0/0") if "labels" not in p.parts)
    chunk.write_bytes(chunk.read_bytes())
    with pytest.raises(UsageError, match=r"the image has changed in .*start over with overwrite"):
        es.segment(store, oracle(image), **OPTIONS)
    result = es.segment(store, oracle(image), overwrite=True, **OPTIONS)
    np.testing.assert_array_equal(np.asarray(result.labels), expected)
