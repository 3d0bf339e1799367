"""The serial twin: the same tasks in a loop, without Dask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from embedseg_large.engine.network import Network
from embedseg_large.engine.progress import Progress
from embedseg_large.engine.tasks import Source, Task, perform


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs tasks one after another in this process."""

    network: Network
    progress: Progress

    def run(self, source: Source) -> Iterator[tuple[Task, Any]]:
        """Run all tasks of a source, and give their results as they come."""
        while (task := source.next()) is not None:
            done = perform(task, lambda: self.network)
            self.progress.advance(task.stage, task.voxels, done.seconds)
            source.done(task, done.result)
            yield task, done.result
