"""Workers as Slurm jobs: the job to request, whether sbatch accepts it, and its state."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedseg_large.errors import RunError, UsageError
from embedseg_large.extras import extra
from embedseg_large.runs.dask.cluster_file import SlurmSettings
from embedseg_large.runs.dask.malloc import prologue_of_job

JOB_NAME = "embedseg-large"
COMMAND_SECONDS = 60
"""Seconds that a Slurm command may take: a busy controller responds slowly."""
WALLTIME_MARGIN = 300
"""Seconds before the end of its job at which a worker exits; a tenth of the time for short jobs."""

_GPU_OPTIONS = ("--gres", "--gpus", "-G")
_ON_THEIR_WAY = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}


@dataclass(frozen=True)
class JobState:
    """One line of squeue."""

    job: str
    state: str
    """PENDING, RUNNING, FAILED, ..., or GONE if Slurm no longer knows the job."""
    reason: str
    """Why it is pending or failed: Priority, Resources, NonZeroExitCode, ..."""

    @property
    def on_its_way(self) -> bool:
        """Whether it may still yield a worker."""
        return self.state in _ON_THEIR_WAY


def check_slurm(settings: SlurmSettings) -> None:
    """Refuse jobs that cannot be submitted, before anything is started.

    ``sbatch --test-only`` also refuses jobs that would only have to wait, for example while all
    nodes are drained. A refused job is therefore submitted as a job that does nothing, and
    cancelled at once. (A job on hold would be accepted even if no node has the memory that it
    requests.)

    Raises
    ------
    UsageError
        If there is no sbatch, dask-jobqueue is not installed, or sbatch refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            f"{settings.file}: kind is slurm, but the program sbatch is missing; run this on a "
            "machine that can submit jobs, or choose another kind"
        )
    script = _idle_script(_job_script(settings))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "check.sh"
        file.write_text(script, encoding="utf-8")
        with suppress(RunError):
            _run("sbatch", "--test-only", str(file))
            return
        try:
            answer = _run("sbatch", "--parsable", "--output=/dev/null", str(file))
        except RunError as error:
            raise UsageError(f"{settings.file}: this job cannot be submitted: {error}") from error
    _run("scancel", answer.split(";")[0])  # JOB, or JOB;CLUSTER


def cluster_options(settings: SlurmSettings) -> dict[str, Any]:
    """Keywords of `dask_jobqueue.SLURMCluster`.

    Paths become absolute: Slurm does not understand ``~``. Missing settings may come from the
    site's Dask configuration (``jobqueue.slurm``).
    """
    single = settings.gpus > 0
    given = {
        "queue": settings.queue,
        "account": settings.account,
        "python": settings.python,
        "interface": settings.interface,
        "local_directory": settings.local_folder,
        "job_script_prologue": prologue_of_job(settings.prologue),
        "job_extra_directives": _directives(settings) or None,
    }
    return {
        "cores": settings.cores,
        "processes": 1 if single else settings.cores,
        "memory": settings.memory,
        "walltime": settings.walltime,
        "job_name": JOB_NAME,
        "log_directory": str(Path(settings.log_folder).expanduser().absolute()),
        "worker_extra_args": _worker_arguments(settings),
        **{key: value for key, value in given.items() if value is not None},
    }


def job_states(jobs: list[str]) -> list[JobState]:
    """The output of squeue for jobs, including ended ones as long as Slurm remembers them."""
    if not jobs:
        return []
    try:
        answer = _run(
            "squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"
        )
    except RunError:  # squeue fails if it knows none of the jobs
        answer = ""
    known = {line.split("|")[0]: line.split("|") for line in answer.splitlines()}
    return [JobState(*known.get(job, [job, "GONE", "unknown"])) for job in jobs]


def describe(states: list[JobState]) -> str:
    """Summarise the states of jobs: ``jobs 11 to 14: 3 PENDING (Priority), 1 RUNNING``."""
    if not states:
        return "no job was submitted"
    counts = Counter(
        f"{s.state} ({s.reason})" if s.reason != "None" else s.state for s in states
    ).most_common()
    parts = ", ".join(f"{number} {what}" for what, number in counts)
    jobs = f"jobs {states[0].job} to {states[-1].job}" if states[1:] else f"job {states[0].job}"
    return f"{jobs}: {parts}"


def _directives(settings: SlurmSettings) -> list[str]:
    """Options of sbatch beyond those that dask-jobqueue writes."""
    asks = any(line.startswith(_GPU_OPTIONS) for line in settings.directives)
    ours = ["--gres=gpu:1"] if settings.gpus and not asks else []
    return [*ours, *settings.directives]


def _worker_arguments(settings: SlurmSettings) -> list[str]:
    """Arguments of the worker: it exits cleanly before Slurm would kill it."""
    seconds = settings.walltime_seconds
    lifetime = seconds - min(WALLTIME_MARGIN, seconds // 10)
    gpu = ["--resources", "GPU=1"] if settings.gpus else []
    return ["--no-dashboard", "--lifetime", f"{lifetime}s", *gpu]


def _job_script(settings: SlurmSettings) -> str:
    with extra("slurm", f"{settings.file}: kind slurm"):
        from dask_jobqueue.slurm import SLURMJob
    job = SLURMJob("tcp://scheduler:8786", name=JOB_NAME, **cluster_options(settings))
    return str(job.job_script())


def _idle_script(script: str) -> str:
    """A script that requests the same resources, and does nothing."""
    asks = [line for line in script.splitlines() if line.startswith("#")]
    return "\n".join([*asks, "exit 0", ""])


def _run(*command: str) -> str:
    """Run a Slurm command, and return its output.

    Raises
    ------
    RunError
        With its message, if it fails or takes too long.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise RunError(" ".join(done.stderr.split()) or f"{command[0]} exits {done.returncode}")
    return done.stdout.strip()
