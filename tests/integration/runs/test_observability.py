"""A run says what it does: in its log, in a summary file, in Dask's report, and when it fails."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.events import Event, TaskDone
from embedseg_large.runs.progress import Observer
from embedseg_large.segmentation.stages.predict import predict
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo

Lines = list[dict[str, Any]]
TILES = 8
OPTIONS: dict[str, Any] = {
    "cluster_tile": (24, 30, 30),
    "halo": (6, 6, 6),
    "intensity_range": (0, 1),
}


@dataclass(frozen=True)
class Failing(OracleNetwork):
    """An oracle that raises at one voxel, so many times: a file counts them."""

    counter: Path
    times: int

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        failed = self.counter.stat().st_size if self.counter.exists() else 0
        if region.contains(Box((30, 30, 30), (31, 31, 31))) and failed < self.times:
            with self.counter.open("ab") as file:
                file.write(b"x")
            raise ValueError("a cosmic ray at https://me:secret@host.org")
        return super().predict_tile(image, region, tta)


class StopsAt(Observer):
    """Interrupts a run when so many tiles are predicted."""

    def __init__(self, tiles: int) -> None:
        self.left = tiles

    def notice(self, event: Event) -> None:
        if isinstance(event, TaskDone) and event.stage == "predict":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def image() -> NDArray[Any]:
    return synthetic_embryo((40, 48, 44), density=0.5, diameter=11, seed=3).astype(np.uint16)


@pytest.fixture(scope="module")
def network(image: NDArray[Any]) -> OracleNetwork:
    """An oracle whose predictions make some tiles disagree at first."""
    return OracleNetwork.of(image, flaws=Flaws(noise=1.0), tile=(24, 24, 24))


def read(log: Path) -> Lines:
    return [json.loads(line) for line in log.read_text().splitlines()]


def only(lines: Lines, event: str, **fields: Any) -> Lines:
    wanted = {"event": event, **fields}
    return [line for line in lines if wanted.items() <= line.items()]


def tiles(lines: Lines, stage: str) -> Counter[tuple[int, ...]]:
    return Counter(tuple(line["tile"]) for line in only(lines, "task done", stage=stage))


# -- the log ---------------------------------------------------------------------------------------


def test_the_log_tells_of_the_run_and_of_each_task(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork
) -> None:
    log = tmp_path / "run.log"
    result = es.segment(image, network, output=tmp_path / "out.zarr", log=log, **OPTIONS)
    lines = read(log)
    begins, ends = lines[0], lines[-1]
    assert (begins["event"], ends["event"]) == ("run begins", "published")
    assert begins["token"] == result.summary["token"]
    assert begins["facts"]["settings"] == result.summary["settings"]
    assert begins["facts"]["versions"] == result.summary["versions"]
    assert not begins["resumed"]
    assert ends["instances"] == result.n_instances
    assert {line["run"] for line in lines} == {begins["run"]}
    assert list(tiles(lines, "predict").values()) == [1] * TILES
    assert sum(line["voxels"] for line in only(lines, "task done", stage="predict")) == image.size
    for stage, clock in result.summary["stages"].items():
        told = only(lines, "task done", stage=stage)
        assert len(told) == clock["tiles"]
        assert only(lines, "stage ends", stage=stage)[-1]["tasks"] == clock["tiles"]
        assert sum(line["seconds"] for line in told) == pytest.approx(clock["seconds"], abs=0.01)
    assert only(lines, "task done", stage="predict")[0]["where"] == "tile [0:24, 0:24, 0:24]"


def test_the_log_goes_on_with_the_run(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork
) -> None:
    log, options = tmp_path / "run.log", OPTIONS | {"output": tmp_path / "out.zarr"}
    with pytest.raises(KeyboardInterrupt):
        es.segment(image, network, log=log, watcher=StopsAt(5), **options)
    first = read(log)
    assert (first[-1]["event"], first[-1]["error"]) == ("run failed", "interrupted")
    result = es.segment(image, network, log=log, **options)
    lines = read(log)
    assert lines[: len(first)] == first
    assert [line["resumed"] for line in only(lines, "run begins")] == [False, True]
    assert len({line["run"] for line in lines}) == 1
    assert set(tiles(lines, "predict")) == set(np.ndindex(2, 2, 2))
    recalled = result.summary["resumed"]["predict"]
    assert only(lines, "stage ends", stage="predict")[-1]["recalled"] == recalled == 4
    assert len(only(lines[len(first) :], "task done", stage="predict")) == TILES - recalled


def test_tasks_of_a_series_name_their_timepoint(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork
) -> None:
    log, out = tmp_path / "run.log", tmp_path / "out.zarr"
    es.segment(np.stack([image] * 2), network, output=out, log=log, axes="tzyx", **OPTIONS)
    predicted = only(read(log), "task done", stage="predict")
    assert [line["section"] for line in predicted] == ["t00000"] * TILES + ["t00001"] * TILES
    assert [line["tasks"]["predict"] for line in only(read(log), "planned")[:2]] == [16, 8]


@pytest.mark.parametrize("on_cluster", [False, True], ids=["serial", "cluster"])
def test_failed_attempts_are_logged_with_worker_and_traceback(
    tmp_path: Path, on_cluster: bool, image: NDArray[Any], network: OracleNetwork, client: Any
) -> None:
    where: dict[str, Any] = {"client": client} if on_cluster else {}
    log, out = tmp_path / "run.log", tmp_path / "place" / "out.zarr"
    once = Failing.like(network, counter=tmp_path / "count", times=1)
    es.segment(image, once, output=out, log=log, **OPTIONS, **where)
    lines = read(log)
    (attempt,) = only(lines, "attempt failed")
    assert (attempt["level"], attempt["attempt"], attempt["tile"]) == ("WARNING", 1, [1, 1, 1])
    assert "in predict_tile" in attempt["traceback"]
    assert "ValueError: a cosmic ray at https://host.org" in attempt["traceback"]
    assert "secret" not in log.read_text()
    assert only(lines, "task failed") == []
    workers = {line.get("worker") for line in only(lines, "task done")}
    assert workers == ({"0", "1"} if on_cluster else {None})
    assert attempt.get("worker") in workers


def test_a_run_that_fails_says_so_last(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork
) -> None:
    log, out = tmp_path / "run.log", tmp_path / "place" / "out.zarr"
    never = Failing.like(network, counter=tmp_path / "count", times=10**6)
    with pytest.raises(RunError):
        es.segment(image, never, output=out, log=log, **OPTIONS)
    lines = read(log)
    assert [line["attempt"] for line in only(lines, "attempt failed")] == [1, 2, 3]
    (failed,) = only(lines, "task failed")
    assert (failed["stage"], failed["where"]) == ("predict", "tile [24:40, 24:48, 24:44]")
    assert lines[-1]["event"] == "run failed"
    assert "rerun the same command" in lines[-1]["error"]
    assert len(tiles(lines, "predict")) == TILES - 1


def test_a_refused_command_is_in_the_log_too(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork
) -> None:
    log = tmp_path / "run.log"
    with pytest.raises(UsageError):
        es.segment(image, network, output=tmp_path / "out.zarr", log=log, tile=(7, 7, 7))
    (line,) = read(log)
    assert (line["event"], line["level"]) == ("run failed", "ERROR")
    assert "tile" in line["error"]


# -- Dask's report ---------------------------------------------------------------------------------


def test_dask_reports_on_its_workers(
    tmp_path: Path, image: NDArray[Any], network: OracleNetwork, client: Any
) -> None:
    pytest.importorskip("bokeh", reason="the report needs bokeh")
    report, out = tmp_path / "report.html", tmp_path / "out.zarr"
    es.segment(image, network, output=out, client=client, performance_report=report, **OPTIONS)
    page = report.read_text()
    assert "</html>" in page
    assert "predict" in page
    # it opens on a machine that is cut off
    assert not re.search(r"<script[^>]+src=", page)


def test_a_report_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path,
    image: NDArray[Any],
    network: OracleNetwork,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = OPTIONS | {"output": tmp_path / "out.zarr"}
    report = tmp_path / "report.html"
    with pytest.raises(UsageError, match="this run has none"):
        es.segment(image, network, performance_report=report, **options)
    nowhere = tmp_path / "nowhere" / "report.html"
    with pytest.raises(UsageError, match="there is no folder"):
        es.segment(image, network, performance_report=nowhere, client=client, **options)

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("embedseg_large.runs.dask.performance.version", missing)
    with pytest.raises(UsageError, match="pip install bokeh"):
        es.segment(image, network, performance_report=report, client=client, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_in_the_end_is_a_warning(
    tmp_path: Path,
    image: NDArray[Any],
    network: OracleNetwork,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("embedseg_large.runs.dask.performance.version", lambda _: "3.9")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("embedseg_large.runs.dask.performance.dask_report.__exit__", fail)
    report, out = tmp_path / "report.html", tmp_path / "out.zarr"
    result = es.segment(
        image, network, output=out, client=client, performance_report=report, **OPTIONS
    )
    assert result.n_instances > 0
    assert f"{report}: no performance report (OSError: the disk is full)" in caplog.text


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def store(write_image: Any, image: NDArray[Any]) -> Path:
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    small = (image[:16, :32, :32] % 251 * 40).astype(np.uint16)
    made: Path = write_image([small], {"axes": axes, "datasets": datasets}, "0.5")
    return made


def command(*arguments: object) -> Result:
    fast = ("--tta", "none", "--tile", "16,16,16", "--context", "0,0,0")
    return CliRunner().invoke(app, ["segment", *map(str, arguments), *fast])


def test_the_summary_file_has_what_json_prints(tmp_path: Path, store: Path) -> None:
    summary, log = tmp_path / "summary.json", tmp_path / "run.log"
    ended = command(store, "--json", "--summary", summary, "--log", log)
    assert ended.exit_code == 0, ended.output
    assert json.loads(summary.read_text()) == json.loads(ended.stdout)
    assert read(log)[-1]["event"] == "published"
    refused = command(store, "--overwrite", "--summary", tmp_path / "nowhere" / "summary.json")
    assert refused.exit_code == 2
    assert "there is no folder" in refused.stderr


def test_failed_tiles_are_listed_on_stderr_and_in_json(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(network: Any, job: Any, index: Any) -> Any:
        if index == (0, 1, 0):
            raise ValueError("a cosmic ray")
        return predict(network, job, index)

    monkeypatch.setattr("embedseg_large.segmentation.stages.predict.predict", failing)
    summary = tmp_path / "summary.json"
    ended = command(store, "--json", "--summary", summary)
    assert ended.exit_code == 1
    printed = json.loads(ended.stdout)
    (failed,) = printed["failed"]
    assert (failed["stage"], failed["tile"]) == ("predict", [0, 1, 0])
    assert failed["where"] == "tile [0:16, 16:32, 0:16]"
    assert "predict of tile [0:16, 16:32, 0:16]: ValueError" in printed["error"]
    assert printed["error"] in " ".join(ended.stderr.split())
    assert not summary.exists()


def test_a_report_of_no_workers_is_refused_in_one_line(tmp_path: Path, store: Path) -> None:
    refused = command(store, "--performance-report", tmp_path / "report.html")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: a performance report describes Dask workers")
    assert refused.stderr.count("\n") == 1
