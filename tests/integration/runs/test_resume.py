"""Whatever dies, the same command goes on, and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import RunError, UsageError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.paths import lock_folder, scratch_path
from embedseg_large.segmentation.request import request as request_module
from embedseg_large.segmentation.status import RunStatus, run_status
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.tiers import slowly

Labels = NDArray[Any]
VICTIM = Path(__file__).parents[1] / "victim.py"
STAGES = ["predict", "cluster", "check", "finish"]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, victim: ModuleType, image: Labels, network: Any
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    result = run(victim, image, network, out)
    assert result.seams.rounds > 0
    assert result.n_instances > 20
    files = stored(out)
    assert {"instances/seediness/c/0", "instances/certified/c/0"} <= files.keys()
    return files


def run(victim: ModuleType, image: Any, network: Any, out: Path, **more: Any) -> es.SegmentResult:
    options = victim.OPTIONS | {"output": out, "intensity_range": (0, 1)} | more
    return es.segment(image, network, **options)


def stored(out: Path) -> dict[str, bytes]:
    """Every file of the labels but the one that says how they were made."""
    folder = out / "labels" / "nuclei"
    files = (p for p in folder.rglob("*") if p.is_file() and p.parent != folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def beside(out: Path) -> list[str]:
    """What a run left beside its output."""
    return sorted(p.name for p in out.parent.iterdir() if p != out)


def kill_at(stage: str, out: Path) -> None:
    """A run in a process of its own that dies in a stage."""
    died = subprocess.run([sys.executable, VICTIM, out, stage], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()


@pytest.mark.parametrize("stage", ["check", *slowly("predict", "cluster", "finish")])
def test_a_killed_client_loses_only_tiles_in_flight(
    tmp_path: Path,
    stage: str,
    victim: ModuleType,
    image: Labels,
    network: Any,
    undisturbed: dict[str, bytes],
) -> None:
    out = tmp_path / "out.zarr"
    kill_at(stage, out)
    assert not (out / "labels" / "nuclei").exists()
    result = run(victim, image, network, out)
    assert stored(out) == undisturbed
    assert beside(out) == []
    resumed = result.summary["resumed"]
    before = STAGES[: STAGES.index(stage)]
    if stage in ("check", "finish"):
        assert resumed["predict"] == result.summary["stages"]["predict"]["tiles"]
        assert resumed["cluster"] >= result.seams.tiles
    assert all(resumed.get(s, 0) > 0 for s in before)


@dataclass
class Killer:
    """A watcher that kills a worker process as soon as a stage has done a tile."""

    client: Any
    stage: str
    killed: int = 0

    def begin(self, stage: str, tiles: int) -> None: ...

    def advance(self, stage: str) -> None:
        if stage == self.stage and not self.killed:
            self.killed = min(self.client.run(os.getpid).values())
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize("stage", ["cluster", *slowly("predict", "check", "finish")])
def test_a_killed_worker_is_not_missed(
    tmp_path: Path,
    stage: str,
    victim: ModuleType,
    image: Labels,
    network: Any,
    undisturbed: dict[str, bytes],
) -> None:
    with cluster_client(LocalSettings(workers=2), "cpu") as client:
        client.wait_for_workers(2, timeout=30)
        killer = Killer(client, stage)
        run(victim, image, network, tmp_path / "out.zarr", client=client, watcher=killer)
    assert killer.killed
    assert stored(tmp_path / "out.zarr") == undisturbed
    assert beside(tmp_path / "out.zarr") == []


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker, each a process of its own."""
    file = tmp_path / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(file)]
    main = subprocess.Popen([*dask, *options], **quiet)
    dask = [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = ["--scheduler-file", str(file), "--nthreads", "1", "--local-directory", str(tmp_path)]
    worker = subprocess.Popen(
        [*dask, *options, "--no-dashboard", "--death-timeout", "20"],
        start_new_session=True,
        **quiet,
    )
    try:
        wait_for(file.exists)
        wait_for(lambda: bool(file.read_text().strip()))
        yield json.loads(file.read_text())["address"], main
    finally:
        main.kill()
        os.killpg(worker.pid, signal.SIGKILL)
        main.wait()
        worker.wait()


def wait_for(found: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@dataclass
class SchedulerKiller:
    process: subprocess.Popen[bytes]

    def begin(self, stage: str, tiles: int) -> None: ...

    def advance(self, stage: str) -> None:
        if stage == "cluster":
            self.process.kill()


@pytest.mark.slow
def test_a_killed_scheduler_ends_in_one_line_and_the_run_goes_on_without_it(
    tmp_path: Path,
    scheduler: tuple[str, subprocess.Popen[bytes]],
    victim: ModuleType,
    image: Labels,
    network: Any,
    undisturbed: dict[str, bytes],
) -> None:
    from distributed import Client

    address, process = scheduler
    out = tmp_path / "place" / "out.zarr"
    out.parent.mkdir()
    with Client(address, timeout=20) as client:
        client.wait_for_workers(1, timeout=30)
    killer = SchedulerKiller(process)
    with pytest.raises(RunError, match="scheduler was lost"):
        run(victim, image, network, out, scheduler=address, watcher=killer)
    result = run(victim, image, network, out)
    assert result.summary["resumed"]["predict"] > 0
    assert stored(out) == undisturbed
    assert beside(out) == []


@dataclass(frozen=True, kw_only=True, eq=False)
class Failing(OracleNetwork):
    """Fails at the tile that holds a voxel, so often that a file tells."""

    counter: Path
    times: int
    voxel: tuple[int, ...] = (30, 30, 30)

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        failed = self.counter.stat().st_size if self.counter.exists() else 0
        inside = all(
            a <= v < b for a, v, b in zip(region.start, self.voxel, region.stop, strict=True)
        )
        if inside and failed < self.times:
            with self.counter.open("ab") as file:
                file.write(b"x")
            raise ValueError("a cosmic ray")
        return super().predict_tile(image, region, tta)


def test_a_task_that_raises_once_is_done_again(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    failing = Failing.like(network, counter=tmp_path / "count", times=1)
    out = tmp_path / "place" / "out.zarr"
    run(victim, image, failing, out)
    assert (tmp_path / "count").stat().st_size == 1
    assert stored(out) == undisturbed


@pytest.mark.parametrize("on_cluster", [False, True], ids=["serial", "cluster"])
def test_a_task_that_always_raises_is_named_and_later_done_alone(
    tmp_path: Path,
    on_cluster: bool,
    victim: ModuleType,
    image: Labels,
    network: Any,
    client: Any,
    undisturbed: dict[str, bytes],
) -> None:
    out = tmp_path / "place" / "out.zarr"
    counter = tmp_path / "count"
    failing = Failing.like(network, counter=counter, times=10**6)
    where: dict[str, Any] = {"client": client} if on_cluster else {}
    with pytest.raises(RunError) as error:
        run(victim, image, failing, out, **where)
    message = str(error.value)
    assert "predict of tile [24:48, 24:48, 24:48]: ValueError: a cosmic ray" in message
    assert "\n" not in message
    assert not (out / "labels" / "nuclei").exists()
    counter.write_bytes(b"x" * 10**6)
    result = run(victim, image, failing, out)
    tiles = result.summary["stages"]["predict"]["tiles"]
    assert result.summary["resumed"]["predict"] == tiles - message.count("predict of tile")
    assert stored(out) == undisturbed


def test_a_changed_setting_is_refused_and_named(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out.zarr"
    kill_at("cluster", out)
    with pytest.raises(UsageError, match=r"seed 0\.9 \(now 0\.8\).*overwrite"):
        run(victim, image, network, out, seed=0.8)
    with pytest.raises(UsageError, match=r"margin 0\.5 \(now 0\.4\).*overwrite"):
        run(victim, image, network, out, margin=0.4)
    with pytest.raises(UsageError, match="volume content"):
        run(victim, image + 1, network, out)
    result = run(victim, image, network, out, overwrite=True)
    assert result.summary["resumed"] == {}
    assert stored(out) == undisturbed
    assert beside(out) == []


def test_a_run_that_an_older_program_has_begun_is_refused(
    tmp_path: Path,
    victim: ModuleType,
    image: Labels,
    network: Any,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its files have another form, though the version of the package may be the same."""
    out = tmp_path / "out.zarr"
    kill_at("cluster", out)
    for name in request_module.FORMATS:
        with monkeypatch.context() as patch:
            patch.setattr(request_module, "FORMATS", request_module.FORMATS | {name: 99})
            with pytest.raises(UsageError, match=rf"formats {name} \d \(now 99\).*overwrite"):
                run(victim, image, network, out)
    run(victim, image, network, out)
    assert stored(out) == undisturbed


def test_two_runs_on_one_output_the_second_is_refused(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out.zarr"
    first = subprocess.Popen([sys.executable, VICTIM, out, "cluster", "sleeps"])
    try:
        wait_for(lambda: any(tmp_path.glob(".*.run/journal/*")))
        with pytest.raises(UsageError, match=f"another run .*process {first.pid}"):
            run(victim, image, network, out)
    finally:
        first.kill()
        first.wait()
    run(victim, image, network, out)
    assert stored(out) == undisturbed


def test_a_run_that_lost_its_lock_publishes_nothing(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any
) -> None:
    """It was stopped so long that another one took over."""
    out = tmp_path / "out.zarr"

    class Usurper:
        def begin(self, stage: str, tiles: int) -> None: ...

        def advance(self, stage: str) -> None:
            if stage == "finish":
                lock_folder(str(out), "nuclei").create("000002", b"{}")

    with pytest.raises(RunError, match="another run has taken over"):
        run(victim, image, network, out, watcher=Usurper())
    assert not (out / "labels" / "nuclei").exists()


def test_a_holder_without_a_sign_of_life_is_dead(tmp_path: Path) -> None:
    from embedseg_large.storage.open import folder_at

    folder = folder_at(str(tmp_path / "lock"))
    folder.create("000007", json.dumps({"host": "elsewhere", "pid": 1, "beats": 3}).encode())
    lock = Lock(folder, {}, beat=0.05)
    with lock.held():
        assert lock.number == 8
        lock.check_now()
    assert not list(folder.names())


def test_a_disk_that_fails_for_a_moment_costs_a_holder_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedseg_large.storage.open import folder_at

    folder, failed = folder_at(str(tmp_path / "lock")), threading.Event()
    scan = os.scandir

    def fails_once(path: Any) -> Any:
        if threading.current_thread() is lock._heart and not failed.is_set():
            failed.set()
            raise OSError(errno.ESTALE, "Stale file handle")
        return scan(path)

    lock = Lock(folder, {}, beat=0.05)
    monkeypatch.setattr(os, "scandir", fails_once)
    with lock.held():
        assert failed.wait(10)
        with pytest.raises(UsageError, match="another run"), Lock(folder, {}, beat=0.5).held():
            pass


def test_a_client_that_slept_within_a_beat_does_not_take_its_lock_back(tmp_path: Path) -> None:
    from embedseg_large.storage.open import folder_at

    folder = folder_at(str(tmp_path / "lock"))
    sleeper = Lock(folder, {}, beat=0.05)
    with sleeper.held():
        sleeper._stop.set()
        assert sleeper._heart is not None
        sleeper._heart.join()
        folder.remove_all()  # another has taken over, and is done
        sleeper._stop.clear()
        sleeper._is_superseded = lambda: False  # type: ignore[method-assign]  # seen before it slept
        beating = threading.Thread(target=sleeper._keep_beating)
        beating.start()
        time.sleep(0.3)
        assert not (tmp_path / "lock").exists()
        del sleeper._is_superseded
        other = Lock(folder, {}, beat=0.05)
        with other.held():  # under the same number
            assert other.number == sleeper.number
            other.check_now()
            with pytest.raises(RunError, match="another run has taken over"):
                sleeper.check_now()
        sleeper._stop.set()
        beating.join()


def test_another_folder_for_scratch_is_found_again(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    out, fast = tmp_path / "out.zarr", tmp_path / "fast"
    fast.mkdir()
    failing = Failing.like(network, counter=tmp_path / "count", times=10**6)
    with pytest.raises(RunError):
        run(victim, image, failing, out, scratch=fast)
    assert [p.name for p in fast.iterdir()] == [Path(scratch_path(fast, str(out), "nuclei")).name]
    (tmp_path / "count").write_bytes(b"x" * 10**6)
    assert run(victim, image, failing, out, scratch=fast).summary["resumed"]
    assert stored(out) == undisturbed
    assert not list(fast.iterdir())


def test_a_journal_that_was_cut_off_is_one_line(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any
) -> None:
    out = tmp_path / "out.zarr"
    kill_at("cluster", out)
    file = next(tmp_path.glob(".*.run/journal/*"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RunError, match="not a journal"):
        run(victim, image, network, out)


def test_a_run_without_its_folder_begins_anew(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out.zarr"
    kill_at("finish", out)
    shutil.rmtree(next(tmp_path.glob(".*.run")))
    assert run(victim, image, network, out).summary["resumed"] == {}
    assert stored(out) == undisturbed


def test_labels_on_workers_are_those_of_one_process(
    tmp_path: Path, client: Any, victim: ModuleType, image: Labels, network: Any, undisturbed: Any
) -> None:
    run(victim, image, network, tmp_path / "out.zarr", client=client)
    assert stored(tmp_path / "out.zarr") == undisturbed


def test_kept_predictions_are_clustered_again_without_the_network(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any, undisturbed: dict[str, bytes]
) -> None:
    out, kept = tmp_path / "out.zarr", tmp_path / "out.zarr-nuclei.predictions"
    first = run(victim, image, network, out, keep_predictions=True)
    assert stored(out) == undisturbed
    assert first.summary["predictions"] == str(kept)
    assert beside(out) == [kept.name]
    blind = Failing.like(network, counter=tmp_path / "count", times=10**6)
    again = run(victim, image, blind, tmp_path / "again.zarr", from_predictions=kept)
    assert "predict" not in again.summary["stages"]
    assert stored(tmp_path / "again.zarr") == undisturbed
    other = {"foreground": 0.99, "margin": 0.7}
    fewer = run(victim, image, blind, tmp_path / "few.zarr", from_predictions=kept, **other)
    fresh = run(victim, image, network, tmp_path / "fresh.zarr", **other)
    assert stored(tmp_path / "few.zarr") == stored(tmp_path / "fresh.zarr")
    assert fewer.n_instances == fresh.n_instances
    assert (kept / "predictions.json").exists()


def test_kept_predictions_of_something_else_are_refused(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any
) -> None:
    out, kept = tmp_path / "out.zarr", tmp_path / "out.zarr-nuclei.predictions"
    run(victim, image, network, out, keep_predictions=True)
    again = {"out": tmp_path / "again.zarr", "from_predictions": kept}
    with pytest.raises(UsageError, match="volume content"):
        run(victim, image + 1, network, **again)
    with pytest.raises(UsageError, match=r"foreground is 0\.05.*above 0\.1"):
        run(victim, image, network, foreground=0.05, **again)
    with pytest.raises(UsageError, match="no predictions of a finished run"):
        run(victim, image, network, tmp_path / "a.zarr", from_predictions=tmp_path)
    shutil.rmtree(out)
    with pytest.raises(UsageError, match="kept there already"):
        run(victim, image, network, out, keep_predictions=True)


def test_status_tells_how_far_a_run_is_and_who_is_at_it(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    first = subprocess.Popen([sys.executable, VICTIM, out, "cluster", "sleeps"])
    try:
        wait_for(lambda: any(tmp_path.glob(".*.run/journal/*")))
        found = run_status(out)
        assert isinstance(found, RunStatus)
        assert found.holder is not None
        assert found.holder["pid"] == first.pid
    finally:
        first.kill()
        first.wait()
    stopped = json.loads(command("status", out, "--json"))
    assert stopped["running"] is None
    done, total = (stopped["stages"]["predict"][k] for k in ("done", "of"))
    assert 0 < done <= total == 3 * 3 * 3
    assert "rerun the same command to resume" in command("status", found.folder)


def test_status_of_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(VolumeNotFoundError, match="there is no such file"):
        run_status(tmp_path / "out.zarr")
    (tmp_path / "empty.zarr").mkdir()
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(UsageError, match="no run and no labels 'nuclei'; there are no labels"):
        run_status(tmp_path / "empty.zarr")


def test_status_of_labels_that_are_there_says_that_they_are_finished(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any
) -> None:
    out = tmp_path / "out.zarr"
    before = datetime.now(UTC).replace(microsecond=0)
    made = run(victim, image, network, out)
    told = json.loads(command("status", out, "--json"))
    assert told["finished"] is True
    assert told["n_instances"] == made.n_instances
    assert before <= datetime.fromisoformat(told["made"]) <= datetime.now(UTC)
    assert f"finished, {made.n_instances} instances, made 20" in command("status", out)
    with pytest.raises(UsageError, match=r"no labels 'nope'; existing labels: nuclei"):
        run_status(out, "nope")


def test_status_of_labels_of_another_program_knows_that_they_are_there(
    tmp_path: Path, victim: ModuleType, image: Labels, network: Any
) -> None:
    out = tmp_path / "out.zarr"
    run(victim, image, network, out)
    group = zarr.open_group(out / "labels" / "nuclei", mode="r+", use_consolidated=False)
    del group.attrs["embedseg_large"]
    assert "another program" in command("status", out)


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout
