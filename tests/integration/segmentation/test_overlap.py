"""On a GPU the network is never idle: the next tile has been read, the last is still being written.

No GPU is needed: a run is told that its device is one, and an oracle stands in for the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import RunError
from embedseg_large.geometry import Box
from embedseg_large.runs.dask.plugin import NetworkPlugin
from embedseg_large.runs.devices import TASKS_PER_GPU
from embedseg_large.runs.events import Event, TaskDone
from embedseg_large.runs.progress import Observer
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.estimate import estimate_of
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.loading import NetworkSpec, OneAtATime
from embedseg_large.segmentation.stages import predict as stages
from embedseg_large.segmentation.stages.predict import read_padded
from embedseg_large.testing.oracle import OracleNetwork

Labels = NDArray[Any]
OPTIONS: dict[str, Any] = {
    "intensity_range": (0, 1),
    "cluster_tile": (24, 30, 30),
    "halo": (6, 6, 6),
}
TILES = 27
PATIENCE = 30.0
"""Seconds until a step that waits for another one gives up: nothing waits in a run that works."""


class Steps:
    """Stands at the steps of PREDICT, and lets none end before its neighbours are at work.

    A tile stays in the network until the next one has been read, and one that is to be written is
    held until another is in the network. A run that does one thing after another comes no further.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tiles: int) -> None:
        self.tiles, self.inside, self.most_inside, self.under_way = tiles, 0, 0, 0
        self.read = self.entered = self.written = self.most_under_way = 0
        self._changed = threading.Condition()
        self._mine = threading.local()
        self._stuck = False
        whole = self._whole(stages.predict_core)
        monkeypatch.setattr("embedseg_large.segmentation.stages.predict.predict_core", whole)
        reading = self._reading(read_padded)
        monkeypatch.setattr("embedseg_large.segmentation.stages.predict.read_padded", reading)
        monkeypatch.setattr(
            OracleNetwork, "predict_tile", self._predicting(OracleNetwork.predict_tile)
        )
        monkeypatch.setattr(Scratch, "write_prediction", self._writing(Scratch.write_prediction))

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            self._stuck |= not self._changed.wait_for(lambda: is_so() or self._stuck, PATIENCE)
            self._changed.notify_all()
        assert not self._stuck, "nothing else goes on meanwhile"

    def _change(self, **by: int) -> None:
        with self._changed:
            for name, change in by.items():
                setattr(self, name, getattr(self, name) + change)
            self.most_inside = max(self.most_inside, self.inside)
            self.most_under_way = max(self.most_under_way, self.under_way)
            self._mine.number = self.entered if "entered" in by else 0
            self._changed.notify_all()

    def _whole(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self._change(under_way=1)
            found = predict(*arguments)
            self._change(under_way=-1)
            return found

        return step

    def _reading(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            found = read(*arguments)
            self._change(read=1)
            return found

        return step

    def _predicting(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self._change(entered=1, inside=1)
            number = self._mine.number
            found = predict(*arguments)
            self._wait_for(lambda: self.read >= min(number + 1, self.tiles))
            self._change(inside=-1)
            self._mine.number = number
            return found

        return step

    def _writing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            number = self._mine.number
            self._wait_for(lambda: self.entered >= min(number + 1, self.tiles))
            self._change(written=1)
            return write(*arguments)

        return step


@pytest.fixture(scope="module")
def gpu_worker() -> Iterator[Client]:
    """A worker that says it has a GPU, as threads of this process."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2 * TASKS_PER_GPU,
            processes=False,
            resources={"GPU": 1},
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("on_cluster", [False, True], ids=["serial", "cluster"])
def test_the_network_on_a_gpu_waits_for_no_disk(
    tmp_path: Path,
    image: Labels,
    network: OracleNetwork,
    expected: Labels,
    gpu_worker: Client,
    on_cluster: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, TILES)
    where: dict[str, Any] = {"client": gpu_worker} if on_cluster else {}
    out = tmp_path / "out.zarr"
    result = es.segment(image, network, output=out, device="cuda", **OPTIONS, **where)
    assert (steps.read, steps.entered, steps.most_inside) == (TILES, TILES, 1)
    assert steps.written > TILES // 2  # the others are empty
    np.testing.assert_array_equal(np.asarray(result.labels), expected)
    if on_cluster:
        assert steps.most_under_way <= TASKS_PER_GPU


def test_tiles_are_reported_in_their_order_though_they_overlap(
    tmp_path: Path, image: Labels, network: OracleNetwork
) -> None:
    class Predicted(Observer):
        tiles: tuple[Any, ...] = ()

        def notice(self, event: Event) -> None:
            if isinstance(event, TaskDone) and event.stage == "predict":
                self.tiles += (event.tile,)

    seen = Predicted()
    out = tmp_path / "out.zarr"
    es.segment(image, network, output=out, device="cuda", watcher=seen, **OPTIONS)
    assert seen.tiles == tuple(np.ndindex(3, 3, 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class Failing(OracleNetwork):
    """Cannot do one tile as long as a file is there."""

    fault: Path

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        if region.contains(Box((30, 30, 30), (31, 31, 31))) and self.fault.exists():
            raise ValueError("a cosmic ray")
        return super().predict_tile(image, region, tta)


def test_a_tile_that_fails_does_not_end_the_others_and_is_done_later(
    tmp_path: Path, image: Labels, network: OracleNetwork, expected: Labels
) -> None:
    fault, options = tmp_path / "fault", OPTIONS | {"output": tmp_path / "out.zarr"}
    fault.touch()
    failing = Failing.like(network, fault=fault)
    with pytest.raises(RunError, match=r"predict of tile \[24:48, 24:48, 24:48\]: ValueError"):
        es.segment(image, failing, device="cuda", **options)
    fault.unlink()
    result = es.segment(image, failing, device="cuda", **options)
    assert result.summary["resumed"]["predict"] == TILES - 1
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


def test_an_interrupted_run_has_ended_when_it_says_so_and_goes_on_later(
    tmp_path: Path, image: Labels, network: OracleNetwork, expected: Labels
) -> None:
    class Interrupt:
        left = 10

        def begin(self, stage: str, tiles: int) -> None: ...

        def advance(self, stage: str) -> None:
            self.left -= stage == "predict"
            if not self.left:
                raise KeyboardInterrupt

    options = OPTIONS | {"output": tmp_path / "out.zarr", "device": "cuda"}
    with pytest.raises(KeyboardInterrupt):
        es.segment(image, network, watcher=Interrupt(), **options)
    assert not [t for t in threading.enumerate() if t.name.startswith("task")]
    result = es.segment(image, network, **options)
    assert result.summary["resumed"]["predict"] == 9
    np.testing.assert_array_equal(np.asarray(result.labels), expected)


@pytest.mark.parametrize(("device", "is_exclusive"), [("cpu", False), ("cuda:1", True)])
def test_only_the_network_on_a_gpu_is_entered_by_one_at_a_time(
    network: OracleNetwork, device: str, is_exclusive: bool
) -> None:
    plugin = NetworkPlugin(
        "key", NetworkSpec(folder=None, network=network, device=device, dtype="float32")
    )
    assert isinstance(plugin.network(), OneAtATime) == is_exclusive
    assert plugin.network() is plugin.network()


def test_the_plan_counts_the_tasks_beside_a_gpu(
    tmp_path: Path, image: Labels, network: OracleNetwork
) -> None:
    def memory(device: str) -> int:
        request = prepare(
            image, network, "nuclei", SegmentOptions(output=tmp_path, device=device, **OPTIONS)
        )
        return estimate_of(request).worker_bytes

    alone = memory("cpu")
    assert memory("cuda") > alone
