"""From predictions to labels on one core: voxels per second of each method.

::

    taskset -c 0 python benchmarks/method_rates.py --edge 128

Ideal fields of packed objects with smooth errors, see `method_locality.py`; the median of several
calls after the first, which compiles.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from method_locality import DIAMETER, EXTENT, fields

from embedseg_large.methods.protocol import ObjectScale
from embedseg_large.methods.registry import FIELD_METHODS, field_method
from embedseg_large.testing.synthetic import synthetic_embryo

CALLS = 3


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", default=list(FIELD_METHODS), metavar="METHOD")
    parser.add_argument("--edge", type=int, default=96, help="of the volume, in voxels")
    args = parser.parse_args()
    labels = synthetic_embryo((args.edge,) * 3, diameter=DIAMETER, seed=0).astype(np.int32)
    faces = ((False, False),) * 3
    print(f"{labels.max()} objects of {args.edge}^3 voxels, {np.mean(labels > 0):.0%} foreground")
    print("method        channels  instances  Mvoxel/s  Mvoxel/s of process time")
    for name in args.methods:
        method = field_method(name, ObjectScale(ndim=3, extent=(EXTENT,) * 3, min_object_size=30))
        stored = fields(method, labels)
        method.decode(np.ascontiguousarray(stored[:, :16, :16, :16]), faces, {})
        walls, works = [], []
        for _ in range(CALLS):
            wall, work = time.perf_counter(), time.process_time()
            found = method.decode(stored, faces, {})
            walls.append(time.perf_counter() - wall)
            works.append(time.process_time() - work)
        rates = [labels.size / 1e6 / float(np.median(each)) for each in (walls, works)]
        print(
            f"{name:13} {len(stored):8} {found.seeds.size:10} {rates[0]:9.2f} {rates[1]:9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
