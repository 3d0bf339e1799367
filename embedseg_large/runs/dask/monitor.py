"""Availability of workers, which come and go, and of the scheduler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from math import inf

from distributed import Client, LocalCluster

from embedseg_large.errors import RunError
from embedseg_large.runs.events import Event, WorkersBack, WorkersGone

COUNT_SECONDS = 2.0
"""Seconds between counts of the workers."""
RESTART_SECONDS = 60.0
"""Seconds for which all workers of this machine may be gone. A nanny restarts a worker in a few
seconds; workers of another machine may return whenever it does."""
LOST = (OSError, TimeoutError, RuntimeError, CancelledError)
"""Exceptions of a client whose scheduler is gone."""

logger = logging.getLogger(__name__)


class Workforce:
    """The workers of a client, counted regularly."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_local = isinstance(client.cluster, LocalCluster)
        self._threads = 0
        self._counted = -inf
        self._alone_since: float | None = None

    @property
    def size(self) -> int:
        """Number of tasks that run at a time; at least 1, because workers may return."""
        self._count()
        return max(1, self._threads)

    def look(self, tell: Callable[[Event], None]) -> None:
        """Report when the last worker is gone, and when workers are back.

        Raises
        ------
        RunError
            If all workers of this machine are gone permanently.
        """
        if self._client.status != "running":
            return  # it reconnects, or is about to cancel its tasks
        self._count()
        if self._threads == 0 and self._alone_since is None:
            self._alone_since = time.monotonic()
            logger.warning("all workers are gone; waiting for others, or for these to come back")
            tell(WorkersGone())
        elif self._threads > 0 and self._alone_since is not None:
            seconds = time.monotonic() - self._alone_since
            self._alone_since = None
            logger.warning("workers are back after %.0f s; the run continues", seconds)
            tell(WorkersBack(threads=self._threads, seconds=round(seconds, 1)))
        elif self._alone_since is not None and self._is_local:
            _give_up_after(time.monotonic() - self._alone_since)

    def _count(self) -> None:
        """Count the threads of all workers, if that was not done just now, or there were none."""
        now = time.monotonic()
        if self._threads == 0 or now - self._counted > COUNT_SECONDS:
            with lost_scheduler():
                self._threads = sum(int(n) for n in self._client.nthreads().values())
            self._counted = now


def _give_up_after(seconds: float) -> None:
    if seconds >= RESTART_SECONDS:
        raise RunError(
            f"all workers of this machine died and did not come back in {seconds:.0f} s, most "
            "likely because they ran out of memory; finished work is kept: rerun the same command "
            "to resume, with fewer workers or smaller tiles (--workers, --tile, --cluster-tile) "
            "if necessary"
        )


@contextmanager
def lost_scheduler() -> Iterator[None]:
    """Turn the exceptions of a client whose scheduler is gone into one line.

    Raises
    ------
    RunError
        Instead of any of these.
    """
    try:
        yield
    except LOST as error:
        raise RunError(
            "the Dask scheduler was lost, or its tasks were cancelled; finished work is kept: "
            "rerun the same command to resume"
        ) from error
