"""What lives once on every Dask worker: the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from embedseg_large.runs.dask.batching import Bundle
from embedseg_large.runs.tasks import Done, Failed, perform
from embedseg_large.segmentation.request.settings import SegmentSettings
from embedseg_large.segmentation.segmenters.protocol import (
    Network,
    OneAtATime,
    Predictor,
    is_gpu,
    place,
)
from embedseg_large.storage.folder import Folder

_MODEL = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How a worker gets the network.

    A model is a file in the run's scratch folder; anything else travels itself, once a worker.
    """

    folder: Folder | None
    network: Network | None
    device: str
    dtype: str

    def load(self) -> Network:
        """The network, on its device."""
        if self.folder is None:
            assert self.network is not None
            return place(self.network, device=self.device, dtype=self.dtype)
        from embedseg_large.network.checkpoint import load_model

        with TemporaryDirectory() as temporary:
            file = Path(temporary, _MODEL)
            file.write_bytes(self.folder.read(_MODEL))
            return load_model(file).to(device=self.device, dtype=self.dtype, lanes=1)


def network_spec(network: Network, settings: SegmentSettings, folder: Folder) -> NetworkSpec:
    """A spec for workers; a model is written into `folder`, which they all see."""
    from embedseg_large.network.model import Model

    is_model = isinstance(network, Model)
    if isinstance(network, Model):
        with TemporaryDirectory() as temporary:
            file = Path(temporary, _MODEL)
            network.save(file)
            folder.write(_MODEL, file.read_bytes())
    return NetworkSpec(
        folder=folder if is_model else None,
        network=None if is_model else network,
        device=settings.device,
        dtype=settings.dtype,
    )


class NetworkPlugin(WorkerPlugin):
    """Loads the network when a worker joins, and keeps it for the run."""

    idempotent = True

    def __init__(self, key: str, spec: NetworkSpec) -> None:
        self.name = key
        self.spec = spec
        self._network: Predictor | None = None
        self._loading = Lock()

    def setup(self, worker: Worker) -> None:
        """Nothing yet: a worker that only clusters never loads the network."""

    def network(self) -> Predictor:
        """The network of this worker; on a GPU, its tasks enter it one at a time.

        On a CPU each pass has one thread, and tasks enter the network side by side.
        """
        with self._loading:
            if self._network is None:
                network = self.spec.load()
                self._network = OneAtATime(network) if is_gpu(self.spec.device) else network
        return self._network

    def __reduce__(self) -> tuple[Any, ...]:
        return NetworkPlugin, (self.name, self.spec)


def perform_on_worker(bundle: Bundle, plugin: str) -> list[Done | Failed]:
    """Do calls on the worker they were sent to, one after another.

    Failures come back as values: Dask would log and retry what it sees raised.
    """
    worker = get_worker()
    found = worker.plugins[plugin]
    assert isinstance(found, NetworkPlugin)
    return [perform(call, found.network)._replace(worker=str(worker.name)) for call in bundle.calls]
