"""A job of dask-jobqueue that handles a refusal by sbatch.

In dask-jobqueue such a job fails in a callback, which logs a traceback and leaves the cluster in a
state from which it cannot be closed. Import this only if dask-jobqueue is installed.
"""

from __future__ import annotations

import logging
from typing import Any

from dask_jobqueue.slurm import SLURMJob
from distributed.core import Status

logger = logging.getLogger(__name__)


class SlurmBatchJob(SLURMJob):
    """One job, with at least one worker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]  # not annotated
        self.refusal: str | None = None
        """The message of sbatch, if it refused the job."""

    async def start(self) -> None:
        """Submit the job; a refused one counts as started, but yields no worker."""
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
            self.status = Status.closed  # required by the cluster


def _words_of_sbatch(error: RuntimeError) -> str:
    """What dask-jobqueue reports of stderr, after the command and its exit code."""
    text = str(error)
    return " ".join((text.partition("stderr:")[2] or text).split())
