"""What a run tells of itself: counts, pace, time left, its log, and how a terminal shows it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from embedseg_large.cli.console import check_folder_of, write_json
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.runbars import RunBars, RunLines, progress_line
from embedseg_large.errors import OutputError, UsageError
from embedseg_large.runs.events import (
    AttemptFailed,
    Event,
    Planned,
    Recalled,
    RunFailed,
    StageBegun,
    StageEnded,
    TaskDone,
    TaskFailed,
    WorkersBack,
    WorkersGone,
)
from embedseg_large.runs.forecast import MEMORY_SECONDS, Forecast
from embedseg_large.runs.log_file import log_to
from embedseg_large.runs.progress import FailedTasks, Observer, Progress


class Seen(Observer):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event) -> None:
        self.events.append(event)


class Counter:
    """A watcher that only counts."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def begin(self, stage: str, tiles: int) -> None:
        self.left[stage] = self.left.get(stage, 0) + tiles

    def advance(self, stage: str) -> None:
        self.left[stage] -= 1


@dataclass
class Simulation:
    """A run whose clock we set."""

    now: float = 0.0
    forecast: Forecast = field(init=False)

    def __post_init__(self) -> None:
        self.forecast = Forecast(clock=lambda: self.now)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.forecast.notice(event)

    def work(self, stage: str, tasks: int, seconds: float, workers: int = 1) -> None:
        """Rounds in which each worker does one task of a million voxels."""
        for _ in range(tasks // workers):
            self.now += seconds
            self.tell(*(done(stage, seconds) for _ in range(workers)))

    def left(self) -> float:
        assert self.forecast.left is not None
        return self.forecast.left


def done(stage: str = "predict", seconds: float = 1.0, voxels: int = 10**6) -> TaskDone:
    return TaskDone(stage=stage, worker="", seconds=seconds, voxels=voxels)


def begun(stage: str, tasks: int) -> StageBegun:
    return StageBegun(stage=stage, tasks=tasks)


# -- who is told of what ---------------------------------------------------------------------------


def test_a_watcher_counts_what_is_done_now_and_what_was_done_before() -> None:
    counter = Counter()
    progress = Progress(counter)
    progress.begin("predict", 3)
    progress.recall(Recalled(stage="predict"))
    progress.advance(done())
    assert counter.left == {"predict": 1}
    clock = progress.clocks["predict"]
    assert (clock.tiles, clock.recalled, clock.voxels) == (2, 1, 10**6)
    assert clock.as_dict()["voxels_per_second"] == 10**6


def test_a_stage_ends_each_time_it_has_nothing_left() -> None:
    seen = Seen()
    progress = Progress(seen)
    for _ in range(2):
        progress.begin("check", 1)
        progress.advance(done("check"))
    ends = [event for event in seen.events if isinstance(event, StageEnded)]
    assert [end.tasks for end in ends] == [1, 2]
    assert len(seen.events) == 6


def test_the_log_is_told_before_a_watcher_that_may_end_the_run() -> None:
    class Impatient(Observer):
        def notice(self, event: Event) -> None:
            raise KeyboardInterrupt(event.name)

    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        Progress(Impatient(), seen).begin("predict", 1)
    assert seen.events == [begun("predict", 1)]


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("no tile"), "no tile"), (KeyboardInterrupt(), "interrupted")]
)
def test_why_a_run_ended_is_told_with_its_traceback(error: BaseException, text: str) -> None:
    seen = Seen()
    with pytest.raises(type(error)), Progress(seen).telling_failure():
        raise error
    (event,) = seen.events
    assert isinstance(event, RunFailed)
    assert event.error == text
    assert "test_why_a_run_ended" in event.traceback


def test_failed_tasks_are_kept_for_the_report() -> None:
    kept = FailedTasks()
    failed = TaskFailed(stage="predict", tile=(0, 1), where="tile", worker="", error="no")
    for event in (begun("predict", 2), failed, done()):
        kept.notice(event)
    assert kept.failed == [failed]
    assert failed.as_dict() == {"stage": "predict", "tile": (0, 1), "where": "tile", "error": "no"}


# -- pace and time left ----------------------------------------------------------------------------


def test_time_left_is_exact_where_tasks_take_equally_long() -> None:
    run = Simulation()
    run.tell(begun("predict", 100))
    run.work("predict", 40, seconds=2)
    assert run.left() == pytest.approx(60 * 2)
    assert run.forecast.stages["predict"].voxels.rate == pytest.approx(10**6 / 2)
    run.now += 0.5
    assert run.left() == pytest.approx(60 * 2 - 0.5)


