"""Crops that one core cuts in a second of its time, by what happens to them.

A training step on 2 crops of 32 x 64 x 64 should not wait: at a quarter of a second a step, five
times the network's rate are 40 crops a second.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.dataset import CropDataset
from embedseg_large.training.data.intensities import IntensitySettings
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.data.supply import AnnotatedSource, Mixture
from embedseg_large.training.data.targets import collate

WAYS = {
    "plain": AugmentSettings.none(),
    "symmetries": AugmentSettings(),
    "symmetries, intensities": AugmentSettings(intensity=IntensitySettings.robust()),
    "symmetries, intensities, scale": AugmentSettings.robust(),
}


def rate(data: CropDataset, count: int) -> float:
    """Crops a second of one core, in batches of two as in training, without filling the cache."""
    batches = [((1, i), (1, i + 1)) for i in range(0, min(count, len(data) - 1), 2)]
    for i in range(len(data)):
        if i % 20 == 0:
            data[0, i]
    began = time.process_time()
    for batch in batches:
        collate([data[key] for key in batch])
    return 2 * len(batches) / (time.process_time() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the folders images and masks")
    parser.add_argument("--crops", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    pairs = find_pairs(options.data / "images", options.data / "masks")
    properties = measure(pairs)
    measured = time.perf_counter()
    centers = find_centers(pairs, properties.objects)
    found = time.perf_counter()
    print(json.dumps(properties.as_dict(), indent=1))
    row = {"measure_seconds": measured - began, "centers_seconds": found - measured}
    mixture = Mixture((AnnotatedSource(pairs, properties, centers),))
    for way, augment in WAYS.items():
        row[way] = rate(CropDataset(mixture, properties, augment=augment), options.crops)
    for name, value in row.items():
        print(f"{name:32} {value:8.2f}{'' if 'seconds' in name else ' crops/s'}")
    if options.json:
        options.json.write_text(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
