"""A job of dask-jobqueue that takes a refusal of sbatch for an answer.

dask-jobqueue lets such a job fail in a callback, which logs a traceback and leaves the cluster in a
state that it cannot be closed from. Import this only where dask-jobqueue is installed.
"""

from __future__ import annotations

import logging
from typing import Any

from dask_jobqueue.slurm import SLURMJob
from distributed.core import Status

logger = logging.getLogger(__name__)


class Job(SLURMJob):
    """One job, with at least one worker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]  # not annotated
        self.refusal: str | None = None
        """What sbatch said, if it did not take the job."""

    async def start(self) -> None:
        """Submit the job; one that is refused counts as started, and no worker comes of it."""
        try:
            await super().start()  # type: ignore[no-untyped-call]  # not annotated
        except RuntimeError as error:
            self.refusal = _words_of_sbatch(error)
            logger.warning("sbatch refuses a job: %s", self.refusal)
            self.status = Status.running

    async def close(self) -> None:
        """Cancel the job."""
        try:
            await super().close()  # type: ignore[no-untyped-call]  # not annotated
        finally:
            self.status = Status.closed  # the cluster insists on it


def _words_of_sbatch(error: RuntimeError) -> str:
    """What dask-jobqueue reports of stderr, after the command and its exit code."""
    text = str(error)
    return " ".join((text.partition("stderr:")[2] or text).split())
