"""Run StarDist on a volume of any size. Needs `pip install stardist tensorflow`.

StarDist has a tiled prediction of its own (`predict_instances_big`), on one machine. Here its
network runs on the workers of a Dask cluster, and a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embedseg_large as es

Labels = NDArray[np.integer]


def load(device: str, model: str) -> Callable[[NDArray[np.float32]], Labels]:  # noqa: ARG001
    """Called once a worker; TensorFlow finds the GPU itself."""
    from stardist.models import StarDist3D

    return adapted(StarDist3D.from_pretrained(model))


def adapted(network: Any) -> Callable[[NDArray[np.float32]], Labels]:
    """A StarDist model as a function from an image to labels.

    Its images are to be normalised by percentiles, which the engine has done: by those of the whole
    volume. `normalizer` is left out, which would take those of the tile.
    """

    def labels_of(image: NDArray[np.float32]) -> Labels:
        labels, _ = network.predict_instances(image, axes="ZYX", show_tile_progress=False)
        return np.asarray(labels)

    return labels_of


def main(arguments: list[str] | None = None) -> int:
    """Segment a volume; returns the number of objects."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="OME-Zarr or TIFF")
    parser.add_argument("--model", default="3D_demo", help="name of a pretrained StarDist model")
    parser.add_argument("--extent", type=int, default=40, help="of the largest object, in voxels")
    parser.add_argument("--out", default="stardist.ome.zarr")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    segmenter = es.TileSegmenter(
        name="stardist",
        load=load,
        parameters={"model": options.model},
        halo=(options.extent,) * 3,
    )
    result = es.segment(
        options.image,
        segmenter,
        "stardist",
        output=options.out,
        device=options.device,
        overwrite=True,
    )
    print(f"{result.n_instances} objects; {result.seams.joined} joined")
    return result.n_instances


if __name__ == "__main__":
    main()
