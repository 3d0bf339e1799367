"""Networks on their devices, here and on workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import quantise
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.devices import is_gpu
from embedseg_large.runs.runner import OverlappingExecutor, SerialExecutor
from embedseg_large.segmentation.segmenters.protocol import Network, Predictor
from embedseg_large.storage.folder import Folder


class OneAtATime:
    """Something that several threads share but only one enters at a time, such as a network.

    A tile fills a GPU and its memory; the work before and after prediction needs neither. So a task
    leaves the model before its output is converted for storage, which takes as long as reading a
    tile.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._entered = Lock()

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str, **quiet: Any
    ) -> NDArray[np.float16]:
        """Predict a tile while no other tile is being predicted."""
        from embedseg_large.network.model import Model

        with self._entered:
            if not isinstance(self._network, Model):
                stored: NDArray[np.float16] = self._network.predict_tile(
                    image, region, tta, **quiet
                )
                return stored
            raw = self._network.predict_raw(image, tta, **quiet)
        return quantise(raw, self._network.pitch)

    def label_tile(self, image: NDArray[np.float32], region: Box) -> NDArray[Any]:
        """Label a tile while no other tile is being labelled."""
        with self._entered:
            labels: NDArray[Any] = self._network.label_tile(image, region)
            return labels


def place(network: Network, *, device: str, dtype: str, lanes: int | None = None) -> Network:
    """Put a model on a device; stand-ins in tests are returned unchanged."""
    from embedseg_large.network.model import Model

    if isinstance(network, Model):
        return network.to(device=device, dtype=dtype, lanes=lanes)
    return network


def choose_device(network: Network, asked: str | None) -> str:
    """The requested device, or the best one here for a model."""
    from embedseg_large.network.device import default_device
    from embedseg_large.network.model import Model

    if asked is not None:
        return asked
    return default_device() if isinstance(network, Model) else "cpu"


def choose_dtype(network: Network, device: str, asked: str | None) -> str:
    """The requested number format, or the fastest one that does not change a model's labels.

    Raises
    ------
    UsageError
        If the format or the device does not exist.
    """
    from embedseg_large.network.device import default_dtype
    from embedseg_large.network.model import DTYPES, Model

    if asked is not None and asked not in DTYPES:
        raise UsageError(f"dtype is {asked!r}; use one of {', '.join(DTYPES)}")
    if asked is not None:
        return asked
    return default_dtype(device) if isinstance(network, Model) else "float32"


_MODEL = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How a worker obtains the network.

    A model is a file in the run's scratch folder; anything else is pickled, once per worker.
    """

    folder: Folder | None
    network: Network | None
    device: str
    dtype: str

    def load(self) -> Predictor:
        """The network, on its device; on a GPU, tasks enter it one at a time.

        On a CPU each pass has one thread, and tasks use the network concurrently.
        """
        network = self.placed()
        return OneAtATime(network) if is_gpu(self.device) else network

    def placed(self) -> Network:
        """The network, on its device."""
        if self.folder is None:
            assert self.network is not None
            return place(self.network, device=self.device, dtype=self.dtype)
        from embedseg_large.network.checkpoint import load_model

        with TemporaryDirectory() as temporary:
            file = Path(temporary, _MODEL)
            file.write_bytes(self.folder.read(_MODEL))
            return load_model(file).to(device=self.device, dtype=self.dtype, lanes=1)


def network_spec(network: Network, device: str, dtype: str, folder: Folder) -> NetworkSpec:
    """Return a spec for workers; a model is written into `folder`, which all workers can access."""
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
        device=device,
        dtype=dtype,
    )


def executor_here(resource: Any, device: str, at_once: Callable[[], int]) -> SerialExecutor:
    """Return the executor of this process, for a resource on a device.

    Parameters
    ----------
    resource
        The resource passed to tasks, on its device.
    device
        The device.
    at_once
        Returns the number of concurrent tiles on a CPU with several cores. Called only if their
        passes can share the cores: one tile alone does not keep all of them busy.
    """
    if is_gpu(device):
        return OverlappingExecutor(OneAtATime(resource))
    lanes = getattr(resource, "lanes", 1)
    tiles = min(at_once(), lanes) if lanes > 1 else 1
    return (
        OverlappingExecutor(resource, tiles, _sharing_lanes)
        if tiles > 1
        else SerialExecutor(resource)
    )


@contextmanager
def _sharing_lanes(resource: Any) -> Iterator[Any]:
    from embedseg_large.network.lanes import Lanes

    with Lanes(resource.lanes) as lanes:
        yield resource.sharing(lanes)
