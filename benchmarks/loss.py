"""The loss of a training step on two crops of 32 x 64 x 64 voxels with 22 objects each.

Forward and backward, on the output of the network before and after training and on two hard ones:
bandwidths of 10 voxels, and random channels, where hardly any pair can be left out. For comparison,
forward and backward of the network; turns are taken, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import embedseg_large as es
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.centers import center, centers
from embedseg_large.training.data.targets import Batch, Sample, collate
from embedseg_large.training.loss.loss import embedding_loss

SHAPE = (32, 64, 64)
OBJECTS = 22
SAMPLES = 2


def crop(seed: int) -> Sample:
    """A crop of an embryo, and where its objects are."""
    labels = synthetic_embryo(SHAPE, n_objects=OBJECTS, diameter=15, spacing=0.9, seed=seed)
    image = render(labels).astype(np.float32)
    low, high = np.percentile(image, [1, 99.8])
    return Sample(
        ((image - low) / (high - low))[None].astype(np.float32),
        labels.astype(np.int32),
        None,
        centers(labels)[1].astype(np.float32),
    )


def outputs(model: es.Model, batch: Batch) -> dict[str, Tensor]:
    """Raw channels of the batch, in several states of the network."""
    trained = torch.from_numpy(
        np.stack([model.predict_raw(image.numpy(), tta=False) for image in batch.image[:, 0]])
    )
    start = torch.zeros_like(trained)
    start[:, 3:6] = 1
    wide = trained.clone()
    wide[:, :3] *= 0.5
    wide[:, 3:6] = 0.3
    noise = torch.randn(trained.shape, generator=torch.Generator().manual_seed(0))
    return {"before training": start, "trained": trained, "wide": wide, "random": noise}


def network_step(batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of a network, without a loss."""
    network = BranchedERFNet(3)
    slope = torch.ones(SAMPLES, 7, *SHAPE)

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            raw = network(batch.image)
        raw.float().backward(slope)

    return step


def loss_step(raw: Tensor, batch: Batch, pitch: Sequence[float]) -> Callable[[], None]:
    """Forward and backward of the loss."""

    def step() -> None:
        raw.grad = None
        embedding_loss(raw, batch, pitch=pitch, foreground_weight=10).total.backward()

    raw.requires_grad_()
    return step


def milliseconds(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Least and median time of each call; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles, warms up
    for _ in range(turns):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: [min(t), statistics.median(t)] for name, t in times.items()}


def ball(n: int) -> NDArray[np.int64]:
    """Coordinates of the n voxels nearest to a point."""
    radius = int((3 * n / 4 / np.pi) ** (1 / 3)) + 2
    points = np.argwhere(np.ones((2 * radius + 1,) * 3, bool))
    order = np.argsort(((points - radius) ** 2).sum(axis=1), kind="stable")[:n]
    return points[np.sort(order)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = es.load_model("nuclei-3d")
    batch = collate([crop(seed) for seed in range(SAMPLES)])
    print(f"{len(batch.sizes)} instances, {len(batch.voxels)} voxels in them")
    calls: dict[str, Callable[[], object]] = {
        f"loss, {state}": loss_step(raw, batch, model.pitch)
        for state, raw in outputs(model, batch).items()
    }
    calls["network, float32"] = network_step(batch, torch.float32)
    calls["network, bfloat16"] = network_step(batch, torch.bfloat16)
    for n in (20_000, 100_000):
        calls[f"medoid of {n} voxels"] = partial(center, ball(n))
    rows = milliseconds(calls, options.turns)
    for name, (least, median) in rows.items():
        print(f"{name:28s} min {least:6.1f}   median {median:6.1f} ms")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
