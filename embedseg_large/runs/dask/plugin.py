"""The plugin that holds the network once per Dask worker."""

from __future__ import annotations

from threading import Lock
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from embedseg_large.runs.dask.batching import Bundle
from embedseg_large.runs.resources import ResourceSpec
from embedseg_large.runs.tasks import Done, Failed, perform


class NetworkPlugin(WorkerPlugin):
    """Loads the network when a worker joins, and keeps it for the run."""

    idempotent = True

    def __init__(self, key: str, spec: ResourceSpec) -> None:
        self.name = key
        self.spec = spec
        self._network: Any = None
        self._loading = Lock()

    def setup(self, worker: Worker) -> None:
        """Do nothing yet: a worker that only clusters never loads the network."""

    def network(self) -> Any:
        """The network of this worker, loaded by the first task that needs it."""
        with self._loading:
            if self._network is None:
                self._network = self.spec.load()
        return self._network

    def __reduce__(self) -> tuple[Any, ...]:
        return NetworkPlugin, (self.name, self.spec)


def perform_on_worker(bundle: Bundle, plugin: str) -> list[Done | Failed]:
    """Execute calls on the worker to which they were sent, one after another.

    Failures are returned as values: Dask would log and retry raised exceptions.
    """
    worker = get_worker()
    found = worker.plugins[plugin]
    assert isinstance(found, NetworkPlugin)
    return [perform(call, found.network)._replace(worker=str(worker.name)) for call in bundle.calls]
