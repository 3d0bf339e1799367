"""Run Cellpose on a volume of any size. Needs `pip install cellpose` (4 or later).

Cellpose is not quite local: flows follow what the network sees of a whole tile. Objects on which
neighbouring tiles differ are decided by the tile that owns them, and counted as joined.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embedseg_large as es

Labels = NDArray[np.integer]


def load(device: str, diameter: float) -> Callable[[NDArray[np.float32]], Labels]:
    """Called once a worker."""
    from cellpose.models import CellposeModel

    return adapted(CellposeModel(gpu=device.startswith("cuda")), diameter)


def adapted(network: Any, diameter: float) -> Callable[[NDArray[np.float32]], Labels]:
    """A Cellpose model as a function from an image to labels.

    `normalize=False`, as the engine has normalised by percentiles of the whole volume; Cellpose
    would take those of the tile, and draw a line between a bright and a dark one.
    """

    def labels_of(image: NDArray[np.float32]) -> Labels:
        masks, *_ = network.eval(image, do_3D=True, z_axis=0, diameter=diameter, normalize=False)
        return np.asarray(masks)

    return labels_of


def main(arguments: list[str] | None = None) -> int:
    """Segment a volume; returns the number of objects."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="OME-Zarr or TIFF")
    parser.add_argument("--diameter", type=float, default=30.0, help="of an object, in voxels")
    parser.add_argument("--out", default="cellpose.ome.zarr")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(arguments)
    segmenter = es.TileSegmenter(
        name="cellpose",
        load=load,
        parameters={"diameter": options.diameter},
        halo=(int(1.5 * options.diameter),) * 3,
    )
    result = es.segment(
        options.image,
        segmenter,
        "cellpose",
        output=options.out,
        device=options.device,
        overwrite=True,
    )
    print(f"{result.n_instances} objects; {result.seams.joined} joined")
    return result.n_instances


if __name__ == "__main__":
    main()
