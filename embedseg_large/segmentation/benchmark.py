"""The speed of this machine: a real run on a small volume, compared with the machine's peak rates.

1. A corner of the volume is segmented, so that nothing is compiled later.
2. The volume is read once, from the files that a run reads.
3. It is segmented like any other, into a temporary folder.
4. Matrix products and copies are timed on the same device, in the same number format.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.device import available_cores, checked_device
from embedseg_large.network.model import Model
from embedseg_large.network.roofline import copy_rate, flops_per_voxel, matmul_rate
from embedseg_large.runs.devices import is_gpu
from embedseg_large.runs.progress import Observer, Watcher
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.estimate import estimate_of
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.segment import segment
from embedseg_large.segmentation.segmenters.loading import choose_device
from embedseg_large.segmentation.steps import Stage
from embedseg_large.symmetry import group
from embedseg_large.volumes.volume import open_volume

SMALLEST = 32
"""Minimum edge of a volume for meaningful figures, in voxels."""
_CORNER = 48
_TICK = 1e-3  # seconds, to which a run rounds those of its stages
_READ = {2: 1024, 3: 128}  # edge of what is read at once, by ndim
_LIBRARIES = ("embedseg-large", "torch", "numpy", "numba", "zarr")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpeed:
    """Time and work of one stage."""

    name: str
    tasks: int
    seconds: float
    """Time inside tasks, summed over workers."""
    share: float
    """Fraction of the time of all stages of the run; 0 for anything measured outside it."""
    voxels_per_second: float
    """Voxels of the volume, without context, halos and repeated passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpeed:
    """Peak rates of a machine, in the number format of the network."""

    threads: int
    """Threads of the CPU."""
    matmul_flops_per_second: float
    copy_bytes_per_second: float
    """Bytes per second, read and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpeed:
    """The rate of the network, compared with the machine's peak rate."""

    flops_per_voxel: float
    """Floating-point operations of one pass, per voxel."""
    passes: int
    """Passes of the test-time augmentation."""
    input_voxels: int
    """Voxels that went through the network in each pass: tiles with their context."""
    flops_per_second: float
    roofline: float
    """Fraction of the rate of matrix products on as many threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """The speed of a machine with a model."""

    shape: tuple[int, ...]
    """Voxels of the volume along (z,) y, x."""
    instances: int
    seconds: float
    """End to end."""
    voxels_per_second: float
    """End to end."""
    stages: tuple[StageSpeed, ...]
    network: NetworkSpeed
    machine: tuple[MachineSpeed, ...]
    """With one thread, and with all threads that were used."""
    device: str
    dtype: str
    tta: str
    workers: int
    """Processes; 0 for this one."""
    versions: dict[str, str]

    @property
    def limit(self) -> StageSpeed:
        """The stage that took longest."""
        return max(self.stages, key=lambda stage: stage.share)

    def as_dict(self) -> dict[str, Any]:
        """The figures as values that JSON can hold."""
        return asdict(self) | {"shape": list(self.shape), "limit": self.limit.name}


def benchmark(
    image: NDArray[Any],
    model: Model,
    *,
    workers: int | None = None,
    watcher: Watcher | Observer | None = None,
    **options: Any,
) -> Benchmark:
    """Measure the speed of this machine on an image.

    Parameters
    ----------
    image
        ``(channels, (z,) y, x)``, as many channels as the model takes; at least 32 voxels along
        each spatial axis.
    model
        The network.
    workers
        Local worker processes to start; None: this process.
    watcher
        Notified of the progress of the run, see `segment`.
    **options
        As for `segment`: device, dtype, tta and so on.

    Raises
    ------
    UsageError
        If the image is too small, or an option cannot be used; nothing has been computed then.
    """
    _check_size(image)
    options["channel"] = None if len(image) > 1 else 0
    options["device"] = checked_device(choose_device(model, options.get("device")))
    with tempfile.TemporaryDirectory(prefix="embedseg-large-") as folder:
        run = _run(Path(folder), image, model, workers, watcher, options)
    settings = run.summary["settings"]
    device, dtype, tta = (settings[name] for name in ("device", "dtype", "tta"))
    machine = tuple(_machine(device, dtype))
    stages = tuple(_stages(run, prod(image.shape[1:])))
    return Benchmark(
        shape=image.shape[1:],
        instances=run.summary["n_instances"],
        seconds=run.seconds,
        voxels_per_second=prod(image.shape[1:]) / run.seconds,
        stages=stages,
        network=_network(model, run, len(group(tta, model.ndim)), workers or 1, machine[-1]),
        machine=machine,
        device=device,
        dtype=dtype,
        tta=tta,
        workers=workers or 0,
        versions={name: version(name) for name in _LIBRARIES},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Measurements of a run."""

    summary: dict[str, Any]
    seconds: float
    read_seconds: float
    input_voxels: int


