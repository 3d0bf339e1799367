"""Workers that nobody can reach: all gone for a while, or one cut off from the network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.geometry import Box
from embedseg_large.runs.events import Event, StageBegun, TaskDone, WorkersBack, WorkersGone
from embedseg_large.runs.progress import Observer
from embedseg_large.testing.oracle import OracleNetwork

Labels = NDArray[Any]
OPTIONS: dict[str, Any] = {
    "intensity_range": (0, 1),
    "cluster_tile": (24, 30, 30),
    "halo": (6, 6, 6),
}


def in_this_process(workers: int) -> LocalCluster:
    """A cluster without processes, which are slow to start."""
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0"
    )


def test_a_run_without_workers_says_so_and_goes_on_when_there_are_some_again(
    tmp_path: Path,
    image: Labels,
    network: OracleNetwork,
    expected: Labels,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Scale(Observer):
        """Takes all workers away after a few tiles, and brings two when they are missed."""

        def __init__(self, cluster: LocalCluster) -> None:
            self.cluster, self.predicted = cluster, 0
            self.told: list[Event] = []

        def notice(self, event: Event) -> None:
            if isinstance(event, TaskDone) and event.stage == "predict":
                self.predicted += 1
                if self.predicted == 5:
                    self.cluster.scale(0)
            if isinstance(event, WorkersGone | WorkersBack):
                self.told.append(event)
                self.cluster.scale(2)

    with (
        in_this_process(2) as cluster,
        Client(cluster) as client,
    ):
        watcher, out = Scale(cluster), tmp_path / "out.zarr"
        result = es.segment(image, network, output=out, client=client, watcher=watcher, **OPTIONS)
    assert [type(event) for event in watcher.told] == [WorkersGone, WorkersBack]
    assert "all workers are gone; waiting" in caplog.text
    assert "the run continues" in caplog.text
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


# -- a network that is cut -------------------------------------------------------------------------

HERE, THERE = "198.51.100.1", "198.51.100.2"
"""Addresses for documentation (RFC 5737): no network has them."""
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Namespace:
    """A network of its own, which one cable connects with that of this machine."""

    name: str
    plug: str
    """The end of the cable in there."""

    def cut(self) -> None:
        ip("-n", self.name, "link", "set", self.plug, "down")

    def mend(self) -> None:
        ip("-n", self.name, "link", "set", self.plug, "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if which("ip") is None:
        pytest.skip("networks are cut with ip, of iproute2, which is not installed")
    number = os.getpid() % 10**6
    made = Namespace(f"embedseg-{number}", f"there{number}")
    socket = f"here{number}"
    try:
        ip("netns", "add", made.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        ip("link", "add", socket, "type", "veth", "peer", "name", made.plug, "netns", made.name)
        ip("address", "add", f"{HERE}/30", "dev", socket)
        ip("link", "set", socket, "up")
        ip("-n", made.name, "address", "add", f"{THERE}/30", "dev", made.plug)
        ip("-n", made.name, "link", "set", "lo", "up")
        made.mend()
        yield made
    finally:
        ip("netns", "delete", made.name)  # and the cable with it


@contextmanager
def workers_here_and_there(folder: Path, there: Namespace) -> Iterator[Client]:
    """A client of two processes, one of them in a namespace; nobody restarts them."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    bare = ["--no-nanny", "--nthreads", "1", "--local-directory", str(folder)]
    inside = ["ip", "netns", "exec", there.name]
    settings = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s"}
    with ExitStack() as stack:

        def start(program: str, *more: str, before: tuple[str, ...] = (), **env: str) -> None:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", f"distributed.cli.{program}", *common, *more],
                env=os.environ | settings | env,
                cwd=REPOSITORY,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        start("dask_scheduler", "--host", HERE, "--port", "0")
        wait_until(lambda: file.exists() and file.read_text() != "")
        start("dask_worker", "--host", HERE, *bare)
        start("dask_worker", "--host", THERE, *bare, before=tuple(inside), EMBEDSEG_TEST="there")
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            yield client


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True, eq=False)
class Held(OracleNetwork):
    """Is held at its first tile in the worker that will be cut off, until it is let go."""

    place: Path

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        held = self.place / "held"
        if os.environ.get("EMBEDSEG_TEST") == "there" and not held.exists():
            held.write_text("-".join(str(a // 24) for a in region.start))
            wait_until((self.place / "let go").exists)
        return super().predict_tile(image, region, tta)


@pytest.mark.slow
def test_a_worker_whose_network_is_cut_writes_after_all_and_changes_nothing(
    tmp_path: Path, image: Labels, network: OracleNetwork, expected: Labels, namespace: Namespace
) -> None:
    """It is given up; what it did is done elsewhere; it comes back, and finishes what it was at."""
    out, held = tmp_path / "place" / "out.zarr", tmp_path / "held"
    holding = Held.like(network, place=tmp_path)

    def attempts() -> list[Path]:
        first, second, third = held.read_text().split("-")
        predictions = out.parent / ".out.zarr-nuclei.run" / "predictions"
        return list((predictions / first).glob(f"{second}.{third}-*"))

    class Cable(Observer):
        """Cut when the worker is in the middle of a tile, mended when all tiles are done."""

        is_cut = False
        workers = 2
        written: tuple[int, ...] = ()

        def notice(self, event: Event) -> None:
            if isinstance(event, TaskDone) and not self.is_cut and held.exists():
                self.is_cut = True
                namespace.cut()
            if isinstance(event, StageBegun) and event.stage == "check" and not self.written:
                self.workers = len(client.nthreads())
                before = len(attempts())
                namespace.mend()
                (tmp_path / "let go").touch()
                wait_until(lambda: len(attempts()) > before)
                self.written = (before, len(attempts()))

    with workers_here_and_there(tmp_path, namespace) as client:
        cable = Cable()
        result = es.segment(image, holding, output=out, client=client, watcher=cable, **OPTIONS)
    assert cable.is_cut
    assert cable.workers == 1  # it was given up
    assert cable.written == (1, 2)  # it did write
    np.testing.assert_array_equal(np.asarray(result.labels), expected)
    assert [path.name for path in out.parent.iterdir()] == ["out.zarr"]
