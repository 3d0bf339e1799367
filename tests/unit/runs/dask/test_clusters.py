"""One file says which workers to use, and every mistake in it is named before anything starts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from embedseg_large.errors import RunError, UsageError
from embedseg_large.runs.dask import clusters
from embedseg_large.runs.dask.backend import chosen
from embedseg_large.runs.dask.cluster_file import (
    Adapt,
    CudaSettings,
    LocalSettings,
    SchedulerSettings,
    SlurmSettings,
    offers_gpu,
    read_cluster_file,
    walltime_seconds,
)
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.runs.dask.slurm import (
    JobState,
    check_slurm,
    cluster_options,
    describe,
    job_states,
)
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.segmentation.segment import segment

SLURM = "kind: slurm\nworkers: 8\ncores: 4\nmemory: 32GB\nwalltime: 12:00:00\n"

WriteFile = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        file = tmp_path / "cluster.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script of that name first in the path of programs."""

    def command(name: str, script: str) -> None:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return command


def slurm(**options: Any) -> SlurmSettings:
    needed: dict[str, Any] = {"workers": 2, "cores": 4, "memory": "32GB", "walltime": "12:00:00"}
    return SlurmSettings(file="cluster.yaml", **(needed | options))


def test_local_workers(write: WriteFile) -> None:
    file = write("{kind: local, workers: 4, threads: 2, memory: 8GiB, wait: 2 minutes}")
    assert read_cluster_file(file) == LocalSettings(
        file=str(file), workers=4, threads=2, memory="8GiB", wait=120
    )


def test_slurm_jobs(write: WriteFile) -> None:
    file = write(
        SLURM.replace("workers: 8", "adapt: {minimum: 2, maximum: 32}")
        + "gpus: 1\nqueue: on\naccount: 0123\ndirectives: [--qos=long]\n"
        "prologue:\n- module load cuda\n- source /opt/env/bin/activate\n"
    )
    found = read_cluster_file(file)
    assert isinstance(found, SlurmSettings)
    assert found.adapt == Adapt(minimum=2, maximum=32)
    assert found.walltime == "12:00:00"  # to YAML a number, 43200
    assert found.queue == "on"  # to YAML true
    assert found.account == "0123"  # to YAML 83
    assert found.prologue == ("module load cuda", "source /opt/env/bin/activate")
    assert found.wait == 600


def test_a_cuda_file_needs_no_number_of_workers(write: WriteFile) -> None:
    file = write("kind: cuda")
    assert read_cluster_file(file) == CudaSettings(file=str(file), workers=None, threads=8)


