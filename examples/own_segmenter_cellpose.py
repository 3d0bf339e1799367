"""Run Cellpose on a volume of any size. Needs `pip install cellpose` (4 or later).

Cellpose is not quite local: flows follow what the network sees of a whole tile. Where neighbouring
tiles differ, objects are matched by overlap, and counted as joined. To write such an adapter for
another program, see the source of `embedseg_large.adapters`.
"""

from __future__ import annotations

import argparse

import embedseg_large as es
from embedseg_large.adapters import cellpose


def main(arguments: list[str] | None = None) -> int:
    """Segment a volume; returns the number of objects."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="OME-Zarr or TIFF")
    parser.add_argument("--diameter", type=float, default=30.0, help="of an object, in voxels")
    parser.add_argument("--out", default="cellpose.ome.zarr")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(arguments)
    result = es.segment(
        options.image,
        cellpose(options.diameter),
        "cellpose",
        output=options.out,
        device=options.device,
        overwrite=True,
    )
    print(f"{result.n_instances} objects; {result.seams.joined} joined")
    return result.n_instances


if __name__ == "__main__":
    main()
