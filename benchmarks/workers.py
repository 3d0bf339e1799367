"""Two workers of a cluster against two bare processes that do the same calls.

The bare processes share the tiles out beforehand and know nothing of each other: first each
predicts every second tile, then each clusters every second tile. The cluster does the same by its
scheduler, with journal and all. Both are timed from the first call to the last, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from embedseg_large.data import copy_demo
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.runs.dask.executor import DaskExecutor
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.runner import TaskRunner
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.pipeline import PredictThenCluster
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.request.request import Request
from embedseg_large.segmentation.segmenters.loading import NetworkSpec, network_spec
from embedseg_large.segmentation.stages.cluster import cluster_predictions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import predict
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.intensity import intensity_ranges

WORKERS = 2


@contextmanager
def begun(folder: Path, tta: str) -> Iterator[tuple[Request, Job]]:
    """A run that has its statistics and its scratch folder."""
    store = folder / "demo.ome.zarr"
    copy_demo(store)
    request = prepare(
        store,
        "nuclei-3d",
        "bench",
        SegmentOptions(
            device="cpu",
            tta=tta,
            output=folder / "out.zarr",
            tile=(32, 48, 48),
            cluster_tile=(64, 64, 64),
        ),
    )
    Path(request.scratch.path).mkdir(parents=True)
    job = Job(
        volume=request.volume,
        timepoint=None,
        intensity=intensity_ranges(request.volume),
        resampling=request.resampling,
        settings=request.settings,
        scratch=request.scratch,
    )
    yield request, job
    request.scratch.remove()


def predict_share(job: Job, spec: NetworkSpec, share: int) -> list[tuple[int, int]]:
    """Predict every second tile; returns the versions of the files."""
    network = spec.load()
    tiles = enumerate(job.prediction)
    return [(n, predict(network, job, i).version) for n, i in tiles if n % WORKERS == share]


def cluster_share(job: Job, versions: np.ndarray, share: int) -> None:
    """Cluster every second tile."""
    for n, index in enumerate(job.clustering()):
        if n % WORKERS == share:
            span = job.prediction.span(job.clustering().tile(index).region)
            cluster_predictions(job, index, 0, versions[tuple(slice(a, b) for a, b in span)])


def warm(spec: NetworkSpec) -> None:
    """Load what the first call would load."""
    spec.load()


def bare(tta: str) -> float:
    """Seconds of two processes."""
    with (
        tempfile.TemporaryDirectory() as place,
        begun(Path(place), tta) as (request, job),
        ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool,
    ):
        spec = network_spec(
            request.segmenter.network_to_scale(),
            request.settings.device,
            request.settings.dtype,
            folder_at(place),
        )
        list(pool.map(warm, [spec] * WORKERS))
        began = time.perf_counter()
        shares = range(WORKERS)
        found = pool.map(predict_share, [job] * WORKERS, [spec] * WORKERS, shares)
        versions = np.zeros(len(job.prediction), np.uint32)
        for number, version in (pair for share in found for pair in share):
            versions[number] = version
        grid = versions.reshape(job.prediction.counts)
        list(pool.map(cluster_share, [job] * WORKERS, [grid] * WORKERS, shares))
        return time.perf_counter() - began


def workers(tta: str) -> tuple[float, float]:
    """Seconds of two workers, and the fraction of these in which they were busy."""
    with (
        tempfile.TemporaryDirectory() as place,
        begun(Path(place), tta) as (request, job),
        cluster_client(LocalSettings(workers=WORKERS), "cpu") as client,
    ):
        spec = network_spec(
            request.segmenter.network_to_scale(),
            request.settings.device,
            request.settings.dtype,
            folder_at(place),
        )
        executor = DaskExecutor(client, spec)
        progress = Progress()
        journal = Journal(folder_at(f"{place}/journal"))
        client.run(warm, spec)
        began = time.perf_counter()
        TaskRunner(executor, journal, progress).run(PredictThenCluster(job))
        seconds = time.perf_counter() - began
        executor.close()
    busy = sum(clock.seconds for clock in progress.clocks.values())
    return seconds, busy / (WORKERS * seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tta", default="none")
    options = parser.parse_args()
    ratios, fractions = [], []
    for number in range(options.repeats):
        alone = bare(options.tta)
        together, busy = workers(options.tta)
        ratios.append(alone / together)
        fractions.append(busy)
        print(f"{number}: bare {alone:.1f} s, workers {together:.1f} s, busy {100 * busy:.0f} %")
    print(
        f"throughput of workers over bare processes: median {statistics.median(ratios):.3f}; "
        f"busy {100 * statistics.median(fractions):.0f} %"
    )


if __name__ == "__main__":
    main()
