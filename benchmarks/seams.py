"""The same labels byte for byte, however the work was cut up, on a real embryo.

Segments an image with the serial engine, with two worker processes, with two other clustering
tiles, and with a halo that is too small and must be repaired, and compares every file of the
labels. With true labels it also scores them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import embedseg_large as es

WAYS = {
    "serial": {},
    "2 workers": {"workers": 2},
    "cluster tile 64": {"cluster_tile": (64, 64, 64)},
    "cluster tile 90,50,110": {"cluster_tile": (90, 50, 110)},
    "cluster tile 40, halo 6": {
        "cluster_tile": (40, 40, 40),
        "halo": (6, 6, 6),
        "max_halo": (48, 48, 48),
    },
}


OF_TILES = {"certified", "seam"}
"""Arrays beside the labels that say how an instance was decided, which tiles do determine."""


def digest(folder: str) -> str:
    """Hash of all stored chunks of a label group that tiles must not change: names and bytes."""
    sha = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        if OF_TILES & set(path.parts):
            continue
        if path.name not in ("zarr.json", ".zattrs"):  # metadata tell which settings were used
            sha.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def main() -> None:
    """Run all ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="OME-Zarr image; it is only read")
    parser.add_argument("--truth", help="its true labels")
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--channel", type=int, default=0)
    parser.add_argument("--tta", default="none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    volume = es.open_volume(options.image, channel=options.channel)
    print(f"{options.image}: {volume.spatial_shape}, tta {options.tta}, model {options.model}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way, settings in WAYS.items():
            result = es.segment(
                volume,
                es.load_model(options.model),
                way.replace(" ", "-").replace(",", ""),
                output=Path(folder) / "labels.zarr",
                tta=options.tta,
                **settings,
            )
            seams = {k: v for k, v in result.summary["seams"].items() if isinstance(v, int)}
            row = {
                "way": way,
                "digest": digest(result.path),
                "instances": result.n_instances,
                "seconds": result.summary["seconds"],
                **seams,
            }
            rows.append(row)
            print(json.dumps(row))
        if options.truth:
            for score in es.evaluate(result.path, options.truth):
                print(json.dumps(score.as_dict()))
    same = len({row["digest"] for row in rows}) == 1
    print("the same bytes" if same else "DIFFERENT bytes")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
