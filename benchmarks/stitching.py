"""What tools do at the seams, given the same segmenter: how well objects are put together again.

::

    pip install patchworks bioimage-py
    python benchmarks/stitching.py --seeds 0 1 2

Synthetic objects are shown to each tool through one function, which labels a tile with its halo. It
is perfect, or its outlines are bent by a random field that differs in every tile, as those of a
network are that sees another surrounding. Tools that are not installed are left out. Scores are
against the true objects; a label is *merged* if it holds most of two of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import embedseg_large as es
from embedseg_large.testing.synthetic import synthetic_embryo

SHAPE, TILE, HALO, DIAMETER = (96, 192, 192), (48, 64, 64), 16, 15
KINDS = {
    "nuclei": {"density": 0.25, "spacing": 1.3},
    "packed": {"density": 0.5, "spacing": 0.85},
    "tissue": {"density": 1.2, "spacing": 0.6},
}
"""Of `synthetic_embryo`: none touch, most touch, and hardly any background is left."""
IOUS = (0.5, 0.75, 0.9)


def segmented(image: np.ndarray, jitter: float) -> np.ndarray:
    """Labels of the image of a tile, whose voxels are the ids of true objects."""
    ids = np.asarray(image).astype(np.int64)
    if jitter:
        rng = np.random.default_rng(int(sha256(ids.tobytes()).hexdigest()[:8], 16))
        at = np.indices(ids.shape).astype(np.float32)
        for axis in at:
            coarse = rng.normal(0, jitter, [max(2, n // 6) for n in ids.shape])
            zoom = [n / m for n, m in zip(ids.shape, coarse.shape, strict=True)]
            axis += ndimage.zoom(coarse, zoom, order=1)
        bent = [
            np.clip(np.rint(a), 0, n - 1).astype(int) for a, n in zip(at, ids.shape, strict=True)
        ]
        ids = ids[tuple(bent)]
    return np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)


Tool = Callable[[np.ndarray, float], np.ndarray]


def cores(ids: np.ndarray, jitter: float) -> np.ndarray:
    """Each tile's own labels of its core, side by side."""
    found, used = np.zeros(ids.shape, np.int64), 0
    for start in product(*(range(0, n, t) for n, t in zip(ids.shape, TILE, strict=True))):
        low = [max(a - HALO, 0) for a in start]
        seen = tuple(slice(a, b + t + HALO) for a, b, t in zip(low, start, TILE, strict=True))
        inner = tuple(slice(b - a, b - a + t) for a, b, t in zip(low, start, TILE, strict=True))
        labels = segmented(ids[seen], jitter)[inner]
        core = tuple(slice(b, b + t) for b, t in zip(start, TILE, strict=True))
        found[core] = np.where(labels > 0, labels + used, 0)
        used += int(labels.max(initial=0))
    return found


def touching(ids: np.ndarray, jitter: float) -> np.ndarray:
    """Labels that touch across a face are one object: what dask-image does."""
    found = cores(ids, jitter)
    pairs = [np.empty((2, 0), np.int64)]
    for axis, step in enumerate(TILE):
        for at in range(step, ids.shape[axis], step):
            low, high = (np.take(found, i, axis).ravel() for i in (at - 1, at))
            pairs.append(np.stack([low, high])[:, (low > 0) & (high > 0)])
    a, b = np.concatenate(pairs, axis=1)
    size = int(found.max()) + 1
    graph = coo_array((np.ones(a.size), (a, b)), shape=(size, size))
    component = connected_components(graph, directed=False)[1]
    return np.where(found > 0, component[found] + 1, 0)


def patchworks(ids: np.ndarray, jitter: float, stitch: str) -> np.ndarray:
    """The package patchworks."""
    import dask.array as da
    from patchworks import tile_process

    with TemporaryDirectory() as folder:
        image = da.from_array(ids.astype(np.float32), chunks=TILE)
        found = tile_process(
            image,
            partial(segmented, jitter=jitter),
            tile_shape=TILE,
            overlap=HALO,
            stitch=stitch,
            write_to=Path(folder, "labels.zarr"),
            stage_dir=folder,
            progress=False,
        )
        return np.asarray(found)


def bioimage_py(ids: np.ndarray, jitter: float) -> np.ndarray:
    """The package bioimage-py."""
    from bioimage_py.segmentation import stitch_segmentation

    def function(image: np.ndarray, tile: int) -> np.ndarray:  # noqa: ARG001
        return segmented(image, jitter)

    found = stitch_segmentation(ids.astype(np.float32), function, TILE, (HALO,) * 3)
    return np.asarray(found)


def ours(ids: np.ndarray, jitter: float) -> np.ndarray:
    """A TileSegmenter; tiles may see no more than the same halo."""
    with TemporaryDirectory() as folder:
        segmenter = es.TileSegmenter(
            segmented,
            name="jitter",
            tile=TILE,
            halo=(HALO,) * 3,
            parameters={"jitter": jitter},
            intensity="raw",
        )
        out = Path(folder, "out.ome.zarr")
        image = ids.astype(np.float32)
        result = es.segment(image, segmenter, output=out, max_halo=(HALO,) * 3)
        return np.asarray(result.labels)


TOOLS: dict[str, Tool] = {
    "nothing": cores,
    "touching labels": touching,
    "patchworks, touch": partial(patchworks, stitch="touch"),
    "patchworks, iou": partial(patchworks, stitch="iou"),
    "bioimage-py": bioimage_py,
    "TileSegmenter": ours,
}


def merged(found: np.ndarray, ids: np.ndarray) -> int:
    """Labels that hold more than half of each of two objects or more."""
    most = []
    for number in np.unique(ids[ids > 0]).tolist():
        labels, counts = np.unique(found[ids == number], return_counts=True)
        best = counts.argmax()
        if labels[best] > 0 and 2 * counts[best] > counts.sum():
            most.append(int(labels[best]))
    return int(np.count_nonzero(np.unique(most, return_counts=True)[1] > 1))


def main() -> None:
    """Print a line for each tool and kind of volume: means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jitter", type=float, nargs="+", default=[0.0, 0.75, 1.5])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[dict[str, Any]] = []
    for kind, jitter in product(args.kinds, args.jitter):
        volumes = [
            synthetic_embryo(SHAPE, diameter=DIAMETER, seed=seed, **KINDS[kind])
            for seed in args.seeds
        ]
        print(f"{kind}, jitter {jitter}: {[int(v.max()) for v in volumes]} objects", flush=True)
        for name in args.tools:
            try:
                found = [TOOLS[name](ids, jitter) for ids in volumes]
            except ImportError as error:
                print(f"  {name}: left out ({error})")
                continue
            scored = [
                es.evaluate(f.astype(np.uint32), v, thresholds=IOUS)
                for f, v in zip(found, volumes, strict=True)
            ]
            f1 = np.mean([[s.f1 for s in scores] for scores in scored], axis=0).round(4)
            joined = [merged(f, v) for f, v in zip(found, volumes, strict=True)]
            row = {
                "kind": kind,
                "jitter": jitter,
                "tool": name,
                "f1": dict(zip(map(str, IOUS), f1.tolist(), strict=True)),
                "merged": sum(joined),
            }
            rows.append(row)
            print(f"  {name:20} F1 {row['f1']}, merged {row['merged']}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