def test_a_scheduler(write: WriteFile) -> None:
    found = read_cluster_file(write("{kind: scheduler, address: 'tcp://10.0.0.1:8786'}"))
    assert isinstance(found, SchedulerSettings)
    assert found.address == "tcp://10.0.0.1:8786"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "not YAML"),
        ("- kind: local", "not a list of keys with values"),
        ("workers: 2", "kind is missing; use one of local, cuda, slurm, scheduler"),
        ("kind: pbs", "kind is 'pbs'; use one of local"),
        ("kind: s:hidden@10.0.0.1:8786", "kind is not a word; use one of local"),
        ("{kind: local, worker: 2}", "no key worker; did you mean workers"),
        ("{kind: scheduler, address: a, zzz: 2}", "no key zzz; it has wait, address"),
        ("{kind: local, workers: 2, file: x}", "no key file"),
        ("kind: scheduler", "needs the key address"),
        (SLURM.replace("cores: 4\n", ""), "needs the key cores"),
        (SLURM + "adapt: {maximum: 4}", "use either workers: 4 or adapt"),
        ("kind: local", "use either workers: 4 or adapt"),
        ("{kind: local, workers: many}", "workers is 'many'; use a whole number"),
        ("{kind: local, workers: 0}", "workers is '0'; use a whole number of at least 1"),
        ("{kind: local, workers: [2]}", "workers is .*; use a whole number"),
        ("{kind: local, workers: 2, memory: 8}", "memory is '8'; use an amount with its unit"),
        ("{kind: local, workers: 2, memory: lots}", "memory is 'lots'"),
        ("{kind: local, workers: 2, memory: ' '}", "memory is ' '; use an amount"),
        ("{kind: local, workers: 2, wait: ' '}", "wait is ' '; use a time"),
        ("{kind: local, workers: 2, wait: soon}", "wait is 'soon'; use a time"),
        ("{kind: local, adapt: 4}", "adapt is '4'; use {minimum: 1, maximum: 8}"),
        ("{kind: local, adapt: {minimum: 2}}", "adapt is .*; use {minimum: 1, maximum: 8}"),
        ("{kind: local, adapt: {minimum: 3, maximum: 2}}", "adapt has a maximum of 2 below"),
        ("{kind: local, adapt: {minimum: 0, maximum: 2}}", "adapt is '0'"),
        (SLURM + "gpus: 4", "gpus is '4'; use 0 or 1: a job drives one GPU"),
        (SLURM + "queue:", "queue is ''; use a text"),
        (SLURM + "prologue: module load cuda", "prologue is .*; use a list"),
        (SLURM.replace("12:00:00", "long"), "walltime is 'long'; use a time like 12:00:00"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(write: WriteFile, text: str, message: str) -> None:
    file = write(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_cluster_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read \(No such file"):
        read_cluster_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("12:00:00", 43200),
        ("2-00", 172800),
        ("1-12:30", 131400),
        ("1-0:0:1", 86401),
    ],
)
def test_wall_times_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "1:2:3:4", "-1", "1-", "12h"])
def test_other_texts_are_no_wall_times(text: str) -> None:
    with pytest.raises(ValueError, match="use a time like"):
        walltime_seconds(text)


def test_which_workers_have_a_gpu_is_known_before_they_start() -> None:
    assert offers_gpu(CudaSettings())
    assert offers_gpu(slurm(gpus=1))
    assert not offers_gpu(slurm())
    assert not offers_gpu(LocalSettings(workers=1))


def test_a_job_with_a_gpu_is_one_process_that_offers_it() -> None:
    options = cluster_options(slurm(gpus=1, directives=("--qos=long",)))
    assert options["processes"] == 1
    assert options["cores"] == 4  # threads of the one process
    assert options["job_extra_directives"] == ["--gres=gpu:1", "--qos=long"]
    assert "--resources GPU=1" in " ".join(options["worker_extra_args"])


def test_a_job_without_a_gpu_is_a_process_a_core() -> None:
    options = cluster_options(slurm())
    assert options["processes"] == options["cores"] == 4
    assert "--resources" not in options["worker_extra_args"]


def test_a_directive_for_gpus_replaces_ours() -> None:
    options = cluster_options(slurm(gpus=1, directives=("--gpus=a100:1",)))
    assert options["job_extra_directives"] == ["--gpus=a100:1"]


@pytest.mark.parametrize(("walltime", "lifetime"), [("12:00:00", "42900s"), ("0:100", "90s")])
def test_a_worker_leaves_before_its_job_is_killed(walltime: str, lifetime: str) -> None:
    arguments = cluster_options(slurm(walltime=walltime))["worker_extra_args"]
    assert arguments[arguments.index("--lifetime") + 1] == lifetime


def test_slurm_without_sbatch_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"cluster\.yaml: .* the program sbatch is missing"):
        check_slurm(slurm())


