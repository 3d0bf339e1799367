"""Workers are jobs of a real Slurm, which runs on this machine while these tests do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import RunError, UsageError
from embedseg_large.runs.dask import clusters
from embedseg_large.runs.dask.cluster_file import ClusterSettings, read_cluster_file
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.runs.dask.preflight import check_workers
from embedseg_large.runs.dask.slurm import JOB_NAME
from embedseg_large.testing.synthetic import synthetic_embryo

SLURM = Path(__file__).parents[1] / "slurm" / "slurm.sh"

WriteFile = Callable[..., Path]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Slurm of one node, two cores and two GPUs that are none."""
    folder = tmp_path_factory.mktemp("slurm")
    try:
        started = subprocess.run(
            [SLURM, "start", folder], capture_output=True, text=True, check=False
        )
        if started.returncode:
            pytest.skip(f"no Slurm here: {started.stderr.strip()}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield folder
    finally:
        subprocess.run([SLURM, "stop", folder], check=False)


@pytest.fixture
def write(slurm: Path, tmp_path: Path) -> WriteFile:
    """Write a settings file for jobs of this Slurm."""

    def write(**keys: Any) -> Path:
        settings = {
            "kind": "slurm",
            "workers": 1,
            "cores": 1,
            "memory": "1GB",
            "walltime": "10",
            "interface": "lo",
            "log_folder": str(slurm / "logs"),
            "wait": 60,
        }
        file = tmp_path / "slurm.yaml"
        file.write_text(json.dumps(settings | keys))  # JSON is YAML
        return file

    return write


@pytest.fixture
def settings(write: WriteFile) -> Callable[..., ClusterSettings]:
    return lambda **keys: read_cluster_file(write(**keys))


def jobs() -> list[str]:
    """Numbers of our jobs that wait or run."""
    squeue = ["squeue", "--noheader", f"--name={JOB_NAME}", "--states=PD,R,CF", "--format=%i"]
    return subprocess.run(squeue, capture_output=True, text=True, check=True).stdout.split()


def environment() -> list[str]:
    names = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "CUDA_VISIBLE_DEVICES")
    return [os.environ[name] for name in names]


def test_tasks_run_in_jobs_with_a_gpu_that_are_gone_at_the_end(
    slurm: Path, settings: Callable[..., ClusterSettings], tmp_path: Path
) -> None:
    with cluster_client(settings(gpus=1, queue="main"), "cuda") as client:
        job, queue, gpu = client.submit(environment, resources={"GPU": 1}).result(timeout=30)
        assert [job] == jobs()
        assert (queue, gpu) == ("main", "0")
        check_workers(client, device="cuda", places=[str(tmp_path)], needs_gpu=True)
    assert jobs() == []
    assert list((slurm / "logs").glob(f"{JOB_NAME}-{job}.*"))


def test_jobs_are_gone_when_a_run_fails(settings: Callable[..., ClusterSettings]) -> None:
    with pytest.raises(ZeroDivisionError), cluster_client(settings(), "cpu"):
        raise ZeroDivisionError
    assert jobs() == []


def test_a_job_that_ends_early_is_replaced(settings: Callable[..., ClusterSettings]) -> None:
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        cluster_client(settings(), "cpu") as client,
    ):
        (job,) = jobs()
        subprocess.run(["scancel", job], check=True)
        assert eventually(lambda: jobs() not in ([], [job]))
        assert client.submit(abs, -1).result(timeout=30) == 1