def test_time_left_counts_all_workers_and_all_stages() -> None:
    run = Simulation()
    run.tell(begun("predict", 80), begun("cluster", 40))
    for _ in range(10):
        run.work("predict", 4, seconds=3, workers=4)
        run.work("cluster", 2, seconds=1, workers=2)
    assert run.forecast.stages["predict"].done == 40
    seconds_inside, pace = 40 * 3 + 20 * 1, (40 * 3 + 20 * 1) / (10 * 4)
    assert run.left() == pytest.approx(seconds_inside / pace, rel=0.02)


def test_what_earlier_attempts_did_counts_at_once_and_spoils_no_rate() -> None:
    run = Simulation()
    run.tell(begun("predict", 1000))
    for _ in range(900):
        run.now += 0.01
        run.tell(Recalled(stage="predict"))
    stage = run.forecast.stages["predict"]
    assert (stage.done, stage.total) == (900, 1000)
    assert run.forecast.left is None
    run.work("predict", 10, seconds=5)
    assert stage.voxels.rate == pytest.approx(10**6 / 5)
    assert run.left() == pytest.approx(90 * 5)


def test_a_pause_between_two_rounds_of_a_stage_spoils_no_rate() -> None:
    run = Simulation()
    run.tell(begun("cluster", 4))
    run.work("cluster", 4, seconds=1)
    run.now += 1000
    run.tell(begun("cluster", 4))
    run.work("cluster", 2, seconds=1)
    assert run.forecast.stages["cluster"].voxels.rate == pytest.approx(10**6)
    assert run.left() == pytest.approx(2)


def test_a_time_without_workers_spoils_no_rate() -> None:
    run = Simulation()
    run.tell(begun("predict", 100))
    run.work("predict", 10, seconds=2)
    run.tell(WorkersGone())
    run.now += 1000
    run.tell(WorkersBack(threads=1, seconds=1000.0))
    run.work("predict", 10, seconds=2)
    assert run.forecast.stages["predict"].voxels.rate == pytest.approx(10**6 / 2)
    assert run.left() == pytest.approx(80 * 2)


def test_workers_that_join_are_believed_in_a_while() -> None:
    run = Simulation()
    run.tell(begun("predict", 100_000))
    run.work("predict", 1000, seconds=1)
    run.work("predict", 8 * int(5 * MEMORY_SECONDS), seconds=1, workers=8)
    left = 100_000 - 1000 - 8 * int(5 * MEMORY_SECONDS)
    assert run.left() == pytest.approx(left / 8, rel=0.05)


def test_stages_that_are_only_planned_count_once_one_task_is_known() -> None:
    run = Simulation()
    run.tell(Planned(tasks={"predict": 20, "check": 10}), begun("predict", 10))
    assert [s.total for s in run.forecast.stages.values()] == [20, 10]
    assert run.forecast.left is None
    run.work("predict", 10, seconds=1)
    assert run.left() == pytest.approx(10)  # check: not known, counts as nothing
    run.tell(begun("check", 5))
    run.work("check", 5, seconds=2)
    assert run.left() == pytest.approx(10 + 5 * 2)


def test_failed_tasks_are_not_waited_for() -> None:
    run = Simulation()
    run.tell(begun("predict", 3))
    run.work("predict", 2, seconds=1)
    run.tell(TaskFailed(stage="predict", worker="", error="no"))
    assert run.left() == 0
    assert not run.forecast.has_work


# -- how it is shown -------------------------------------------------------------------------------


def test_a_line_says_what_is_done_how_fast_and_until_when() -> None:
    run = Simulation()
    assert progress_line(run.forecast) == ""
    run.tell(Planned(tasks={"predict": 1200, "check": 7}), begun("predict", 1200))
    assert (
        progress_line(run.forecast) == "predict 0/1,200 · 0:00:00 elapsed, time left unknown so far"
    )
    run.work("predict", 100, seconds=0.4)
    run.tell(TaskFailed(stage="predict", worker="", error="no"))
    assert progress_line(run.forecast) == (
        "predict 100/1,200 (1 failed) 2.5 million voxels/s · 0:00:40 elapsed, 0:07:20 left"
    )


def test_a_line_says_that_there_are_no_workers_until_there_are_some() -> None:
    run = Simulation()
    run.tell(begun("predict", 4))
    run.work("predict", 1, seconds=2)
    run.tell(WorkersGone())
    line = "predict 1/4 0.5 million voxels/s · 0:00:02 elapsed, "
    assert progress_line(run.forecast) == f"{line}waiting for workers ..."
    run.tell(WorkersBack(threads=2, seconds=0.0))
    assert progress_line(run.forecast) == f"{line}0:00:06 left"


