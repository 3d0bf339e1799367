"""A training step on two crops of 32 x 64 x 64 voxels with 22 objects each, all of it.

Cutting the crops, forward, loss, backward, Adam, as the trainer does them; the time from one step
to the next. Formats of the convolutions take turns epoch by epoch, so that other work on the
machine slows all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.dataset import CropDataset
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.data.supply import AnnotatedSource, Mixture
from embedseg_large.training.learner import Learner
from embedseg_large.training.processes import Processes
from embedseg_large.training.settings import TrainSettings

SHAPE = (32, 64, 64)


def crops(count: int) -> CropDataset:
    """Crops of the size of their images, robustly augmented in intensity."""
    truth = [
        synthetic_embryo(SHAPE, n_objects=22, diameter=15, spacing=0.9, seed=n) for n in (0, 1)
    ]
    pairs = find_pairs([render(labels, seed=n) for n, labels in enumerate(truth)], truth)
    properties = measure(pairs, crop=SHAPE)
    centers = find_centers(pairs, properties.objects)
    augment = AugmentSettings(intensity=AugmentSettings.robust().intensity)
    mixture = Mixture((AnnotatedSource(pairs, properties, centers),))
    return CropDataset(mixture, properties, augment=augment, epoch_crops=count)


def seconds(learner: Learner, epoch: int) -> list[float]:
    """Time of each step of an epoch but the first."""
    times: list[float] = []
    learner.learn(epoch, lambda *_: times.append(time.perf_counter()))
    return [b - a for a, b in pairwise(times)]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=11, help="steps an epoch")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each format")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = crops(2 * options.steps)
    epochs = options.repeats + 1  # the first warms up
    learners = {
        dtype: Learner(
            data,
            TrainSettings(batch=2, accumulate=1, dtype=dtype, epochs=epochs),
            None,
            Processes(options.device),
        )
        for dtype in options.dtypes
    }
    found: dict[str, list[float]] = {dtype: [] for dtype in learners}
    for epoch in range(epochs):
        for dtype, learner in learners.items():
            times = seconds(learner, epoch)
            found[dtype] += times if epoch else []
    rows = [
        {"dtype": d, "median_s": statistics.median(t), "best_s": min(t), "steps": len(t)}
        for d, t in found.items()
    ]
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
