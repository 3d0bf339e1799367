"""The network on a GPU: every way of running it, checked and timed in one call under 8 minutes.

Needs torch, numpy, numba and this package on the path, nothing else: where safetensors is missing,
the weights are random and labels are not compared. Writes gpu_inference.md and .json into --out.

Ways that are compared, the slowest first::

    eager          the network of training in float32, one pass at a time: the reference
    model DTYPE    what `segment` runs: folded, channels last, passes batched, output in float32
    tuned DTYPE    the same, with cudnn.benchmark: kernels chosen by trying them
    graph DTYPE    the same, replayed as a CUDA graph
    compiled DTYPE the same network folded by torch.compile

The table is of one prediction tile with its context; then come whole cubes, tile by tile, with
transfers both ways and what is stored computed on the host, as PREDICT does it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embedseg_large.embedding import quantise, raw_fields
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.model import Model
from embedseg_large.network.roofline import copy_rate, flops_per_voxel, matmul_rate
from embedseg_large.network.settings import ModelSettings
from embedseg_large.network.tta import mean_raw
from embedseg_large.symmetry import group
from embedseg_large.tiling.grid import Grid

Predict = Callable[[np.ndarray, str], np.ndarray]
BUDGET_SECONDS = 450.0
LARGEST_DEVIATION = 0.05
"""Of raw channels from float32's, over their spread: that of float16, whose labels are the same."""


@dataclass(frozen=True)
class Way:
    """One way to compute raw channels."""

    name: str
    dtype: str
    predict: Predict
    """``predict(image, tta)``: host to host."""


@dataclass(frozen=True)
class Row:
    """What was measured of a way."""

    way: str
    voxels_per_second: float
    """With the whole augmentation, transfers included."""
    times_reference: float
    roofline: float
    """Share of the rate of large matrix products in this number format."""
    peak_gb: float
    deviation: float
    """Largest difference from the reference over the reference's deviation."""


def load(name: str, device: str) -> tuple[Model, bool]:
    """Return a model, and whether it is a trained one."""
    try:
        from embedseg_large.network.checkpoint import load_model

        return load_model(name).to(device=device), True
    except ImportError:
        torch.manual_seed(0)
        network = BranchedERFNet(3, 1)
        torch.nn.init.normal_(network.decoders[0].get_submodule("output_conv").weight, std=0.1)
        settings = ModelSettings.from_objects(pitch=(0.03,) * 3, extent=(16, 24, 24), channels=1)
        return Model(network.state_dict(), settings, device=device), False


def eager(model: Model) -> BranchedERFNet:
    """The network as it is trained."""
    network = BranchedERFNet(model.ndim, model.channels)
    network.load_state_dict(model.weights)
    return network.eval().requires_grad_(False).to(model.device)


def through(forward: Callable[[Tensor], Tensor], device: str, batch: int) -> Predict:
    """Host to host, with the passes of the augmentation batched."""

    def predict(image: np.ndarray, tta: str) -> np.ndarray:
        moved = torch.from_numpy(image[None]).to(device)
        fields, elements = raw_fields(image.ndim), group(tta, image.ndim)
        raw = mean_raw(lambda images, _: forward(images), moved, fields, elements, map, batch)
        return raw.cpu().numpy()

    return predict