def test_a_job_that_sbatch_refuses_is_an_error_with_its_words(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(UsageError, match=r"cluster\.yaml: this job cannot.*invalid account"):
        check_slurm(slurm(log_folder=str(tmp_path / "logs")))


def test_a_job_that_a_test_of_sbatch_takes_is_not_submitted(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("sbatch", f"echo $1 >>{tmp_path}/asked; cp $2 {tmp_path}/job.sh")
    check_slurm(slurm(gpus=1, queue="gpu", log_folder=str(tmp_path / "logs")))
    assert (tmp_path / "asked").read_text() == "--test-only\n"
    job = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -p gpu\n" in job
    assert "#SBATCH --gres=gpu:1\n" in job
    assert "#SBATCH -t 12:00:00\n" in job


def test_a_job_that_only_has_to_wait_is_tried_with_one_that_does_nothing_and_is_cancelled(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    refuses = "[ $1 != --test-only ] || { echo 'nodes are drained' >&2; exit 1; }"
    command("sbatch", f"{refuses}; cp $3 {tmp_path}/job.sh; echo '17;main'")
    command("scancel", f"echo $1 >{tmp_path}/cancelled")
    check_slurm(slurm(log_folder=str(tmp_path / "logs")))
    assert (tmp_path / "cancelled").read_text() == "17\n"
    lines = (tmp_path / "job.sh").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["exit 0"]


def test_what_squeue_says_is_told_in_a_few_words(command: Callable[[str, str], None]) -> None:
    command("squeue", "printf '11|PENDING|Priority\\n12|PENDING|Priority\\n13|RUNNING|None\\n'")
    states = job_states(["11", "12", "13", "14"])
    assert states[2:] == [JobState("13", "RUNNING", "None"), JobState("14", "GONE", "unknown")]
    assert describe(states) == "jobs 11 to 14: 2 PENDING (Priority), 1 RUNNING, 1 GONE (unknown)"
    assert describe([]) == "no job was submitted"
    assert [state.on_its_way for state in states] == [True, True, True, False]


def test_jobs_that_squeue_has_forgotten_are_gone(command: Callable[[str, str], None]) -> None:
    command("squeue", "echo 'Invalid job id specified' >&2; exit 1")
    assert job_states(["11"]) == [JobState("11", "GONE", "unknown")]


@pytest.mark.parametrize(
    ("module", "settings", "extra"),
    [
        ("dask_jobqueue.slurm", slurm(), "slurm"),
        ("dask_cuda", CudaSettings(file="cluster.yaml"), "cuda"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module: str,
    settings: Any,
    extra: str,
    command: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command("sbatch", "exit 0")
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UsageError, match=rf'pip install "embedseg-large\[{extra}\]"'),
        cluster_client(settings, "cuda" if extra == "cuda" else "cpu"),
    ):
        pass


def test_cuda_on_jobs_without_gpus_is_an_error() -> None:
    with (
        pytest.raises(UsageError, match="device is cuda, but gpus is 0; set gpus: 1"),
        cluster_client(slurm(), "cuda"),
    ):
        pass


@pytest.mark.parametrize(
    ("asked", "used"), [({}, "cuda"), ({"device": None}, "cuda"), ({"device": "cpu"}, "cpu")]
)
def test_the_gpus_of_workers_are_used_unless_another_device_is_asked_for(
    tmp_path: Path, asked: dict[str, Any], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*given: Any) -> None:
        raise UsageError(f"device is {given[-1].device}")

    monkeypatch.setattr("embedseg_large.segmentation.segment.prepare", prepare)
    (tmp_path / "gpus.yaml").write_text("kind: cuda\n")
    with pytest.raises(UsageError, match=f"device is {used}"):
        segment("embryo.ome.zarr", cluster_config=tmp_path / "gpus.yaml", **asked)


def in_this_process(**options: Any) -> LocalCluster:
    """A cluster without processes, which are slow to start."""
    known = {key: options[key] for key in ("n_workers", "threads_per_worker", "resources")}
    return LocalCluster(processes=False, dashboard_address=":0", **known)


def test_a_cuda_worker_offers_its_gpu_and_has_threads_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dask_cuda = ModuleType("dask_cuda")
    dask_cuda.LocalCUDACluster = in_this_process  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", dask_cuda)
    with cluster_client(CudaSettings(workers=2, threads=3), "cuda") as client:
        info = client.scheduler_info()["workers"].values()
        assert [(w["nthreads"], w["resources"]) for w in info] == [(3, {"GPU": 1})] * 2


def test_a_machine_without_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(**_: Any) -> None:
        raise RuntimeError("CUDA driver\nnot found")

    dask_cuda = ModuleType("dask_cuda")
    dask_cuda.LocalCUDACluster = no_driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", dask_cuda)
    with (
        pytest.raises(UsageError, match="no worker on a GPU: RuntimeError: CUDA driver not found"),
        cluster_client(CudaSettings(), "cuda"),
    ):
        pass


def work_until(client: Client, number: int, seconds: float = 20) -> None:
    """Show the scheduler two short tasks at a time until it has so many workers."""
    deadline = time.monotonic() + seconds
    tasks: list[Any] = []
    while len(client.nthreads()) < number and time.monotonic() < deadline:
        tasks = [task for task in tasks if not task.done()]
        tasks += [client.submit(time.sleep, 0.2, pure=False) for _ in range(2 - len(tasks))]
        time.sleep(0.05)


def test_local_workers_grow_at_once_to_the_maximum_though_few_tasks_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "LocalCluster", in_this_process)
    settings = LocalSettings(adapt=Adapt(minimum=1, maximum=3))
    with cluster_client(settings, "cpu") as client:
        assert len(client.nthreads()) == 1
        work_until(client, 3)
        assert len(client.nthreads()) == 3


def test_local_workers_that_do_not_start_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(**_: Any) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(clusters, "LocalCluster", fails)
    settings = chosen(WorkerOptions(workers=2))
    assert isinstance(settings, LocalSettings)
    with (
        pytest.raises(RunError, match=r"^workers \(--workers\): no worker starts: RuntimeError"),
        cluster_client(settings, "cpu"),
    ):
        pass


def test_a_worker_near_its_memory_limit_is_not_paused() -> None:
    """It would wait for ever: what fills it are no results that somebody could fetch."""
    with cluster_client(LocalSettings(workers=1), "cpu") as client:
        (found,) = client.run(lambda: dask.config.get("distributed.worker.memory")).values()
        assert (found["target"], found["spill"], found["pause"]) == (False, False, False)
        assert found["terminate"] > 0


def test_what_goes_wrong_at_the_end_of_a_cluster_hides_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(LocalCluster):
        def __exit__(self, *_: object) -> None:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]
            raise TimeoutError("workers that died do not answer")

    def stubborn(**_: Any) -> LocalCluster:
        options: dict[str, Any] = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
        return Stubborn(**options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(clusters, "LocalCluster", stubborn)
    with cluster_client(LocalSettings(workers=1), "cpu") as client:
        found = client.submit(abs, -1).result()
    assert found == 1
    assert "did not shut down cleanly (TimeoutError: workers that died" in caplog.text
    with pytest.raises(RunError, match="the disk"), cluster_client(LocalSettings(workers=1), "cpu"):
        raise RunError("the disk is full")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "nonsense",
            r"^scheduler \(--scheduler\): nonsense is not the address of a Dask sch",
        ),
        ("tcp://127.0.0.1:1", r"no Dask scheduler responds at tcp://127.0.0.1:1 within 1 s; check"),
    ],
)
def test_a_scheduler_that_is_not_there_is_told_without_names_of_exceptions(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 1)
    settings = chosen(WorkerOptions(scheduler=address))
    assert isinstance(settings, SchedulerSettings)
    with pytest.raises(UsageError, match=message) as told, cluster_client(settings, "cpu"):
        pass
    assert "Error" not in str(told.value)
    assert dask.config.get("scheduler", None) is None  # of other work of this process


def test_several_places_for_the_work_are_named_as_they_are_on_the_command_line() -> None:
    with pytest.raises(UsageError, match=r"^workers \(--workers\), cluster_config \(--cluster-c"):
        chosen(WorkerOptions(workers=2, cluster_config="slurm.yaml"))


def test_workers_of_a_scheduler_are_used_and_left_alone() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        settings = SchedulerSettings(address=cluster.scheduler_address)
        for _ in range(2):
            with cluster_client(settings, "cpu") as client:
                assert client.submit(abs, -1).result() == 1


def test_a_scheduler_without_workers_is_waited_for_and_then_an_error() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        settings = SchedulerSettings(address=cluster.scheduler_address, wait=0.2)
        with (
            pytest.raises(RunError, match=r"no worker started within \d s: its scheduler has none"),
            cluster_client(settings, "cpu"),
        ):
            pass