def test_a_job_that_has_to_wait_says_what_for(settings: Callable[..., ClusterSettings]) -> None:
    other = ["sbatch", "--parsable", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 60"]
    busy = subprocess.run(other, capture_output=True, text=True, check=True).stdout.strip()
    try:
        # until the other job runs, it is what ours waits for: Priority
        assert eventually(lambda: state_of(busy) == "RUNNING")
        with (
            pytest.raises(
                RunError, match=r"no worker started within \d s: job \d+: 1 PENDING \(Res"
            ),
            cluster_client(settings(wait=6), "cpu"),
        ):
            pass
    finally:
        subprocess.run(["scancel", busy], check=True)
    assert jobs() == []


def test_jobs_that_fail_are_not_waited_for(
    settings: Callable[..., ClusterSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "NEWS_SECONDS", (4, 4))
    with (
        pytest.raises(RunError, match=r"none will: job \d+: 1 FAILED \(NonZeroExitCode\); logs"),
        cluster_client(settings(prologue=["exit 3"]), "cpu"),
    ):
        pass


def test_a_queue_that_does_not_exist_is_a_mistake_in_the_file(
    settings: Callable[..., ClusterSettings],
) -> None:
    with (
        pytest.raises(UsageError, match=r"slurm\.yaml: .*invalid partition specified: nowhere"),
        cluster_client(settings(queue="nowhere"), "cpu"),
    ):
        pass
    assert jobs() == []


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm takes a job when it is asked, and refuses it a moment later: a limit was reached."""
    monkeypatch.setattr(clusters, "check_slurm", lambda _: None)


def test_more_memory_than_any_node_has_is_a_mistake_in_the_file(
    settings: Callable[..., ClusterSettings],
) -> None:
    with (
        pytest.raises(
            UsageError, match=r"slurm\.yaml: this job cannot.*Memory specification can not be"
        ),
        cluster_client(settings(memory="200GB"), "cpu"),
    ):
        pass
    assert jobs() == []


@pytest.mark.usefixtures("unchecked")
def test_jobs_that_sbatch_refuses_later_end_the_run_with_its_words(
    settings: Callable[..., ClusterSettings],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(clusters, "NEWS_SECONDS", (1, 1))
    with (
        pytest.raises(UsageError, match=r"this job cannot.*Memory specification can not be"),
        cluster_client(settings(memory="200GB"), "cpu"),
    ):
        pass
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("unchecked")
def test_an_interrupt_while_no_worker_comes_stays_an_interrupt(
    settings: Callable[..., ClusterSettings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupt(seconds: float) -> None:
        time.sleep(seconds + 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        clusters, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic)
    )
    with pytest.raises(KeyboardInterrupt), cluster_client(settings(memory="200GB"), "cpu"):
        pass
    assert "cleanly" not in caplog.text


def test_a_node_that_is_drained_is_waited_for(settings: Callable[..., ClusterSettings]) -> None:
    def set_state(state: str) -> None:
        node = ["scontrol", "update", "nodename=localhost", f"state={state}", "reason=test"]
        subprocess.run(node, check=True)

    set_state("drain")
    try:
        with (
            pytest.raises(RunError, match=r"no worker started within \d s: job \d+: 1 PENDING"),
            cluster_client(settings(wait=2), "cpu"),
        ):
            pass
    finally:
        set_state("resume")
    assert jobs() == []


@pytest.mark.slow
def test_a_run_on_slurm_makes_the_labels_of_this_process(write: WriteFile, tmp_path: Path) -> None:
    embryo = synthetic_embryo((24, 48, 48), density=0.3, diameter=14, seed=3)
    store = tmp_path / "embryo.ome.zarr"
    write_image(store, (embryo > 0).astype(np.uint8), "zyx")
    segment = ["segment", str(store), "--tta", "none", "--json"]
    here = summary(*segment, "--labels", "here")
    there = summary(*segment, "--labels", "there", "--cluster-config", str(write()))
    assert here["n_instances"] == there["n_instances"] > 0
    labels = [es.open_volume(run["labels"]).data.compute() for run in (here, there)]
    np.testing.assert_array_equal(*labels)
    assert jobs() == []


def summary(*arguments: str) -> dict[str, Any]:
    """What a command of this package prints as JSON."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def eventually(look: Callable[[], bool], seconds: float = 40) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.slow
def test_a_run_that_met_its_wall_time_goes_on_in_the_next_job(slurm: Path, tmp_path: Path) -> None:
    """The whole run is one batch job."""
    out, script = tmp_path / "place" / "out.zarr", tmp_path / "job.sh"
    victim = Path(__file__).parents[1] / "victim.py"
    stays = f"{sys.executable} {victim} {out} cluster sleeps"
    # the shell of the job must not outlive its child, nor hide how it ended
    script.write_text(f"#!/bin/bash\nexec {stays}\n")
    submit = ["sbatch", "--parsable", "--time=5", f"--output={slurm}/job.log", str(script)]
    job = subprocess.run(submit, capture_output=True, text=True, check=True).stdout.strip()
    assert eventually(lambda: bool(list(tmp_path.glob("place/.*.run/journal/*"))))
    soon = ["scontrol", "update", f"jobid={job}", "EndTime=now+1seconds"]
    subprocess.run(soon, check=True)
    assert eventually(lambda: state_of(job) not in ("RUNNING", "COMPLETING"), seconds=60)
    assert state_of(job) == "TIMEOUT"
    assert not (out / "labels" / "nuclei").exists()
    again = subprocess.run(
        ["srun", "--time=5", sys.executable, victim, out, "none"], capture_output=True, check=False
    )
    assert again.returncode == 0, again.stderr.decode()
    found = es.open_volume(out / "labels" / "nuclei")
    attributes = json.loads((out / "labels" / "nuclei" / "zarr.json").read_text())["attributes"]
    assert attributes["embedseg_large"]["resumed"]["predict"] > 0
    alone = subprocess.run(
        [sys.executable, victim, tmp_path / "alone.zarr", "none"], capture_output=True, check=True
    )
    assert alone.returncode == 0
    np.testing.assert_array_equal(
        found.data.compute(),
        es.open_volume(tmp_path / "alone.zarr" / "labels" / "nuclei").data.compute(),
    )


def state_of(job: str) -> str:
    squeue = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    return subprocess.run(squeue, capture_output=True, text=True, check=True).stdout.strip()
