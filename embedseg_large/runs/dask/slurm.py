"""Workers as jobs of Slurm: which job to ask for, whether sbatch takes it, and how it fares."""

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
from embedseg_large.runs.dask.cluster_file import SlurmSettings
from embedseg_large.runs.dask.malloc import prologue_of_job

JOB_NAME = "embedseg-large"
COMMAND_SECONDS = 60
"""How long a command of Slurm may take: a busy controller answers slowly."""
WALLTIME_MARGIN = 300
"""A worker leaves so many seconds before its job would be killed, or a tenth of short jobs."""

_GPU_OPTIONS = ("--gres", "--gpus", "-G")
_ON_THEIR_WAY = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}


@dataclass(frozen=True)
class JobState:
    """One line of squeue."""

    job: str
    state: str
    """PENDING, RUNNING, FAILED, ..., or GONE where Slurm has forgotten the job."""
    reason: str
    """Why it is pending or failed: Priority, Resources, NonZeroExitCode, ..."""

    @property
    def on_its_way(self) -> bool:
        """Whether a worker may still come of it."""
        return self.state in _ON_THEIR_WAY


def check_slurm(settings: SlurmSettings) -> None:
    """Refuse jobs that cannot be submitted, before anything is started.

    ``sbatch --test-only`` refuses as well what would only have to wait, for instance while all
    nodes are drained. So what it refuses is submitted, as a job that does nothing, and cancelled at
    once. (A job on hold would be taken though no node has the memory that it asks for.)

    Raises
    ------
    UsageError
        There is no sbatch, or dask-jobqueue is not installed, or sbatch refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            f"{settings.file}: kind is slurm, but there is no program sbatch; "
            "start this on a machine that can submit jobs, or choose another kind"
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
            raise UsageError(f"{settings.file}: no such job can be submitted: {error}") from error
    _run("scancel", answer.split(";")[0])  # JOB, or JOB;CLUSTER


def cluster_options(settings: SlurmSettings) -> dict[str, Any]:
    """Keywords of `dask_jobqueue.SLURMCluster`.

    Paths become absolute: Slurm does not understand ``~``. What the settings leave open may come
    from the site's own Dask configuration (``jobqueue.slurm``).
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
    """What squeue says of jobs, ended ones included as long as Slurm remembers them."""
    if not jobs:
        return []
    try:
        answer = _run(
            "squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"
        )
    except RunError:  # squeue fails where it knows none of the jobs
        answer = ""
    known = {line.split("|")[0]: line.split("|") for line in answer.splitlines()}
    return [JobState(*known.get(job, [job, "GONE", "unknown"])) for job in jobs]


def describe(states: list[JobState]) -> str:
    """Say in a few words how jobs fare: ``jobs 11 to 14: 3 PENDING (Priority), 1 RUNNING``."""
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
    """Arguments of the worker: it leaves in good order before Slurm would kill it."""
    seconds = settings.walltime_seconds
    lifetime = seconds - min(WALLTIME_MARGIN, seconds // 10)
    gpu = ["--resources", "GPU=1"] if settings.gpus else []
    return ["--no-dashboard", "--lifetime", f"{lifetime}s", *gpu]


def _job_script(settings: SlurmSettings) -> str:
    try:
        from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        raise UsageError(
            f'{settings.file}: kind slurm needs dask-jobqueue; pip install "embedseg-large[slurm]"'
        ) from error
    job = SLURMJob("tcp://scheduler:8786", name=JOB_NAME, **cluster_options(settings))
    return str(job.job_script())


def _idle_script(script: str) -> str:
    """A script that asks for the same, and does nothing."""
    asks = [line for line in script.splitlines() if line.startswith("#")]
    return "\n".join([*asks, "exit 0", ""])


def _run(*command: str) -> str:
    """Run a command of Slurm, and give what it prints.

    Raises
    ------
    RunError
        With what it said, if it fails or takes too long.
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
