"""What lives once on every Dask worker: the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from embedseg_large.engine.network import Network
from embedseg_large.engine.scratch import Scratch
from embedseg_large.engine.settings import SegmentSettings
from embedseg_large.engine.tasks import Done, Task, perform
from embedseg_large.errors import EmbedSegError
from embedseg_large.io.group import output_errors


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How a worker gets the network.

    A model travels as the path of its file; anything else travels itself, once a worker.
    """

    path: str | None
    network: Network | None
    device: str
    dtype: str

    def load(self) -> Network:
        """The network, on its device."""
        if self.network is not None:
            return self.network
        from embedseg_large.network.checkpoint import load_model

        assert self.path is not None
        return load_model(self.path).to(device=self.device, dtype=self.dtype, lanes=1)


@contextmanager
def network_spec(
    network: Network, settings: SegmentSettings, scratch: Scratch
) -> Iterator[NetworkSpec]:
    """A spec for workers; the file of a model lives in the scratch folder, which they all see."""
    from embedseg_large.network.model import Model

    path = None
    try:
        if isinstance(network, Model):
            path = str(Path(scratch.path) / "model.safetensors")
            with output_errors(scratch.path):
                Path(scratch.path).mkdir(parents=True, exist_ok=True)
                network.save(path)
        yield NetworkSpec(
            path=path,
            network=network if path is None else None,
            device=settings.device,
            dtype=settings.dtype,
        )
    finally:
        scratch.remove()


class NetworkPlugin(WorkerPlugin):
    """Loads the network when a worker joins, and keeps it for the run."""

    idempotent = True

    def __init__(self, key: str, spec: NetworkSpec) -> None:
        self.name = key
        self.spec = spec
        self._network: Network | None = None
        self._loading = Lock()

    def setup(self, worker: Worker) -> None:
        """Nothing yet: a worker that only clusters never loads the network."""

    def network(self) -> Network:
        """The network of this worker."""
        with self._loading:
            if self._network is None:
                self._network = self.spec.load()
        return self._network

    def __reduce__(self) -> tuple[Any, ...]:
        return NetworkPlugin, (self.name, self.spec)


@dataclass(frozen=True, slots=True)
class Refused:
    """A task that ended with an error which doing it again would not mend."""

    error: EmbedSegError


def perform_on_worker(task: Task, key: str) -> Done | Refused:
    """Run one task on the worker it was sent to.

    Errors of this package come back as values: Dask would log and retry what it sees raised.
    """
    plugin = get_worker().plugins[key]
    assert isinstance(plugin, NetworkPlugin)
    try:
        return perform(task, plugin.network)
    except EmbedSegError as error:
        return Refused(type(error)(str(error)))  # without the chain behind it, which may not travel
