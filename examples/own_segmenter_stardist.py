"""Run StarDist on a volume of any size. Needs `pip install stardist tensorflow`.

StarDist has a tiled prediction of its own (`predict_instances_big`), on one machine. Here its
network runs on the workers of a Dask cluster, and a run that is stopped goes on. To write such an
adapter for another program, see the source of `embedseg_large.adapters`.
"""

from __future__ import annotations

import argparse

import embedseg_large as es
from embedseg_large.adapters import stardist


def main(arguments: list[str] | None = None) -> int:
    """Segment a volume; returns the number of objects."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="OME-Zarr or TIFF")
    parser.add_argument("--model", default="3D_demo", help="name of a pretrained StarDist model")
    parser.add_argument("--extent", type=int, default=40, help="of the largest object, in voxels")
    parser.add_argument("--out", default="stardist.ome.zarr")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    result = es.segment(
        options.image,
        stardist(options.model, options.extent),
        "stardist",
        output=options.out,
        device=options.device,
        overwrite=True,
    )
    print(f"{result.n_instances} objects; {result.seams.joined} joined")
    return result.n_instances


if __name__ == "__main__":
    main()
