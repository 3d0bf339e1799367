"""CLUSTER on one core: rate and growth, sorting and cell list included.

Predictions are those of an OracleNetwork on synthetic embryos with 1 object per 6000 voxels and
15 to 20 % foreground, offsets with an error of up to one voxel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from embedseg_large.clustering.cluster import cluster, cluster_points, points_of_stored
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import dequantise
from embedseg_large.geometry import Box
from embedseg_large.testing.objects import Flaws, Objects
from embedseg_large.testing.synthetic import synthetic_embryo

EDGES = (128, 160, 192, 256, 320)
CLOSED = ((False, False),) * 3
OPEN = ((True, True),) * 3


def predictions(edge: int) -> tuple[np.ndarray, int]:
    """Stored predictions of an embryo, and its number of objects."""
    shape = (edge,) * 3
    labels = synthetic_embryo(shape, n_objects=edge**3 // 6000, diameter=12.9, spacing=0.9)
    objects = Objects.of(labels)
    stored = objects.predict(labels.astype(np.int64), Box.whole(shape), Flaws(noise=1.0))
    return stored, len(np.unique(labels)) - 1


def median_seconds(call, repeats: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rule = ClusteringSettings(min_object_size=30, reach=(24.0, 24.0, 24.0))
    rows = []
    for edge in EDGES:
        stored, objects = predictions(edge)
        embedding = dequantise(stored)
        calls = {
            "tile": lambda s=stored: cluster_points(points_of_stored(s, rule), rule, CLOSED),
            "certified": lambda s=stored: cluster_points(points_of_stored(s, rule), rule, OPEN),
            "es.cluster": lambda e=embedding: cluster(e, min_object_size=30),
        }
        found = len(calls["tile"]().seeds)
        seconds = {name: median_seconds(call, options.repeats) for name, call in calls.items()}
        foreground = float((embedding.seeds > 0.5).mean())
        rows.append(
            {
                "edge": edge,
                "objects": objects,
                "found": found,
                "foreground": foreground,
                **{f"{n}_seconds": s for n, s in seconds.items()},
            }
        )
        rates = "  ".join(f"{n} {edge**3 / s / 1e6:6.1f} M/s" for n, s in seconds.items())
        print(
            f"{edge}³  {objects:5d} objects, {found:5d} found, "
            f"{100 * foreground:.1f} % foreground  {rates}"
        )
    voxels = np.log([r["edge"] ** 3 for r in rows])
    for name in ("tile", "certified", "es.cluster"):
        slope = np.polyfit(voxels, np.log([r[f"{name}_seconds"] for r in rows]), 1)[0]
        print(f"growth exponent of {name}: {slope:.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
