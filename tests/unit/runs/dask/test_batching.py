"""Short tasks travel together, slow ones alone."""

from __future__ import annotations

from embedseg_large.runs.dask.batching import MOST, SECONDS, StagePace
from embedseg_large.runs.tasks import Call, Task


def task(stage: str, needs_network: bool = False) -> Task:
    return Task(stage=stage, make=lambda: Call(int, (), needs_network))


def test_a_stage_that_nothing_is_known_of_sends_single_tasks() -> None:
    assert StagePace().together("check") == 1


def test_tasks_of_milliseconds_travel_together_and_those_of_seconds_do_not() -> None:
    pace = StagePace()
    for stage, seconds in (("check", 0.001), ("finish", SECONDS / 2.5), ("predict", 5.0)):
        pace.learn(stage, seconds)
    assert [pace.together(s) for s in ("check", "finish", "predict")] == [MOST, 2, 1]


def test_a_slow_task_is_believed_at_once_and_a_quick_one_slowly() -> None:
    pace = StagePace()
    pace.learn("cluster", 0.001)
    pace.learn("cluster", 1.0)
    assert pace.together("cluster") == 1
    pace.learn("cluster", 0.001)
    assert pace.together("cluster") == 1
    for _ in range(100):
        pace.learn("cluster", 0.001)
    assert pace.together("cluster") == MOST


def test_a_bundle_is_of_one_stage_and_the_network_has_none() -> None:
    pace = StagePace()
    pace.learn("cluster", 0.0)
    bundle = [task("cluster")]
    assert pace.takes(bundle, task("cluster"))
    assert not pace.takes(bundle, task("predict"))
    assert not pace.takes(bundle, task("cluster", needs_network=True))
    assert not pace.takes([task("cluster")] * MOST, task("cluster"))
    assert pace.fills([task("cluster", needs_network=True)])
    assert not pace.fills(bundle)
