"""Codecs, chunks and shards for labels and for predictions: how fast, and how small.

::

    .venv/bin/python benchmarks/io.py [--edge 256] [--repeats 3] [--pipeline NAME]

Labels are those of a synthetic embryo, uint32, in zarr 3 arrays on a disk whose pages are cached;
predictions are those of an OracleNetwork on the same embryo with an error of up to a voxel, each
tile packed as a whole as in the scratch folder. A row is the median of several runs on one core, by
the seconds that the core spent; compare rows of one table. MB are of voxels before they are packed.
The rows of what the package uses are marked. `--pipeline` lets another library encode and decode
(``zarrs.ZarrsCodecPipeline``, after ``pip install zarrs``): everybody can read its files, but their
bytes differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numcodecs import LZ4, Blosc, Zstd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from embedseg_large.embedding import keep_above
from embedseg_large.geometry import Box
from embedseg_large.testing.objects import Flaws, Objects
from embedseg_large.testing.synthetic import synthetic_embryo

DIAMETER = 22
USED = ("blosc-zstd-1-bitshuffle", 64, 256)
"""Of labels: codec, edges of chunk and shard."""
USED_PACKING = "blosc-zstd-1-bitshuffle"
"""Of predictions."""

CODECS: dict[str, Callable[[], Any]] = {
    "blosc-zstd-1-bitshuffle": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
    "blosc-zstd-1-shuffle": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    "blosc-zstd-1": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"),
    "blosc-zstd-3": lambda: BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"),
    "blosc-lz4-1-bitshuffle": lambda: BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
    "blosc-lz4-1": lambda: BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"),
    "zstd-0 (zarr's default)": lambda: ZstdCodec(level=0),
    "zstd-1": lambda: ZstdCodec(level=1),
}
CUTS = ((64, 256), (32, 256), (128, 256), (64, 128), (64, 64), (128, 128))
"""Edges of chunks and shards; equal: no shards."""

PACKINGS = {
    "blosc-zstd-1-bitshuffle": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    "blosc-zstd-1-shuffle": Blosc("zstd", 1, Blosc.SHUFFLE),
    "blosc-zstd-1": Blosc("zstd", 1, Blosc.NOSHUFFLE),
    "blosc-lz4-1-bitshuffle": Blosc("lz4", 1, Blosc.BITSHUFFLE),
    "blosc-lz4-1-shuffle": Blosc("lz4", 1, Blosc.SHUFFLE),
    "zstd-1": Zstd(level=1),
    "lz4": LZ4(),
}


class Row(NamedTuple):
    """One way to store one thing."""

    name: str
    codec: str
    cut: str
    write: float
    """MB/s"""
    read: float
    """MB/s"""
    bytes_per_voxel: float

    def __str__(self) -> str:
        figures = f"{self.write:,.0f} | {self.read:,.0f} | {self.bytes_per_voxel:.3f}"
        return f"| {self.name} | {self.codec} | {self.cut} | {figures} |"


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of the core's time of a call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def rows_of_labels(labels: NDArray[np.uint32], folder: Path, repeats: int) -> Iterator[Row]:
    """Every codec as the package cuts, and every cut with the codec that it uses."""
    ways = [(codec, *USED[1:]) for codec in CODECS]
    ways += [(USED[0], *cut) for cut in CUTS if cut != USED[1:]]
    for codec, chunk, shard in ways:
        place = folder / f"{codec}-{chunk}-{shard}".replace(" ", "")
        array = zarr.create_array(
            place,
            shape=labels.shape,
            dtype=labels.dtype,
            chunks=(chunk,) * 3,
            shards=None if chunk == shard else (shard,) * 3,
            compressors=CODECS[codec](),
        )
        array[...] = labels
        write = median_seconds(lambda a=array: a.__setitem__(..., labels), repeats)
        read = median_seconds(lambda a=array: a[...], repeats)
        size = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        mark = " **used**" if (codec, chunk, shard) == USED else ""
        cut = f"{chunk}³" if chunk == shard else f"{chunk}³ in {shard}³"
        megabytes = labels.nbytes / 1e6
        yield Row("labels", codec + mark, cut, megabytes / write, megabytes / read,
                  size / labels.size)  # fmt: skip
        shutil.rmtree(place)


def rows_of_predictions(stored: NDArray[np.float16], repeats: int) -> Iterator[Row]:
    """Every way to pack a tile."""
    megabytes = stored.nbytes / 1e6
    for name, codec in PACKINGS.items():
        packed = codec.encode(stored)
        write = median_seconds(lambda c=codec: c.encode(stored), repeats)
        read = median_seconds(lambda c=codec, p=packed: c.decode(p), repeats)
        mark = " **used**" if name == USED_PACKING else ""
        size = len(packed) / stored[0].size
        cut = "x".join(map(str, stored.shape[1:]))
        yield Row("predictions", name + mark, cut, megabytes / write, megabytes / read, size)


def predictions(labels: NDArray[np.uint32]) -> NDArray[np.float16]:
    """What PREDICT keeps of a tile."""
    tile = labels[:64, :128, :128].astype(np.int64)
    stored = Objects.of(labels).predict(tile, Box.whole(tile.shape), Flaws(noise=1.0))
    return keep_above(stored, 0.1)[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pipeline", help="zarr's codec_pipeline.path")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.pipeline:
        import_module(options.pipeline.partition(".")[0])
        zarr.config.set({"codec_pipeline.path": options.pipeline})
    labels = synthetic_embryo((options.edge,) * 3, density=0.35, diameter=DIAMETER, spacing=0.8)
    print("| | codec | chunks | write, MB/s | read, MB/s | bytes/voxel |")
    print("|---|---|---|---|---|---|")
    folder = Path(tempfile.mkdtemp(prefix="embedseg-large-"))
    try:
        for row in rows_of_labels(labels, folder, options.repeats):
            print(row, flush=True)
    finally:
        shutil.rmtree(folder)
    for row in rows_of_predictions(predictions(labels), options.repeats):
        print(row, flush=True)


if __name__ == "__main__":
    main()
