"""One pass of the network, before and after it was brought into its inference form: a picture.

Every operator is drawn where it ran, on one time axis for both, coloured by what it does. Both run
on one thread, so that an operator's length is what it costs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from inference import eager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch.profiler import ProfilerActivity, profile

import embedseg_large as es

KINDS = {
    "convolution": ("conv",),
    "transposed convolution": ("transpose",),
    "batch normalisation": ("batch_norm",),
    "ReLU": ("clamp_min", "relu"),
    "adding": ("add",),
    "copying": ("copy", "cat", "fill", "zero"),
    "pooling": ("pool",),
}
"""What an operator does, by parts of its name; the last that fits counts."""

COLOURS = ("#4477aa", "#66ccee", "#ee6677", "#ccbb44", "#228833", "#aa3377", "#bbbbbb", "#444444")
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Ran:
    """An operator, in seconds since the pass began."""

    kind: str
    start: float
    seconds: float
    own: float
    """Seconds outside of the operators that it calls."""


def kind_of(name: str) -> str:
    """What an operator does."""
    fitting = [kind for kind, parts in KINDS.items() if any(part in name for part in parts)]
    return fitting[-1] if fitting else OTHER


def operators(run: Callable[[], object]) -> list[Ran]:
    """The operators of one pass, callers before those they call; the pass before it warms up."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = [e for e in profiler.events() if e.name.startswith(("aten::", "mkldnn::"))]
    events.sort(key=lambda e: (e.time_range.start, -e.cpu_time_total))
    began = events[0].time_range.start
    return [
        Ran(kind_of(e.name), (e.time_range.start - began) / 1e6, *_seconds_of(e)) for e in events
    ]


def _seconds_of(event: Any) -> tuple[float, float]:
    return event.cpu_time_total / 1e6, event.self_cpu_time_total / 1e6


def shares(ran: list[Ran]) -> Counter[str]:
    """Seconds by kind, each counted once."""
    total: Counter[str] = Counter()
    for one in ran:
        total[one.kind] += one.own
    return total


def draw(axes: Axes, title: str, ran: list[Ran], per_voxel: float, narrow: float) -> None:
    """A strip of time, and under it the same, sorted by kind; narrow pieces have no number."""
    colour = dict(zip((*KINDS, OTHER), COLOURS, strict=True))
    strip = [(one.start, one.seconds) for one in ran]
    colours = [colour[one.kind] for one in ran]
    axes.broken_barh(strip, (1.1, 0.9), facecolors=colours, linewidth=0)
    left, total = 0.0, shares(ran).total()
    for kind, seconds in shares(ran).most_common():
        axes.broken_barh([(left, seconds)], (0, 0.9), color=colour[kind], linewidth=0)
        if seconds > narrow:
            where = left + seconds / 2, 0.45
            axes.annotate(f"{seconds:.2f} s", where, ha="center", va="center", color="white")
        left += seconds
    axes.set_title(f"{title}: {total:.2f} s, {total * per_voxel:.2f} µs a voxel", loc="left")
    axes.set_yticks([0.45, 1.55], ["sorted", "in order"])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def picture(passes: dict[str, list[Ran]], voxels: int) -> Figure:
    """Both passes under each other."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(10, 5.2), layout="constrained", dpi=150)
    rows = figure.subplots(len(passes), sharex=True)
    narrow = 0.06 * max(shares(ran).total() for ran in passes.values())
    for axes, (title, ran) in zip(rows, passes.items(), strict=True):
        draw(axes, title, ran, 1e6 / voxels, narrow)
    rows[-1].set_xlabel("seconds on one core")
    met = set().union(*(shares(ran) for ran in passes.values()))
    kinds = zip((*KINDS, OTHER), COLOURS, strict=True)
    handles = [Patch(color=colour, label=kind) for kind, colour in kinds if kind in met]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Profile, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--shape", default="64,128,128", help="voxels of the image")
    parser.add_argument("--picture", type=Path, default=Path("profiles.png"))
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    model = es.load_model(options.model)
    image = torch.from_numpy(np.random.default_rng(0).random((1, *shape), dtype=np.float32))
    torch.set_num_threads(1)
    forms = {"network of training": eager(model), "inference form": model._network}
    with torch.inference_mode():
        passes = {name: operators(partial(form, image[None])) for name, form in forms.items()}
    picture(passes, image.numel()).savefig(options.picture)
    for name, ran in passes.items():
        total = shares(ran)
        print(f"\n| {name} | seconds | share |\n|---|---|---|")
        for kind, seconds in total.most_common():
            print(f"| {kind} | {seconds:.3f} | {seconds / total.total():.1%} |")


if __name__ == "__main__":
    main()
