"""The network: straightforward, and in the form in which it answers.

The reference is the eager float32 network of training, one pass at a time on all threads. Forms
take turns, so that other work on the machine slows all of them: compare within a run. Threads that
wait for each other suffer most from it; processor time says more then, with OMP_WAIT_POLICY=PASSIVE
in the environment so that waiting is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import embedseg_large as es
from embedseg_large.embedding import raw_fields
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.lanes import in_order
from embedseg_large.network.model import Model
from embedseg_large.network.tta import mean_raw
from embedseg_large.symmetry import group

Ways = dict[str, Callable[[], object]]


def eager(model: Model) -> BranchedERFNet:
    """The network as it is trained."""
    network = BranchedERFNet(model.ndim, model.channels)
    network.load_state_dict(model.weights)
    return network.eval().to(model.device)


def reference(network: BranchedERFNet, image: np.ndarray, tta: str) -> np.ndarray:
    """Raw channels, transfers included."""
    device = next(network.parameters()).device
    moved = torch.from_numpy(image[None]).to(device)
    fields, elements = raw_fields(network.ndim), group(tta, network.ndim)
    raw = mean_raw(lambda images, _: network(images), moved, fields, elements, map)
    return raw.cpu().numpy()


def answers_side_by_side(model: Model, image: np.ndarray) -> None:
    """As many single passes as there are lanes; on a GPU one."""
    count = model.lanes if model.device == "cpu" else 1
    list(in_order(lambda _: model.predict_raw(image), range(count), count))


def ways(models: dict[str, Model], image: np.ndarray, tta: str) -> tuple[Ways, dict[str, int]]:
    """What is timed, and how many passes it makes."""
    first = next(iter(models.values()))
    network, passes = eager(first), len(group(tta, first.ndim))
    timed: Ways = {
        "reference, 1 pass": partial(reference, network, image, "none"),
        f"reference, tta {tta}": partial(reference, network, image, tta),
    }
    counts = dict(zip(timed, (1, passes), strict=True))
    for dtype, model in models.items():
        timed[f"{dtype}, 1 pass"] = partial(answers_side_by_side, model, image)
        timed[f"{dtype}, tta {tta}"] = partial(model.predict_raw, image, tta)
        counts[f"{dtype}, 1 pass"] = model.lanes if model.device == "cpu" else 1
        counts[f"{dtype}, tta {tta}"] = passes
    return timed, counts


def seconds(timed: Ways, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor time of each way, taking turns; the first turn warms up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for turn in range(repeats + 1):
        for name, run in timed.items():
            began = time.perf_counter(), time.process_time()
            run()
            taken = time.perf_counter() - began[0], time.process_time() - began[1]
            found[name] += [taken] if turn else []
    return found


def deviation(model: Model, image: np.ndarray) -> float:
    """Largest difference from the reference, relative to its deviation."""
    expected = reference(eager(model), image, "none")
    return float(np.abs(model.predict_raw(image) - expected).max() / expected.std())


def slowest_operators(run: Callable[[], object], top: int) -> Iterable[tuple[str, float, int]]:
    """Name, share of the time and calls of the operators that take most."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    rows = [r for r in profiler.key_averages() if r.key.startswith(("aten::", "mkldnn::"))]
    total = sum(r.self_cpu_time_total for r in rows)
    rows.sort(key=lambda r: -r.self_cpu_time_total)
    return [(r.key, r.self_cpu_time_total / total, r.count) for r in rows[:top]]


def print_profiles(model: Model, image: np.ndarray) -> None:
    """One pass before, on all threads, and after, on one."""
    moved: Tensor = torch.from_numpy(image[None]).to(model.device)
    all_threads = torch.get_num_threads()
    before, after = ("reference", eager(model), all_threads), (model.dtype, model._network, 1)
    for name, forward, threads in (before, after):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            rows = slowest_operators(partial(forward, moved[None]), 8)
        print(f"\n| operator, {name} | share | calls |\n|---|---|---|")
        for key, share, calls in rows:
            print(f"| `{key}` | {share:.1%} | {calls} |")
    torch.set_num_threads(all_threads)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--shape", default="64,128,128", help="voxels of the image")
    parser.add_argument("--tta", default="16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    model = es.load_model(options.model)
    models = {d: model.to(device=options.device, dtype=d) for d in options.dtypes}
    for dtype, made in models.items():
        print(f"{dtype}: {deviation(made, image):.1e} of the output's deviation, at most")
    timed, counts = ways(models, image, options.tta)
    found = seconds(timed, options.repeats)
    per_voxel = {
        name: np.array(times) / image.size / counts[name] * 1e6 for name, times in found.items()
    }
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {shape}")
    print("\n| medians | µs per voxel and pass | times the reference | processor time | times |")
    print("|---|---|---|---|---|")
    rows = []
    for name, times in per_voxel.items():
        same = per_voxel[f"reference, {name.partition(', ')[2]}"]
        (wall, cpu), (faster, less) = np.median(times, axis=0), np.median(same / times, axis=0)
        rows.append({"way": name, "wall_us": wall, "cpu_us": cpu, "faster": faster, "less": less})
        print(f"| {name} | {wall:.3f} | {faster:.2f} | {cpu:.3f} | {less:.2f} |")
    print_profiles(next(iter(models.values())), image)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