def test_a_batch_job_gets_a_line_now_and_then() -> None:
    lines: list[str] = []
    with RunLines(lines.append, every=0.01) as shown:
        shown.notice(begun("predict", 2))
        deadline = time.monotonic() + 10
        while len(lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        shown.notice(done())
        shown.notice(done())
    assert lines[0].startswith("predict 0/2")
    said = len(lines)
    time.sleep(0.05)
    assert len(lines) == said


def test_bars_show_each_stage_and_the_time_left() -> None:
    shown = io.StringIO()
    with RunBars(Console(file=shown, force_terminal=True, width=80)) as bars:
        bars.notice(Planned(tasks={"predict": 4, "check": 2}))
        bars.notice(begun("predict", 4))
        bars.notice(Recalled(stage="predict"))
        bars.notice(TaskFailed(stage="predict", worker="", error="no"))
        bars.notice(done())
    last = shown.getvalue().rpartition("predict")[2]
    assert "2/4 (1 failed)" in last
    assert "million voxels/s" in last
    assert "0/2" in last
    assert "elapsed" in last
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
    assert all(len(line) <= 80 for line in plain.splitlines())


# -- the log ---------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    failed = AttemptFailed(stage="predict", tile=(0, 1), worker="w", attempt=1, traceback="a\nb")
    with log_to(path) as log:
        assert log is not None
        log.notice(Recalled(stage="predict"))
        log.notice(failed)
    (line,) = lines_of(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "event": "attempt failed",
        "stage": "predict",
        "tile": [0, 1],
        "worker": "w",
        "attempt": 1,
        "traceback": "a\nb",
    }


def test_a_log_goes_on_after_the_half_line_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text('{"event": "task do')
    for _ in range(2):
        with log_to(path) as log:
            assert log is not None
            log.notice(begun("predict", 1))
    first, *rest = path.read_text().splitlines()
    assert first == '{"event": "task do'
    assert [json.loads(line)["event"] for line in rest] == ["stage begins"] * 2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://me:pass@host.org/a.zarr?sig=abc#f, then", "https://host.org/a.zarr then"),
        ("see 's3://bucket/a.zarr' at tile [0:2]", "see 's3://bucket/a.zarr' at tile [0:2]"),
        ("AWS_SECRET_ACCESS_KEY=abc+/12 was wrong", "AWS_SECRET_ACCESS_KEY=*** was wrong"),
        ("authorization: 'Bearer", "authorization: '***"),
        ("<AWSAccessKeyId>AKIA1</AWSAccessKeyId>", "<AWSAccessKeyId>***</AWSAccessKeyId>"),
    ],
)
def test_credentials_are_not_logged(tmp_path: Path, text: str, kept: str) -> None:
    path = tmp_path / "run.log"
    with log_to(path) as log:
        assert log is not None
        log.notice(TaskFailed(stage="predict", worker="", error=text))
        log.write(logging.INFO, "message", {"deep": [{"url": text}]})
    first, second = lines_of(path)
    assert first["error"] == kept
    assert second["deep"] == [{"url": kept}]


def test_what_the_package_says_meanwhile_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    logger = logging.getLogger("embedseg_large.runs.dask.clusters")
    with log_to(path):
        logger.warning("no worker after %d s", 15)
    logger.warning("not any more")
    (line,) = lines_of(path)
    assert (line["level"], line["message"]) == ("WARNING", "no worker after 15 s")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_log_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with log_to("/dev/full") as log:
        assert log is not None
        log.notice(begun("predict", 1))
        log.notice(done())
    assert [r.message for r in caplog.records if "logging stopped" in r.message] != []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("wrong", ["s3://bucket/run.log", "", "nowhere/run.log"])
def test_a_log_that_cannot_be_opened_is_refused_at_once(tmp_path: Path, wrong: str) -> None:
    path = wrong if "://" in wrong else os.fspath(tmp_path / wrong)
    with pytest.raises(UsageError, match="log"), log_to(path):
        pass


# -- the command line ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fruit:
    heading: ClassVar[str | None] = "Fruit"
    apples: Annotated[int, typer.Option(help="Red ones.")] = 2
    ripe: Annotated[bool, typer.Option("--ripe")] = False


def test_a_command_takes_its_options_in_groups() -> None:
    app = typer.Typer()

    @app.command()
    @grouped
    def buy(
        shop: Annotated[str, typer.Argument()],
        *,
        fruit: Fruit,
        bags: Annotated[int, typer.Option()] = 1,
    ) -> None:
        """Buy fruit."""
        typer.echo(f"{shop} {fruit} {bags}")

    said = CliRunner().invoke(app, ["market", "--apples", "5", "--bags", "3"]).stdout
    assert said.strip() == f"market {Fruit(apples=5)} 3"
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert text.index("Buy fruit") < text.index("─ Fruit") < text.index("--apples")


def test_a_json_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "nowhere" / "summary.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_without_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        check_folder_of(tmp_path / "nowhere" / "a.json")
    with pytest.raises(UsageError, match="it is a folder"):
        check_folder_of(tmp_path)