class Graphs:
    """Replays a network as CUDA graphs, one for each shape of its input."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self._forward = forward
        self._made: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Copy in, replay, copy out."""
        if images.shape not in self._made:
            self._made[images.shape] = self._capture(images)
        graph, given, answer = self._made[images.shape]
        given.copy_(images)
        graph.replay()
        return answer.clone()

    def _capture(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given, graph = images.clone(), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._forward(given)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            answer = self._forward(given)
        return graph, given, answer


def ways(model: Model, batches: list[int], dtypes: list[str]) -> Iterator[Way]:
    """All ways, cheapest to prepare first."""
    yield Way("eager float32, batch 1", "float32", through(eager(model), model.device, 1))
    for dtype in dtypes:
        placed = model.to(dtype=dtype)
        yield Way(f"model {dtype}", dtype, placed.predict_raw)
        for batch in batches:
            predict = through(placed._network, model.device, batch)
            yield Way(f"model {dtype}, batch {batch}", dtype, predict)
    if not model.device.startswith("cuda"):
        return
    for dtype in ("float32", "float16"):
        network = model.to(dtype=dtype)._network
        yield Way(f"tuned {dtype}, batch 4", dtype, tuned(through(network, model.device, 4)))
        yield Way(f"graph {dtype}, batch 2", dtype, through(Graphs(network), model.device, 2))
    for dtype in ("float16", "float32"):
        yield Way(f"compiled {dtype}, batch 2", dtype, compiled(model, dtype))


def tuned(predict: Predict) -> Predict:
    """Let cuDNN choose its kernels by trying them."""

    def run(image: np.ndarray, tta: str) -> np.ndarray:
        with torch.backends.cudnn.flags(benchmark=True, allow_tf32=False):
            return predict(image, tta)

    return run


def compiled(model: Model, dtype: str) -> Predict:
    """The network of training under autocast, compiled: torch folds and fuses by itself."""
    forward = torch.compile(eager(model).to(memory_format=torch.channels_last_3d))
    half = dtype != "float32"

    def run(images: Tensor) -> Tensor:
        with torch.autocast("cuda", getattr(torch, dtype), enabled=half):
            return forward(images.contiguous(memory_format=torch.channels_last_3d)).float()

    return through(run, model.device, 2)


def seconds(run: Callable[[], object], device: str, least: float = 1.0) -> float:
    """Median seconds of calls, at least three, after one that warms up."""
    taken: list[float] = []
    while len(taken) < 4 or sum(taken[1:]) < least:
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
        if taken[-1] > 20:
            break
    return float(np.median(taken[1:] or taken))


def measured(
    way: Way, image: np.ndarray, tta: str, expected: np.ndarray, slowest: float | None, model: Model
) -> Row:
    """Check a way, and time it."""
    on_gpu = model.device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = way.predict(image, tta)
    took = seconds(partial(way.predict, image, tta), model.device)
    work = flops_per_voxel(model.ndim, model.channels) * len(group(tta, model.ndim)) * image.size
    rate = matmul_rate(model.device, way.dtype, torch.get_num_threads())
    return Row(
        way=way.name,
        voxels_per_second=image.size / took,
        times_reference=(slowest or took) / took,
        roofline=work / took / rate,
        peak_gb=torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
        deviation=float(np.abs(found - expected).max() / expected.std()),
    )


def cube(model: Model, tile: tuple[int, ...], edge: int, tta: str) -> dict[str, float]:
    """PREDICT of a cube in tiles: voxels of cores a second; larger tiles need less context."""
    shape = (edge,) * model.ndim
    grid = Grid(shape, tile, model.context, padded=True)
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    if model.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    inputs = 0
    for index in grid:
        region = grid.tile(index).region
        pads = [(0, stop - min(stop, n)) for stop, n in zip(region.stop, shape, strict=True)]
        part = np.pad(volume[region.clip(shape).slices], pads, mode="reflect")
        quantise(model.predict_raw(part, tta), model.pitch)
        inputs += part.size
    took = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() / 1e9 if model.device.startswith("cuda") else 0.0
    return {
        "voxels_per_second": volume.size / took,
        "input_voxels_per_second": inputs / took,
        "tiles": len(grid),
        "peak_gb": peak,
    }


def agreement(model: Model, dtype: str, image: np.ndarray) -> float:
    """AP at IoU 0.9 of the labels of a number format against those of float32."""
    from embedseg_large.clustering.cluster import cluster
    from embedseg_large.evaluation.contingency import Contingency
    from embedseg_large.evaluation.scores import scores

    truth, found = (
        cluster(
            m.predict(image, "none"),
            min_object_size=m.min_object_size,
            seed=m.seed,
            margin=m.margin,
        )
        for m in (model.to(dtype="float32"), model.to(dtype=dtype))
    )
    (result,) = scores(Contingency.of(found, truth), (0.9,))
    return float(result.ap)


def verdict(row: Row, rows: list[Row]) -> str:
    """What follows from a row."""
    if row.deviation > LARGEST_DEVIATION:
        return "differs too much"
    usable = [r for r in rows if r.deviation <= LARGEST_DEVIATION]
    best = max(usable, key=lambda r: r.voxels_per_second)
    if row is best:
        return "the fastest"
    share = row.voxels_per_second / best.voxels_per_second
    return "as fast" if share > 0.95 else f"{1 / share:.1f} times as slow"


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| way | million voxels/s | times eager | of roofline | peak GB | deviation | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.way} | {r.voxels_per_second / 1e6:.2f} | {r.times_reference:.2f} | {r.roofline:.0%} "
        f"| {r.peak_gb:.2f} | {r.deviation:.1e} | {verdict(r, rows)} |"
        for r in rows
    ]
    return "\n".join(lines)


