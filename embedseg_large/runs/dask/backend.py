"""Where work is done: in this process, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dask.system import cpu_count

from embedseg_large.errors import UsageError
from embedseg_large.runs.dask.cluster_file import (
    MOST_WORKERS,
    ClusterSettings,
    LocalSettings,
    SchedulerSettings,
    offers_gpu,
    read_cluster_file,
)
from embedseg_large.runs.options import WorkerOptions

if TYPE_CHECKING:
    from distributed import Client

    from embedseg_large.runs.runner import TaskRunner
    from embedseg_large.runs.tasks import Executor


_WORKERS = "workers (--workers)"
_SCHEDULER = "scheduler (--scheduler)"


def chosen(asked: WorkerOptions) -> Client | ClusterSettings | None:
    """Determine where the work is done: by a client's workers, by those of the settings, or here.

    Raises
    ------
    UsageError
        If several are given, or one cannot be used.
    """
    given = {
        "a client": asked.client,
        _WORKERS: asked.workers,
        _SCHEDULER: asked.scheduler,
        "cluster_config (--cluster-config)": asked.cluster_config,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{', '.join(names)}: pass only one of them")
    if asked.workers is not None and not 1 <= asked.workers <= MOST_WORKERS:
        raise UsageError(
            f"workers is {asked.workers}; pass 1 to {MOST_WORKERS:,}, or leave it out to work in "
            "this process"
        )
    if asked.workers is not None:
        return LocalSettings(file=_WORKERS, workers=asked.workers)
    if asked.scheduler is not None:
        return SchedulerSettings(file=_SCHEDULER, address=asked.scheduler)
    client: Client | None = asked.client
    return client if asked.cluster_config is None else read_cluster_file(asked.cluster_config)


def device_on(where: Client | ClusterSettings | None, asked: str | None) -> str | None:
    """Return the requested device, or else that of the workers, regardless of this machine."""
    if isinstance(where, ClusterSettings) and offers_gpu(where):
        return asked or "cuda"
    return asked


def processes_of(where: Client | ClusterSettings | None) -> int:
    """Return the maximum number of concurrent processes; 1 if unknown.

    Local workers in excess of the cores of this machine merely share them.
    """
    adapt = getattr(where, "adapt", None)
    most = getattr(where, "workers", None) if adapt is None else adapt.maximum
    if isinstance(where, LocalSettings):
        return min(most or 1, cpu_count())
    return most if isinstance(most, int) else 1


def starts_here(where: Client | ClusterSettings | None) -> bool:
    """Whether a run starts workers on this machine."""
    return isinstance(where, LocalSettings)


@contextmanager
def client_of(where: Client | ClusterSettings, device: str) -> Iterator[Client]:
    """The given client, or that of a cluster that is started and closed at the end."""
    from embedseg_large.runs.dask.clusters import cluster_client

    if not isinstance(where, ClusterSettings):
        yield where
        return
    with cluster_client(where, device) as client:
        yield client


@contextmanager
def workers_for(
    where: Client | ClusterSettings, inputs: Sequence[str], places: Sequence[str] = ()
) -> Iterator[Executor]:
    """Provide workers for tasks that need no network.

    Parameters
    ----------
    where
        A client, or the settings of a cluster.
    inputs
        Files and stores that the workers must be able to read.
    places
        Folders that they must be able to write to.

    Raises
    ------
    UsageError
        If they cannot.
    """
    from embedseg_large.runs.dask.executor import executor_on
    from embedseg_large.runs.dask.preflight import check_workers
    from embedseg_large.runs.resources import NoResource

    with client_of(where, "cpu") as client:
        check_workers(client, device="cpu", places=places, needs_gpu=False, inputs=inputs)
        with executor_on(client, NoResource()) as executor:
            yield executor


@contextmanager
def readers_of(paths: Sequence[str | None], workers: WorkerOptions) -> Iterator[TaskRunner | None]:
    """Provide the workers that read images, or None for this process.

    Parameters
    ----------
    paths
        Paths of the images; None for one in this process's memory.
    workers
        Where the work is done.

    Raises
    ------
    UsageError
        If they cannot access an image.
    """
    where = chosen(workers)
    if where is None:
        yield None
        return
    seen = [path for path in paths if path is not None]
    if len(seen) < len(paths):
        raise UsageError("an array in this process's memory is not visible to workers; pass a file")
    from embedseg_large.runs.progress import Progress
    from embedseg_large.runs.runner import TaskRunner

    with workers_for(where, seen) as executor:
        yield TaskRunner(executor, None, Progress())  # the tasks write no files
