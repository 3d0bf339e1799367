"""A Dask client of the workers that a settings file asks for.

A worker with a GPU is *one* process that offers the resource ``GPU=1`` and has several threads.
Prediction tasks request a share of it: a few of them run concurrently, one of them on the GPU,
which holds one network. Meanwhile the other threads cluster and finish other tiles, which needs no
GPU. Separate workers for the two kinds of work would have to be balanced by hand, for every model
and image.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import dask
from distributed import Adaptive, Client, LocalCluster

from embedseg_large.errors import RunError, UsageError, cause
from embedseg_large.extras import extra
from embedseg_large.runs.dask.cluster_file import (
    Adapt,
    ClusterSettings,
    CudaSettings,
    LocalSettings,
    SchedulerSettings,
    SlurmSettings,
    offers_gpu,
    read_cluster_file,
)
from embedseg_large.runs.dask.malloc import allocator_set
from embedseg_large.runs.dask.slurm import (
    check_slurm,
    cluster_options,
    describe,
    job_states,
)
from embedseg_large.runs.devices import is_gpu

__all__ = ["ClusterSettings", "cluster_client", "offers_gpu", "read_cluster_file"]

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10
POLL_SECONDS = 0.5
NEWS_SECONDS = (15, 60)
"""Seconds until the reason why no worker has come is first reported, and between later reports."""
IDLE_CHECKS = 60
"""Idle seconds after which adaptive scaling releases a worker: queueing for a new one takes longer
than the gaps between stages."""

NEVER_PAUSED = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")}
"""A worker that Dask pauses near its limit waits until results are fetched. Our
workers hold only records, but their allocator may retain freed memory: they would wait forever. A
worker that exceeds its limit is restarted.
"""

Started = TypeVar("Started")
LaunchStatus = Callable[[], tuple[bool, str]]
"""Returns whether a worker may still come, and what is known about it."""


class EagerAdaptive(Adaptive):
    """Requests the maximum as soon as there is more work than workers.

    The engine shows the scheduler a bounded number of its tasks, so their number does not show how
    many are left, and growing step by step would queue for jobs step by step.
    """

    async def target(self) -> int:
        """Number of workers that should be there."""
        wanted: int = await super().target()  # type: ignore[no-untyped-call]  # not annotated
        return int(self.maximum) if wanted > len(self.observed) else wanted


@contextmanager
def cluster_client(settings: ClusterSettings, device: str) -> Iterator[Client]:
    """Start the requested workers, and stop them at the end.

    Parameters
    ----------
    settings
        The result of `read_cluster_file`.
    device
        ``cpu`` or ``cuda``: device of the network.

    Yields
    ------
    Client
        With at least one worker; others may still be on their way.

    Raises
    ------
    UsageError
        If the request cannot be met: no sbatch, a missing package, no scheduler that responds, no
        GPU for ``cuda``. Nothing has been started then.
    RunError
        If no worker came within ``settings.wait`` seconds; the message states what the jobs are
        waiting for.
    """
    _check_device(settings, device)
    if isinstance(settings, SchedulerSettings):
        with _connected(settings) as client:
            _wait_for_worker(client, settings, lambda: (True, "its scheduler has none"))
            yield client
        return
    with (
        allocator_set(),
        dask.config.set(NEVER_PAUSED),
        ended(_started(settings, device), "the cluster") as cluster,
        ended(Client(cluster), "the client of the cluster") as client,
    ):
        _wait_for_worker(client, settings, _launch_status(settings, cluster))
        yield client


@contextmanager
def ended(started: AbstractContextManager[Started], name: str) -> Iterator[Started]:
    """Close something of Dask, and never let its errors hide the outcome of the body."""
    entered = started.__enter__()
    try:
        yield entered
    finally:
        try:
            started.__exit__(None, None, None)
        except Exception as error:  # from dead workers, or jobs that were never submitted
            logger.warning("%s did not shut down cleanly (%s)", name, cause(error))


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started within the context ignore Ctrl-C, which a terminal sends to all of them.

    This process alone decides what an interrupt means; workers would each print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_device(settings: ClusterSettings, device: str) -> None:
    wants_gpu = device.startswith("cuda")
    if wants_gpu and isinstance(settings, SlurmSettings) and not settings.gpus:
        raise UsageError(
            f"{settings.file}: device is {device}, but gpus is 0; set gpus: 1, or choose cpu"
        )
    if not wants_gpu and offers_gpu(settings):
        logger.warning("%s asks for GPUs, but the device is %s", settings.file, device)


def _started(settings: ClusterSettings, device: str) -> AbstractContextManager[Any]:
    """The cluster of settings, on its way up."""
    if isinstance(settings, SlurmSettings):
        return _slurm(settings)
    if isinstance(settings, CudaSettings):
        return _cuda(settings)
    assert isinstance(settings, LocalSettings)
    return _local(settings, device)


def _local(settings: LocalSettings, device: str) -> LocalCluster:
    first = settings.workers or (settings.adapt.minimum if settings.adapt else 1)
    memory = {} if settings.memory is None else {"memory_limit": settings.memory}
    try:
        with interrupts_ignored():
            cluster = LocalCluster(
                n_workers=first,
                threads_per_worker=settings.threads,
                processes=True,
                dashboard_address=":0",  # any free port: 8787 may be taken
                resources={"GPU": 1} if is_gpu(device) else None,
                **memory,
            )
    except (OSError, RuntimeError) as error:
        raise RunError(f"{settings.file}: no worker starts: {cause(error)}") from error
    if settings.adapt:
        _adapt(cluster, settings.adapt)
    return cluster


def _cuda(settings: CudaSettings) -> AbstractContextManager[Any]:
    """One process per GPU; dask-cuda sets CUDA_VISIBLE_DEVICES for each."""
    with extra("cuda", f"{settings.file}: kind cuda"):
        from dask_cuda import LocalCUDACluster
    memory = {} if settings.memory is None else {"memory_limit": settings.memory}
    try:
        with interrupts_ignored():
            cluster: AbstractContextManager[Any] = LocalCUDACluster(
                n_workers=settings.workers,
                threads_per_worker=settings.threads,
                dashboard_address=":0",
                resources={"GPU": 1},
                **memory,
            )
    except Exception as error:  # the driver library raises its own exceptions
        raise UsageError(f"{settings.file}: no worker on a GPU: {cause(error)}") from error
    return cluster


def _slurm(settings: SlurmSettings) -> AbstractContextManager[Any]:
    check_slurm(settings)
    from dask_jobqueue.slurm import SLURMCluster

    from embedseg_large.runs.dask.slurm_job import SlurmBatchJob

    try:
        options: dict[str, Any] = {
            "job_cls": SlurmBatchJob,
            "scheduler_options": {"dashboard_address": ":0"},
        }
        cluster = SLURMCluster(**cluster_options(settings), **options)
    except (OSError, ValueError, RuntimeError) as error:  # no such interface, for instance
        raise UsageError(f"{settings.file}: no Dask scheduler: {cause(error)}") from error
    # A fixed number is adapted too: this replaces jobs that reach their wall time.
    jobs = settings.adapt or Adapt(minimum=settings.workers or 1, maximum=settings.workers or 1)
    cluster.scale(jobs=jobs.minimum)
    processes = 1 if settings.gpus else settings.cores
    _adapt(cluster, Adapt(minimum=jobs.minimum * processes, maximum=jobs.maximum * processes))
    return cluster


def _adapt(cluster: Any, limits: Adapt) -> None:
    cluster.adapt(
        Adaptive=EagerAdaptive,
        minimum=limits.minimum,
        maximum=limits.maximum,
        target_duration="100ms",  # any waiting task is reason enough
        interval="1s",
        wait_count=IDLE_CHECKS,
    )


@contextmanager
def _connected(settings: SchedulerSettings) -> Iterator[Client]:
    try:
        # not the default client: one with a wrong address would remain in Dask's configuration
        client = Client(settings.address, timeout=CONNECT_SECONDS, set_as_default=False)
    except ValueError as error:
        raise UsageError(
            f"{settings.file}: {settings.address} is not the address of a Dask scheduler; use the "
            "form that the scheduler prints, like tcp://10.0.0.1:8786"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{settings.file}: no Dask scheduler responds at {settings.address} within "
            f"{CONNECT_SECONDS} s; check that it is running and reachable from this machine"
        ) from error
    with client:
        yield client


def _launch_status(settings: ClusterSettings, cluster: Any) -> LaunchStatus:
    """What is known about missing workers."""
    if not isinstance(settings, SlurmSettings):
        return lambda: (True, "its processes do not start")

    def ask() -> tuple[bool, str]:
        jobs = list(cluster.workers.values())
        states = job_states([job.job_id for job in jobs if job.job_id])
        refusals = [job.refusal for job in jobs if job.refusal]
        if refusals and not states:
            raise UsageError(f"{settings.file}: this job cannot be submitted: {refusals[0]}")
        may_come = not states or any(state.on_its_way for state in states)
        return may_come, f"{describe(states)}; logs of jobs are in {settings.log_folder}"

    return ask


def _wait_for_worker(client: Client, settings: ClusterSettings, status: LaunchStatus) -> None:
    """Wait until a worker is available.

    Raises
    ------
    RunError
        If none came in time, or none can come any more.
    """
    began = time.monotonic()
    next_news = min(NEWS_SECONDS[0], settings.wait)
    logger.info("waiting up to %.0f s for the first worker", settings.wait)
    while not client.nthreads():
        waited = time.monotonic() - began
        if waited >= next_news:
            next_news = min(waited + NEWS_SECONDS[1], settings.wait)
            may_come, news = status()
            logger.warning("no worker after %.0f s: %s", waited, news)
            if not may_come:
                raise RunError(f"{settings.file}: no worker started, and none will: {news}")
            if waited >= settings.wait:
                raise RunError(
                    f"{settings.file}: no worker started within {waited:.0f} s: {news}; raise the "
                    "key "
                    "wait if it only needs more time"
                )
        time.sleep(POLL_SECONDS)
    logger.info("the first worker started after %.1f s", time.monotonic() - began)