def machine(device: str) -> dict[str, str]:
    """What it runs on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tile", help="voxels of the input; default: the model's tile and context")
    parser.add_argument("--edge", type=int, default=512, help="of the cube; 0: none")
    parser.add_argument(
        "--tiles",
        nargs="*",
        type=int,
        default=[128, 192],
        help="edges of the tiles of the cube, besides the model's own tile",
    )
    parser.add_argument("--tta", default="16")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "float32", "bfloat16"])
    parser.add_argument("--image", type=Path, help="npy with a normalised image to compare labels")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    began = time.perf_counter()
    model, trained = load(options.model, options.device)
    sizes = [t + 2 * c for t, c in zip(model.tile, model.context, strict=True)]
    shape = tuple(int(n) for n in options.tile.split(",")) if options.tile else tuple(sizes)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = through(eager(model), model.device, 1)(image, options.tta)
    rows: list[Row] = []
    skipped: list[str] = []
    for way in ways(model, options.batches, options.dtypes):
        if time.perf_counter() - began > BUDGET_SECONDS * 0.6:
            skipped.append(way.name)
            continue
        slowest = image.size / rows[0].voxels_per_second if rows else None
        try:
            rows.append(measured(way, image, options.tta, expected, slowest, model))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        except RuntimeError as error:  # of the compiler, or of memory: the others still count
            skipped.append(f"{way.name} ({str(error).splitlines()[0][:80]})")
    tiles = [model.tile, *((edge,) * model.ndim for edge in options.tiles)]
    cubes = {}
    for dtype, tile in product(options.dtypes, tiles):
        if options.edge and time.perf_counter() - began < BUDGET_SECONDS:
            name = f"{dtype}, tiles of {'x'.join(map(str, tile))}"
            cubes[name] = cube(model.to(dtype=dtype), tile, options.edge, options.tta)
    labels = {}
    if trained and options.image is not None:
        given = np.load(options.image)
        labels = {d: agreement(model, d, given) for d in options.dtypes if d != "float32"}
    copied = copy_rate(model.device, "float32", torch.get_num_threads())
    facts = machine(model.device) | {"tile": str(shape), "tta": options.tta}
    told = [
        f"{', '.join(f'{k} {v}' for k, v in facts.items())}; weights "
        f"{'trained' if trained else 'random'}; copies {copied / 1e9:.0f} GB/s",
        "",
        table(rows),
        "",
        *(
            f"Cube of {options.edge}, {d}: {c['voxels_per_second'] / 1e6:.1f} million voxels/s, "
            f"peak {c['peak_gb']:.2f} GB"
            for d, c in cubes.items()
        ),
        *(f"Labels of {d} against float32: AP at IoU 0.9 {ap:.3f}" for d, ap in labels.items()),
        *(f"Not measured: {name}" for name in skipped),
        f"All of it took {time.perf_counter() - began:.0f} s.",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu_inference.md").write_text("\n".join(told) + "\n")
    result = facts | {"rows": [asdict(r) for r in rows], "cubes": cubes, "labels": labels}
    (options.out / "gpu_inference.json").write_text(json.dumps(result, indent=2))
    print("\n".join(told))


if __name__ == "__main__":
    main()
