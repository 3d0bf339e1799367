"""What a million tiles cost besides their computation: tasks that do nothing, and a journal of all.

*Tasks*: tasks of the size and shape of real ones (a job, an index, versions) whose function returns
at once, on a cluster of processes, noted in a journal on disk. The scheduler is a process of its
own, so that its memory and the client's are told apart.

*Resume*: a journal in which every tile of a grid is predicted, clustered, checked and written, is
read and gone through as the same command would, until nothing is left to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from embedseg_large.runs.dask.executor import DaskExecutor
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.runner import TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.pipeline import PredictThenCluster
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.seams import SeamCheck
from embedseg_large.segmentation.segmenters.loading import NetworkSpec
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.storage.open import folder_at
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.volumes.intensity import IntensityRange

EDGE = 16


def job_of(tiles: int, folder: Path) -> Job:
    """A job on a volume that exists only as a description, of about so many tiles."""
    n = round(tiles ** (1 / 3))
    import zarr

    path = folder / "volume.zarr"
    zarr.create_array(path, shape=(n * EDGE,) * 3, chunks=(EDGE,) * 3, dtype="u2")
    network = OracleNetwork.of(np.ones((EDGE,) * 3, np.uint16), tile=(EDGE,) * 3)
    request = prepare(
        path,
        network,
        "nuclei",
        SegmentOptions(
            axes="zyx",
            output=folder / "out.zarr",
            tile=(EDGE,) * 3,
            cluster_tile=(EDGE,) * 3,
            halo=(8,) * 3,
        ),
    )
    return Job(
        volume=request.volume,
        timepoint=None,
        intensity=(IntensityRange(0.0, 1.0),),
        resampling=request.resampling,
        settings=request.settings,
        scratch=request.scratch,
    )


def nothing(job: Job, index: Any) -> int:  # noqa: ARG001 - as large as a real call
    """A stage that is done at once."""
    return 5


def idle_tasks(job: Job, count: int) -> Iterator[Task]:
    """Tasks of a real size."""
    for number, index in zip(range(count), job.prediction, strict=False):
        yield Task(
            stage="predict",
            make=partial(Call, nothing, (job, index)),
            index=index,
            ledger="predict",
            number=number,
        )


def rss(pid: int | str = "self") -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextmanager
def cluster(workers: int, folder: Path) -> Iterator[tuple[Client, int]]:
    """A client of a scheduler and workers of their own, and the scheduler's process."""
    file = folder / "scheduler.json"
    start = partial(subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dask = [sys.executable, "-m"]
    common = ["--scheduler-file", str(file)]
    scheduler = start(
        [*dask, "distributed.cli.dask_scheduler", *common, "--port", "0", "--no-dashboard"]
    )
    many = ["--nworkers", str(workers), "--nthreads", "1", "--local-directory", str(folder)]
    worker = start([*dask, "distributed.cli.dask_worker", *common, *many, "--no-dashboard"])
    try:
        while not (file.exists() and file.read_text().strip()):
            time.sleep(0.1)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers)
            yield client, scheduler.pid
    finally:
        worker.terminate()
        scheduler.terminate()
        worker.wait()
        scheduler.wait()


def tasks(count: int, workers: int) -> dict[str, Any]:
    """Do nothing so many times."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job = job_of(count, folder)
        with cluster(workers, folder) as (client, scheduler):
            spec = NetworkSpec(folder=None, network=None, device="cpu", dtype="float32")
            executor = DaskExecutor(client, spec)
            journal = Journal(folder_at(str(folder / "journal")))
            runner = TaskRunner(executor, journal, Progress())
            runner.run(Each(idle_tasks(job, 50)))
            before = rss(), rss(scheduler)
            began = time.perf_counter()
            runner.run(Each(idle_tasks(job, count)))
            seconds = time.perf_counter() - began
            after = rss(), rss(scheduler)
        files = [p for p in (folder / "journal").rglob("*") if p.is_file()]
        done = len(job.prediction)
        return {
            "tiles": done,
            "tasks_per_second": done / seconds,
            "ms_per_task": 1000 * seconds / done,
            "client_mib": after[0] - before[0],
            "scheduler_mib": after[1] - before[1],
            "journal_files": len(files),
            "journal_bytes_per_task": sum(p.stat().st_size for p in files) / done,
        }


class NoExecutor:
    """Is given nothing to do."""

    def run(self, work: Any) -> None:
        """Go through what is done already."""
        task = work.next()
        if task is not None:
            raise AssertionError(f"{task.stage} {task.number} is not done")


def resume(count: int) -> dict[str, Any]:
    """Go through a run in which everything is done."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job = job_of(count, folder)
        tiles = len(job.prediction)
        journal = Journal(folder_at(str(folder / "journal")))
        for number in range(tiles):
            for ledger in ("predict", "cluster/0", "check/0", "finish/0"):
                journal.note(ledger, number, (5, 0 if ledger == "predict" else None))
        for layer in range(job.clustering().counts[0]):
            journal.note("account/0", layer, (5, [0, 0, [], []]))
        journal.flush()
        before = rss()
        began = time.perf_counter()
        journal = Journal(folder_at(str(folder / "journal"))).load()
        loaded = time.perf_counter()
        runner = TaskRunner(NoExecutor(), journal, Progress())
        source = PredictThenCluster(job)
        runner.run(source)
        clustered = time.perf_counter()
        SeamCheck(job, runner, source.predictions, source.results).run()
        checked = time.perf_counter()
        return {
            "tiles": tiles,
            "load_s": loaded - began,
            "predict_cluster_s": clustered - loaded,
            "check_s": checked - clustered,
            "resume_s": checked - began,
            "client_mib": rss() - before,
        }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as Markdown."""
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        cells = (f"{v:,.2f}" if isinstance(v, float) else f"{v:,}" for v in row.values())
        print("| " + " | ".join(cells) + " |")


def fit(rows: list[dict[str, Any]], name: str, tiles: float = 1e6) -> float:
    """A straight line through a column, at a number of tiles."""
    x, y = ([row[key] for row in rows] for key in ("tiles", name))
    slope, offset = np.polyfit(x, y, 1)
    return float(slope * tiles + offset)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--resume", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    done = [tasks(count, options.workers) for count in options.tasks]
    gone_through = [resume(count) for count in options.resume]
    print_table(done)
    print()
    print_table(gone_through)
    if len(gone_through) > 1:
        at = {name: fit(gone_through, name) for name in ("resume_s", "client_mib")}
        print(f"\nfit to 10^6 tiles: resume {at['resume_s']:.0f} s, {at['client_mib']:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps({"tasks": done, "resume": gone_through}, indent=1))


if __name__ == "__main__":
    main()
