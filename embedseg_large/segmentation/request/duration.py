"""Estimated duration of a run, from the measured rate of the network on this machine.

::

    seconds = network input * passes * seconds per voxel and pass     measured here
              + voxels of the grid * SECONDS_BESIDE                   reading, clustering, writing
              all of it divided by the processes that share the work
              + the start of local workers                            measured here

In this process, lanes are idle while there are fewer passes than lanes; the number of concurrent
tiles is that of `embedseg_large.segmentation.request.estimate.tiles_at_once`.

The rate is kept per kind of network, device, number format, lanes and versions in the user's cache,
because it belongs to the machine, for a day; a probe of a few seconds measures it if there is none.
Quiet tiles need a single pass, so with augmentation the time is an upper bound.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from embedseg_large.documents import parse_json, read_document
from embedseg_large.files import whole
from embedseg_large.network.device import is_here, processor_name
from embedseg_large.network.model import Model
from embedseg_large.runs.devices import is_gpu
from embedseg_large.segmentation.request.estimate import Estimate, tiles_at_once
from embedseg_large.segmentation.request.request import Request
from embedseg_large.symmetry import group

SECONDS_BESIDE = 0.4e-6
"""Seconds of one process per voxel of the grid, for everything but the network."""
PROBED = {2: (384, 384), 3: (96, 160, 160)}
"""Shape of the image of a probe, by ndim: a few seconds per pass on a slow core. A smaller one fits
into the cache, in which the network is up to twice as fast as on a tile."""
KEPT_SECONDS = 86_400.0
"""Age in seconds after which a rate is measured again."""
ENOUGH_SECONDS = 4.0
"""Seconds after which a probe starts no further pass."""

_LIBRARIES = ("embedseg-large", "torch", "numba")
"""What computes a pass."""
_IMPORTS = "import distributed, embedseg_large.network.model, embedseg_large.clustering.cluster"
"""What a worker does before its first task, nearly all of the time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Speed of a network on this machine."""

    seconds: float
    """Seconds of one process, per voxel of the network's input and pass."""
    source: str
    """How it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Estimated duration of a run."""

    seconds: float
    """Wall-clock time."""
    process_seconds: float
    """Time of all processes together."""
    processes: int
    is_bound: bool
    """Whether it is an upper bound, because quiet tiles need fewer passes."""
    source: str
    """How the rate of the network was measured."""

    def as_dict(self) -> dict[str, Any]:
        """The figures as values that JSON can hold."""
        return asdict(self)


def duration_of(
    request: Request,
    plan: Estimate,
    *,
    processes: int = 1,
    starts_workers: bool = False,
    is_elsewhere: bool = False,
    cache: Path | None = None,
) -> Duration | None:
    """Estimate the duration of a run; measures the network for a few seconds if no rate is stored.

    Parameters
    ----------
    request, plan
        The run, and its sizes.
    processes
        Number of processes that share the work; 1 for this process alone.
    starts_workers
        Whether those processes are started on this machine, which takes seconds.
    is_elsewhere
        Whether other machines do the work.
    cache
        Folder of the rates; None: in the user's cache.

    Returns
    -------
    Duration
        None for external segmenters, whose speed is unknown, and for work of other machines on a
        device that this one lacks.
    """
    network = getattr(request.segmenter, "network", None)
    if not request.predicts or not isinstance(network, Model):
        return None
    settings = request.settings
    if is_elsewhere and not is_here(settings.device):
        return None
    model = network.to(settings.device, settings.dtype, None if processes == 1 else 1)
    rates = Rates(cache or user_cache_path("embedseg-large"))
    rate = rates.of(model)
    if rate is None:
        rate = probe(model)
        rates.keep(model, rate)
    passes = len(group(settings.tta, model.ndim))
    voxels = int(np.prod(request.shape)) * len(request.timepoints)
    tiles = 1 if is_gpu(model.device) or processes > 1 else tiles_at_once(request)
    predicting = plan.input_voxels * passes * rate.seconds
    predicting *= _idle(model, passes * min(tiles, max(1, plan.prediction_tiles)))
    spent = predicting + voxels * SECONDS_BESIDE / min(tiles, model.lanes)
    at_once = min(processes, max(1, plan.prediction_tiles))
    starting = seconds_of_start() if starts_workers else 0.0
    return Duration(
        seconds=starting + spent / at_once,
        process_seconds=spent,
        processes=processes,
        is_bound=settings.augment_above > 0,
        source=rate.source,
    )


