"""How much halo each method needs: objects of a tile's core that are as in the whole volume.

::

    python benchmarks/method_locality.py three-class flows

Ideal fields of packed objects get smooth errors. The volume is decoded as a whole, and in cores of
half its edge with several halos. Counted are the objects that have a voxel in a core: how many are,
voxel for voxel and by name, what the whole volume gives.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np
from scipy import ndimage

from embedseg_large.geometry import Box
from embedseg_large.methods.protocol import FieldMethod, ObjectScale
from embedseg_large.methods.registry import FIELD_METHODS, field_method
from embedseg_large.testing.synthetic import synthetic_embryo

EDGE, DIAMETER, EXTENT = 96, 14, 18
HALOS = (4, 8, 16, 24, 32)
NOISE = 0.15
"""Deviation of the errors, in parts of the largest value of each channel."""


def fields(method: FieldMethod, labels: np.ndarray) -> np.ndarray:
    """Stored fields with smooth errors."""
    raw = method.ideal(method.targets(labels))
    noise = np.random.default_rng(0).normal(size=raw.shape)
    smooth = ndimage.gaussian_filter(noise, (0,) + (1.5,) * labels.ndim)
    largest = np.abs(raw).max(axis=tuple(range(1, raw.ndim)), keepdims=True)
    return method.stored((raw + NOISE * largest / smooth.std() * smooth).astype(np.float32))


def names(method: FieldMethod, stored: np.ndarray, region: Box) -> np.ndarray:
    """Names of the voxels of a region: 1 more than a global index."""
    edge = stored.shape[1]
    part = np.ascontiguousarray(stored[(slice(None), *region.slices)])
    faces = tuple((a > 0, b < edge) for a, b in zip(region.start, region.stop, strict=True))
    found = method.decode(part, faces, {})
    at = np.unravel_index(found.seeds, region.shape)
    moved = tuple(a + start for a, start in zip(at, region.start, strict=True))
    named = np.ravel_multi_index(moved, stored.shape[1:]) + 1
    return np.concatenate([[0], named])[found.labels]


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", default=list(FIELD_METHODS), metavar="METHOD")
    args = parser.parse_args()
    labels = synthetic_embryo((EDGE,) * 3, diameter=DIAMETER, seed=0).astype(np.int32)
    cores = [
        Box(start, tuple(a + EDGE // 2 for a in start))
        for start in product((0, EDGE // 2), repeat=3)
    ]
    print(f"{labels.max()} objects; same objects of cores at halo {HALOS}")
    for name in args.methods:
        method = field_method(name, ObjectScale(ndim=3, extent=(EXTENT,) * 3, min_object_size=30))
        stored = fields(method, labels)
        names(method, stored[:, :8, :8, :8], Box.whole((8, 8, 8)))  # compile
        began = time.perf_counter()
        whole = names(method, stored, Box.whole(labels.shape))
        rate = labels.size / (time.perf_counter() - began) / 1e6
        counts, total = [], 0
        for halo in HALOS:
            same = total = 0
            for core in cores:
                region = core.grow((halo,) * 3).clip(labels.shape)
                found = names(method, stored, region)[core.slices_in(region)]
                there = whole[core.slices]
                ids = np.unique(there[there > 0])
                total += ids.size
                same += sum(np.array_equal(found == i, there == i) for i in ids.tolist())
            counts.append(same)
        print(f"{name:12} {counts} of {total}; {rate:.2f} Mvoxel/s", flush=True)


if __name__ == "__main__":
    main()
