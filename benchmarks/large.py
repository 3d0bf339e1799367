"""Volumes of 0.25, 1 and 4 GB on two workers with little memory: their peak, and that of scratch.

The network is the oracle, so that what is measured is the engine: reading, predictions on disk,
clustering, checking, writing. Peak memory is what the kernel says about each worker process that is
there at the end; how many had to be restarted for want of memory is told as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path

import embedseg_large as es
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.testing.lazy import lazy_embryo

SHAPES = {"0.25": (400,) * 3, "1": (640,) * 3, "4": (1024,) * 3}
"""Of uint32 voxels; GB. Cubes of at least four tiles an axis, so that each has tiles inside."""


def peak() -> float:
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class DiskWatch(threading.Thread):
    """Notes how large a folder gets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.peak = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Look every few seconds."""
        while not self.stop.wait(5):
            size = 0
            for path in self.folder.rglob("*"):
                try:
                    size += path.stat().st_size if path.is_file() else 0
                except OSError:
                    continue
            self.peak = max(self.peak, size)


def measure(name: str, memory: str) -> float:
    """Segment one volume; returns the peak memory of a worker."""
    folder = Path(tempfile.mkdtemp(prefix="embedseg-large-"))
    try:
        store = folder / "embryo.zarr"
        network = lazy_embryo(store, SHAPES[name], dtype="uint32", diameter=20)
        began = time.perf_counter()
        with cluster_client(LocalSettings(workers=2, memory=memory), "cpu") as client:
            watch = DiskWatch(folder / ".embryo.zarr-nuclei.run")
            watch.start()
            before = set(client.run(os.getpid).values())
            result = es.segment(str(store), network, intensity_range=(0, 1), client=client)
            watch.stop.set()
            peaks = client.run(peak)
            restarted = len(before - set(client.run(os.getpid).values()))
        seconds = time.perf_counter() - began
        print(
            f"{name:>5} GB  {result.n_instances:,} instances, {result.seams.joined} joined, "
            f"{seconds:.0f} s, workers at most {max(peaks.values()):.0f} MiB, "
            f"{restarted} restarted, scratch at most {watch.peak / 2**30:.2f} GiB",
            flush=True,
        )
        return max(peaks.values())
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--memory", default="1GB", help="limit of a worker")
    options = parser.parse_args()
    peaks = [measure(name, options.memory) for name in options.sizes]
    print(f"largest over smallest peak: {max(peaks) / min(peaks):.3f}")


if __name__ == "__main__":
    main()