def _idle(model: Model, passes_at_once: int) -> float:
    """Return how much longer the network takes than in a probe, where every lane has a pass."""
    return 1.0 if is_gpu(model.device) else model.lanes / min(model.lanes, passes_at_once)


def seconds_of_start() -> float:
    """Measure the start of a worker; local workers start at the same time, one on each core."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=False, capture_output=True)
    return time.perf_counter() - began


def probe(model: Model) -> Rate:
    """Measure the network on noise, with as many concurrent passes as in a run."""
    shape = PROBED[model.ndim]
    image = np.random.default_rng(0).random((model.channels, *shape), dtype=np.float32)
    wanted = 16 if is_gpu(model.device) else model.lanes
    modes = model.tta_modes
    mode = next((m for m in modes if len(group(m, model.ndim)) >= wanted), modes[-1])
    passes = len(group(mode, model.ndim))
    model.predict_raw(image, "none")  # creates the kernels
    began = time.perf_counter()
    done, spent = 0, 0.0
    while not done or spent * (1 + 1 / done) < ENOUGH_SECONDS:
        model.predict_raw(image, mode)
        done += 1
        spent = time.perf_counter() - began
    voxels = int(np.prod(shape)) * passes * done
    return Rate(seconds=spent / voxels, source=f"a probe of {spent:.0f} s")


class Rates:
    """The rates of networks that were measured on this machine.

    Parameters
    ----------
    folder
        Where they are stored; a file that is damaged or cannot be written is not an error. Rates
        older than a day are ignored, because other work may have slowed down a probe.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "rates.json"

    def of(self, model: Model) -> Rate | None:
        """Return the rate of a model on its device; None if it has not been measured."""
        seconds, measured = self._read().get(_key(model), (0.0, 0.0))
        if not 0 <= time.time() - measured < KEPT_SECONDS:
            return None
        return Rate(seconds=seconds, source="an earlier measurement")

    def keep(self, model: Model, rate: Rate) -> None:
        """Store the rate of a model on its device."""
        rates = {**self._read(), _key(model): (rate.seconds, time.time())}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with whole(self._file) as file:
                file.write_text(json.dumps(rates, indent=1))
        except OSError as error:
            logger.debug("the rate of the network is not kept: %s", error)

    def _read(self) -> Mapping[str, tuple[float, float]]:
        """Read seconds per voxel and pass, and the time of measurement, of each kind of network."""
        try:
            found = parse_json(read_document(self._file))
        except (OSError, ValueError):
            return {}
        pairs = found.items() if isinstance(found, Mapping) else ()
        return {name: (about[0], about[1]) for name, about in pairs if _is_rate(about)}


def _is_rate(about: Any) -> bool:
    is_pair = isinstance(about, list) and len(about) == 2
    return is_pair and all(isinstance(v, float) for v in about) and 0 < about[0] < 1


def _key(model: Model) -> str:
    """Return what a rate depends on: processor or GPU, network, number format, lanes, versions."""
    told = (
        processor_name(model.device),
        f"{model.settings.backbone} {model.ndim}D {model.channels}",
        model.dtype,
        "" if is_gpu(model.device) else str(model.lanes),
        *map(version, _LIBRARIES),
    )
    return hashlib.sha256("|".join(told).encode()).hexdigest()[:32]
