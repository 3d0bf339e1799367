"""Peak memory of `segment` on a small and a large volume: it must not grow with the volume.

Each run is a process of its own; its peak resident memory is what the kernel says about it.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from embedseg_large.testing.lazy import lazy_embryo

SHAPES = {"64 MB": (256, 256, 256), "1 GB": (512, 1024, 512)}
"""uint32 voxels: 64 MiB and 1 GiB."""


CLUSTER_TILE = (80, 80, 80)
"""So that the small volume, too, has tiles in its interior, whose regions no border clips."""


def run(folder: Path) -> None:
    """Segment one volume in this process and print its peak memory in MiB."""
    import embedseg_large as es

    with (folder / "network.pickle").open("rb") as file:
        network = pickle.load(file)
    result = es.segment(
        str(folder / "embryo.zarr"), network, intensity_range=(0, 1), cluster_tile=CLUSTER_TILE
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seams = result.seams
    print(f"{peak:.0f} {result.n_instances} {seams.joined} {result.summary['seconds']}")


def main() -> None:
    """Write the volumes, segment each in its own process, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run)
        return
    peaks = {}
    for name, shape in SHAPES.items():
        folder = Path(tempfile.mkdtemp(prefix="embedseg-memory-"))
        network = lazy_embryo(folder / "embryo.zarr", shape, dtype="uint32", diameter=20)
        (folder / "network.pickle").write_bytes(pickle.dumps(network))
        printed = subprocess.run(
            [sys.executable, __file__, "--run", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        peak, instances, joined, seconds = (float(v) for v in printed.split())
        peaks[name] = peak
        print(
            f"{name:>6}  {shape}  {instances:.0f} instances, {joined:.0f} joined, "
            f"{seconds:.0f} s, peak {peak:.0f} MiB"
        )
        shutil.rmtree(folder)
    small, large = peaks.values()
    print(f"growth of peak memory: {100 * (large / small - 1):+.1f} %")


if __name__ == "__main__":
    main()
