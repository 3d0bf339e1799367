"""The serial twin: the same tasks in a loop, without Dask."""

from __future__ import annotations

from dataclasses import dataclass

from embedseg_large.engine.network import Network
from embedseg_large.engine.tasks import Work, perform


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs tasks one after another in this process."""

    network: Network

    def run(self, work: Work) -> None:
        """Do all tasks."""
        while (task := work.next()) is not None:
            work.finished(task, perform(task.call, lambda: self.network))
