"""FINISH and the pyramid on one core: labels from the results of tiles, then each coarser level.

::

    .venv/bin/python benchmarks/finish.py --repeats 5 [--json FILE] [--profile]

The labels are those of a synthetic embryo of 256³ voxels with 1000 cells, repeated along y and x;
the results are made from them, so that nothing but FINISH is measured. One core is used.
Rates are voxels of level 0 a second: by the clock, and by the seconds that the core spent on it,
which is the fairer figure where the machine has other work. A digest of all that was written tells
whether two versions of the program write the same bytes.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedseg_large.labels.pending import PendingLabels
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.scratch.versions import TileVersion, TileVersions
from embedseg_large.segmentation.stages.finish import Numbering, downsample, finish, finish_halved
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.stitching.join import Joins
from embedseg_large.stitching.relabel import offsets
from embedseg_large.stitching.tally import Roster
from embedseg_large.stitching.tile_result import TileResult
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.volumes.intensity import IntensityRange

EDGE = 256
CELLS = 1000


@dataclass(frozen=True)
class Ready:
    """A run that has come to FINISH."""

    job: Job
    results: TileVersions
    numbering: Numbering
    pending: PendingLabels

    def level(self, level: int) -> None:
        """Do one level of the pyramid, the finest from the results."""
        for box in self.pending.regions(level):
            if level > 1:
                downsample(self.job, self.pending, level, box)
                continue
            seen = box if level == 0 else self.pending.source(level, box)
            part = self.results.part(self.job.clustering().span(self.job.on_grid(seen)))
            stage = finish_halved if level else finish
            stage(self.job, self.pending, self.numbering, box, part)

    def all_levels(self) -> None:
        """Do what FINISH does."""
        for level in range(self.pending.n_levels):
            self.level(level)


def embryo(repeats: int) -> NDArray[np.uint32]:
    """Labels 1..n of cells; (256, 256 · repeats, 256 · repeats)."""
    one = synthetic_embryo((EDGE,) * 3, n_objects=CELLS, diameter=22, spacing=0.8)
    count = int(one.max())
    rows = [[one + (one > 0) * np.uint32(count * (repeats * i + j)) for j in range(repeats)]
            for i in range(repeats)]  # fmt: skip
    return np.block(rows)


def ready(labels: NDArray[np.uint32], folder: Path) -> Ready:
    """A run whose tiles have said all they have to say."""
    network = OracleNetwork.of(labels[:64, :64, :64])
    request = prepare(
        labels, network, "nuclei", SegmentOptions(output=folder / "o.zarr", intensity_range=(0, 1))
    )
    job = Job(
        volume=request.volume,
        timepoint=None,
        intensity=(IntensityRange(0, 1),),
        resampling=request.resampling,
        settings=request.settings,
        scratch=request.scratch,
        in_memory=True,
    )
    Path(request.scratch.path).mkdir(parents=True)
    names = first_voxels(labels)
    results = TileVersions.none_yet(job.clustering().counts)
    for index in job.clustering():
        result = view_of(labels[job.clustering().tile(index).core.slices], names)
        results.put(TileVersion(index, 0, job.scratch.write_result(index, 0, result)))
    layer = job.layers.of(names)
    by_layer = [np.sort(names[layer == n]) for n in range(job.clustering().counts[0])]
    rosters = [Roster(ids, ids > 0, np.ones(ids.size, np.float32)) for ids in by_layer]
    versions = [job.scratch.write_layer(n, roster) for n, roster in enumerate(rosters)]
    numbering = Numbering(
        joins=Joins.none(),
        before=offsets([ids.size for ids in by_layer]),
        versions=np.array(versions, np.uint32),
    )
    return Ready(job, results, numbering, request.target.create(np.uint32))


def first_voxels(labels: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The name of each label from 1 on: the index of its first voxel, plus one."""
    names = np.zeros(int(labels.max()) + 1, np.uint64)
    flat = labels.reshape(-1)
    names[flat[::-1]] = np.arange(flat.size, 0, -1, dtype=np.uint64)  # the last assignment stays
    return names[1:]


def view_of(core: NDArray[np.uint32], names: NDArray[np.uint64]) -> TileResult:
    """What a tile says about a core that everybody agrees on."""
    present = np.flatnonzero(np.bincount(core.reshape(-1), minlength=names.size + 1)[1:]) + 1
    present = present[np.argsort(names[present - 1])]
    local = np.zeros(names.size + 1, np.uint32)
    local[present] = np.arange(1, present.size + 1)
    size = np.ones(present.size, np.int64)
    sure = np.ones(present.size, np.bool_)
    return TileResult(
        core=local[core],
        seams=(),
        ids=names[present - 1],
        sizes=size,
        core_sizes=size,
        owned=sure,
        certain=sure,
        seediness=np.ones(present.size, np.float32),
        exact=True,
    )


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    """Time of a call by the clock, and on the core."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def digest(folder: str) -> str:
    """Hash of all files below a folder, names and bytes."""
    sha = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def measure(run: Ready, voxels: int, repeats: int) -> dict[str, object]:
    """Medians of several runs after one that compiles, as voxels a second."""
    run.all_levels()
    result: dict[str, object] = {}
    calls: dict[str, Callable[[], None]] = {
        "labels": lambda: run.level(0),
        "pyramid": lambda: [run.level(k) for k in range(1, run.pending.n_levels)] and None,
        "all": run.all_levels,
    }
    for name, call in calls.items():
        wall, cpu = zip(*(seconds(call) for _ in range(repeats)), strict=True)
        result[name] = {
            "voxels_per_second": voxels / statistics.median(wall),
            "voxels_per_core_second": voxels / statistics.median(cpu),
        }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=2, help="of the embryo, along y and x")
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    labels = embryo(options.copies)
    with tempfile.TemporaryDirectory(prefix="embedseg-large-") as folder:
        run = ready(labels, Path(folder))
        if options.profile:
            run.all_levels()
            with cProfile.Profile() as profile:
                run.all_levels()
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)
            return
        result = measure(run, labels.size, options.repeats)
        about = {"shape": labels.shape, "objects": int(labels.max()),
                 "foreground": float((labels > 0).mean()), "levels": run.pending.n_levels,
                 "digest": digest(run.pending.path)}  # fmt: skip
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    for name, rate in result.items():
        print(
            f"{name:>8}  {rate['voxels_per_second'] / 1e6:6.1f} million voxels/s by the clock, "
            f"{rate['voxels_per_core_second'] / 1e6:6.1f} on the core"
        )
    if options.json:
        options.json.write_text(json.dumps(about | result, indent=2))


if __name__ == "__main__":
    main()
