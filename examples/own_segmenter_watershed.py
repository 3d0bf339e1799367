"""Run a segmenter of your own on a volume of any size: here, a watershed of scikit-image.

Any function from an image to labels will do. It is given one tile at a time, with a halo around it,
and what it finds becomes one label volume without seams. The engine (tiles, workers, resuming,
pyramid, seam report) is that of the bundled models. Needs `pip install scikit-image`.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

import embedseg_large as es

DEMO = files("embedseg_large.data")


def nuclei(image: NDArray[np.float32], radius: int) -> NDArray[np.int32]:
    """Threshold, distance transform, seeded watershed: float32 (z, y, x) to labels (z, y, x).

    Intensity 1 is Otsu's threshold of the whole volume. Otsu's threshold of `image` would be
    another one in each tile.
    """
    foreground = ndimage.gaussian_filter(image, 0.7) > 1
    distance = ndimage.distance_transform_edt(foreground)
    distance = ndimage.gaussian_filter(np.minimum(distance, 2 * radius), 0.7)
    peaks = peak_local_max(distance, min_distance=radius, labels=foreground, exclude_border=False)
    seeds = np.zeros(image.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels: NDArray[np.int32] = watershed(-distance, seeds, mask=foreground)
    return labels


def segmenter(radius: int, edge: int) -> es.TileSegmenter:
    """The function, and what the engine must know about it."""
    return es.TileSegmenter(
        nuclei,
        name="my-watershed",
        version="1",  # change it when you change the function: runs are not mixed
        parameters={"radius": radius},
        tile=(edge,) * 3,
        halo=(6 * radius,) * 3,  # one and a half objects
        intensity="otsu",
        min_object_size=2 * radius**3,
    )


def main(arguments: list[str] | None = None) -> float:
    """Segment, score, and do it again untiled. Returns the AP at IoU 0.5."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", default=str(DEMO / "blastocyst.ome.tif"))
    parser.add_argument("--truth", default=str(DEMO / "blastocyst_truth.ome.tif"))
    parser.add_argument("--out", default="own-segmenter.ome.zarr")
    parser.add_argument("--radius", type=int, default=5, help="of a small object, in voxels")
    parser.add_argument("--tile", type=int, default=80, help="edge of a tile's core, in voxels")
    parser.add_argument("--workers", type=int, help="processes to start; default: this one")
    parser.add_argument("--compare", help="a bundled model to score on the same image")
    options = parser.parse_args(arguments)

    volume = es.open_volume(options.image)
    chosen: dict[str, Any] = {"output": options.out, "workers": options.workers, "overwrite": True}
    tiled = es.segment(volume, segmenter(options.radius, options.tile), "watershed", **chosen)
    whole = segmenter(options.radius, max(volume.spatial_shape))
    untiled = es.segment(volume, whole, "untiled", output=options.out, overwrite=True)

    seams = tiled.seams
    print(f"{tiled.n_instances} nuclei in {seams.tiles} tiles, {untiled.n_instances} in one")
    print(f"{seams.agreed} agreed, {seams.repaired} repaired, {seams.joined} joined")
    (same,) = es.evaluate(tiled.path, untiled.path, thresholds=(0.9,))
    print(f"tiled against untiled: AP {same.ap:.3f} at IoU 0.9")
    (score,) = es.evaluate(tiled.path, options.truth, thresholds=(0.5,))
    print(f"watershed against the truth: AP {score.ap:.3f} at IoU 0.5")
    if options.compare:
        result = es.segment(volume, options.compare, "compare", tta=False, **chosen)
        (other,) = es.evaluate(result.path, options.truth, thresholds=(0.5,))
        print(f"{options.compare}, one pass: AP {other.ap:.3f} at IoU 0.5")
    return score.ap


if __name__ == "__main__":
    main()