def _check_size(image: NDArray[Any]) -> None:
    shape = image.shape[1:]
    if min(shape) < SMALLEST:
        found = " x ".join(map(str, shape))
        raise UsageError(f"the volume has {found} voxels; take at least {SMALLEST} along each axis")


def _run(
    folder: Path,
    image: NDArray[Any],
    model: Model,
    workers: int | None,
    watcher: Watcher | Observer | None,
    options: dict[str, Any],
) -> _Measured:
    """Write the image, and segment it."""
    store = _write(folder / "volume", image)
    plan = estimate_of(prepare(store, model, "nuclei", SegmentOptions(**options)))
    corner = _write(folder / "corner", image[(slice(None), *(slice(_CORNER),) * model.ndim)])
    segment(corner, model, "nuclei", **options | {"tta": "none"})
    read_seconds = _read_seconds(store, options["channel"])
    began = time.perf_counter()
    result = segment(store, model, "nuclei", workers=workers, watcher=watcher, **options)
    return _Measured(
        summary=result.summary,
        seconds=time.perf_counter() - began,
        read_seconds=read_seconds,
        input_voxels=plan.input_voxels,
    )


def _write(place: Path, image: NDArray[Any]) -> Path:
    write_image(place, image, "czyx" if image.ndim == 4 else "cyx")
    return place


def _read_seconds(store: Path, channel: int | str | None) -> float:
    """Time it takes to read and decode all voxels once, as tiles do."""
    volume = open_volume(store, channel=channel)
    began = time.perf_counter()
    for box in Box.whole(volume.spatial_shape).split((_READ[volume.ndim],) * volume.ndim):
        volume.read(box)
    return time.perf_counter() - began


def _stages(run: _Measured, voxels: int) -> Iterator[StageSpeed]:
    """Speed of reading, and of each stage of the run."""
    clocks = run.summary["stages"]
    total = sum(clock["seconds"] for clock in clocks.values())
    yield _stage("read", 1, run.read_seconds, 0.0, voxels)
    for name, clock in clocks.items():
        yield _stage(name, clock["tiles"], clock["seconds"], clock["seconds"] / total, voxels)


def _stage(name: str, tasks: int, seconds: float, share: float, voxels: int) -> StageSpeed:
    seconds = max(seconds, _TICK)
    rate = voxels / seconds
    return StageSpeed(name=name, tasks=tasks, seconds=seconds, share=share, voxels_per_second=rate)


def _machine(device: str, dtype: str) -> Iterator[MachineSpeed]:
    """Speed of the device: of a CPU with one thread, and with all."""
    for threads in sorted({1 if not is_gpu(device) else available_cores(), available_cores()}):
        yield MachineSpeed(
            threads=threads,
            matmul_flops_per_second=matmul_rate(device, dtype, threads),
            copy_bytes_per_second=copy_rate(device, dtype, threads),
        )


def _network(
    model: Model, run: _Measured, passes: int, abreast: int, machine: MachineSpeed
) -> NetworkSpeed:
    """Compare the network's rate with the machine's peak; `abreast` tiles run at a time."""
    flops = flops_per_voxel(model.ndim, model.channels)
    seconds = max(run.summary["stages"][Stage.PREDICT]["seconds"], _TICK) / abreast
    rate = flops * passes * run.input_voxels / seconds
    return NetworkSpeed(
        flops_per_voxel=flops,
        passes=passes,
        input_voxels=run.input_voxels,
        flops_per_second=rate,
        roofline=rate / machine.matmul_flops_per_second,
    )
