"""Real predictions of trained models: labels of tiles against those of the whole image.

::

    embedseg-large compare --images I --masks M --out compare.html
    python benchmarks/method_tiles.py compare.comparison/*.safetensors --image I/1.tif --tile 40

Each model predicts once. The image is then decoded as a whole, and in tiles with several halos at
first. Objects are the same if they are equal voxel for voxel. A promise is broken where the seam
report lists nothing as joined, and yet an object differs; or where all tiles are proven, and
something was joined.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import embedseg_large as es
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores

HALOS = (2, 8, 16, 24)
"""Two voxels are the least: neighbours compare two layers on either side of a seam."""


def broken(found: es.SegmentResult, is_equal: bool) -> bool:
    """Whether a promise of the seam report was not kept."""
    seams = found.seams
    if seams.promise == "joined":
        return not is_equal
    all_proven = seams.tiles_exact == seams.tiles
    return (not is_equal and seams.joined == 0) or (all_proven and seams.joined > 0)


def main() -> None:
    """Print a line for each model and halo."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--image", required=True)
    parser.add_argument("--tile", type=int, default=40, help="edge of a core, in voxels")
    parser.add_argument("--no-repair", action="store_true", help="halos do not grow")
    args = parser.parse_args()
    print("model         promise  halo  same       repaired  joined  certified  tiles   broken")
    for path in args.models:
        model = es.load_model(path)
        volume = es.open_volume(args.image).flattened()
        tile = tuple(min(args.tile, n) for n in volume.spatial_shape)
        with TemporaryDirectory() as folder:
            store = Path(folder, "labels.ome.zarr")
            whole = es.segment(
                volume,
                model,
                "whole",
                output=store,
                cluster_tile=volume.spatial_shape,
                keep_predictions=True,
            )
            wanted = whole.labels.compute()
            for halo in HALOS:
                most = {"max_halo": (halo,) * model.ndim} if args.no_repair else {}
                found = es.segment(
                    volume,
                    model,
                    f"halo-{halo}",
                    output=store,
                    cluster_tile=tile,
                    halo=(halo,) * model.ndim,
                    from_predictions=whole.summary["predictions"],
                    **most,
                )
                same = scores(Contingency.of(found.labels.compute(), wanted), (1.0,))[0]
                seams = found.seams
                is_equal = same.fn == same.fp == 0
                print(
                    f"{Path(path).stem[:13]:13} {seams.promise:7} {halo:5}  "
                    f"{f'{same.tp} of {whole.n_instances}':10} {seams.repaired:8} "
                    f"{seams.joined:7} {seams.certified:10} "
                    f"{f'{seams.tiles_exact}/{seams.tiles}':>7}  {broken(found, is_equal)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
