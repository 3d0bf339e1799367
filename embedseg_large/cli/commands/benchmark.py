"""``embedseg-large benchmark``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    print_table,
    progress_bars,
    reported,
    set_up_logging,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Verbose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedseg_large.segmentation.benchmark import Benchmark

_SIZE = {("cpu", 2): 1024, ("cpu", 3): 128, ("cuda", 2): 4096, ("cuda", 3): 384}
_SIZE |= {("mps", 2): 2048, ("mps", 3): 192}
"""Edge of the volume, by device and ndim: a minute of work at most."""
_LARGEST = {2: 32768, 3: 1024}


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """How the network is run."""

    heading: ClassVar[str | None] = None

    tta: Annotated[
        str | None,
        typer.Option(help="Test-time augmentation: none, 4, 8, 16 or 48. Default: the model's."),
    ] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or mps. Default: cuda if available.")
    ] = None
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: as for segment.")
    ] = None


@reported(interrupted="interrupted; nothing was left behind")
@grouped
def benchmark(
    *,
    model: Annotated[str, typer.Option(help="Bundled name, or model file.")] = "nuclei-3d",
    size: Annotated[
        int | None,
        typer.Option(
            help="Edge of the volume in voxels. Default: 128 on a CPU, 384 on a GPU; "
            "1024 and 4096 in 2D."
        ),
    ] = None,
    passes: NetworkFlags,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Local worker processes to start. Default: this process alone."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure how fast this machine segments, and how much of its peak speed the network reaches.

    Segments a small volume made from the demo embryo in a temporary folder, and prints the time of
    each stage, together with the rates of matrix products and copies, measured on the same device
    in the same number format.
    """
    set_up_logging(verbose)
    from embedseg_large.network.checkpoint import load_model
    from embedseg_large.network.device import checked_device, default_device
    from embedseg_large.segmentation.benchmark import benchmark as measured

    network = load_model(model)
    place = checked_device(passes.device or default_device())
    edge = size or _SIZE[place.partition(":")[0], network.ndim]
    image = _image(edge, network.ndim, network.channels)
    given = {"tta": passes.tta, "dtype": passes.dtype, "device": place}
    options: Any = {name: value for name, value in given.items() if value is not None}
    with progress_bars(quiet=as_json) as watcher:
        result = measured(image, network, workers=workers, watcher=watcher, **options)
    if as_json:
        print_json(result.as_dict())
    else:
        _print(result)


def _image(edge: int, ndim: int, channels: int) -> NDArray[Any]:
    """The demo embryo, mirrored until it fills a cube, or its middle plane a square.

    Raises
    ------
    UsageError
        If the edge is too small to be meaningful, or too large for a benchmark.
    """
    import numpy as np

    from embedseg_large.data import load_demo
    from embedseg_large.errors import UsageError
    from embedseg_large.segmentation.benchmark import SMALLEST

    if not SMALLEST <= edge <= _LARGEST[ndim]:
        raise UsageError(f"size is {edge}; take from {SMALLEST} to {_LARGEST[ndim]} voxels")
    one = load_demo().image
    one = one if ndim == 3 else one[len(one) // 2]
    more = [(0, max(0, edge - n)) for n in one.shape]
    whole = np.pad(one, more, mode="symmetric")[(slice(edge),) * ndim]
    return np.stack([whole] * channels)


def _print(result: Benchmark) -> None:
    """Print tables of the stages and of the machine, and the bottleneck."""
    rows = [
        [
            stage.name,
            f"{stage.tasks:,}",
            f"{stage.seconds:.3f}",
            f"{100 * stage.share:.1f} %" if stage.share else "",
            f"{stage.voxels_per_second / 1e6:.3g}",
        ]
        for stage in result.stages
    ]
    rate = f"{result.voxels_per_second / 1e6:.3g}"
    rows.append(["end to end", "", f"{result.seconds:.3f}", "", rate])
    print_table(["stage", "tasks", "task seconds", "share", "million voxels/s"], rows)
    rows = [
        [
            f"{m.threads}",
            f"{m.matmul_flops_per_second / 1e9:,.0f}",
            f"{m.copy_bytes_per_second / 1e9:,.1f}",
        ]
        for m in result.machine
    ]
    print_table(["threads", "matrix product, GFLOP/s", "copy, GB/s"], rows)
    print_facts(None, _facts(result))


def _facts(result: Benchmark) -> dict[str, str]:
    network = result.network
    return {
        "volume": " x ".join(map(str, result.shape)) + f" voxels, {result.instances:,} instances",
        "device": f"{result.device}, {result.dtype}, "
        + (f"{result.workers} worker processes" if result.workers else "this process"),
        "network": f"{network.flops_per_voxel / 1e3:.1f} kFLOP per voxel and pass, "
        f"{network.passes} {'pass' if network.passes == 1 else 'passes'} over "
        f"{network.input_voxels:,} voxels with context",
        "roofline": f"{network.flops_per_second / 1e9:,.0f} GFLOP/s, "
        f"{100 * network.roofline:.0f} % of matrix products on {result.machine[-1].threads} "
        "threads",
        "limit": f"{result.limit.name} takes {100 * result.limit.share:.0f} % of the time of all "
        "tasks",
        "versions": ", ".join(f"{name} {text}" for name, text in result.versions.items()),
    }
