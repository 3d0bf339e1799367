"""Tasks that travel together: each is done once, and one that kills its worker ends no other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dask
import pytest
from distributed import Client

from embedseg_large.errors import RunError, VolumeError
from embedseg_large.runs.dask.batching import MOST, Bundle
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.runs.dask.executor import DaskExecutor
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.runner import TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.segmenters.loading import NetworkSpec

COUNT = 40


def answer(number: int, deadly: int, broken: int) -> int:
    if number == deadly:
        time.sleep(1)  # a nanny does not restart a worker that dies before it has quite started
        os._exit(1)
    if number == broken:
        raise VolumeError("this one is broken")
    return number


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One worker, whose death tasks are forgiven once."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster_client(LocalSettings(workers=1), "cpu") as found,
    ):
        yield found


@pytest.fixture
def sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each bundle had that was sent."""
    sizes: list[int] = []
    send = client.map

    def noting(function: Any, bundles: list[Bundle], **more: Any) -> Any:
        sizes.extend(len(bundle.calls) for bundle in bundles)
        return send(function, bundles, **more)

    monkeypatch.setattr(client, "map", noting)
    return sizes


def answers(client: Client, *, deadly: int = -1, broken: int = -1) -> tuple[list[int], str]:
    """What came of tasks that take no time, and what the run said in the end."""
    found: list[int] = []
    tasks = (
        Task(stage="check", make=partial(Call, answer, (n, deadly, broken), where=f"task {n}"))
        for n in range(COUNT)
    )
    spec = NetworkSpec(folder=None, network=None, device="cpu", dtype="float32")
    executor = DaskExecutor(client, spec)
    try:
        TaskRunner(executor, None, Progress()).run(
            Each(tasks, lambda _, result: found.append(result))
        )
    except (RunError, VolumeError) as error:
        return sorted(found), str(error)
    finally:
        executor.close()
    return sorted(found), ""


def test_short_tasks_travel_together(client: Client, sent: list[int]) -> None:
    assert answers(client) == (list(range(COUNT)), "")
    assert sent[0] == 1  # nothing is known yet
    assert max(sent) == MOST
    assert sum(sent) == COUNT


def test_one_that_fails_fails_alone(client: Client, sent: list[int]) -> None:
    found, message = answers(client, broken=20)
    assert found == [n for n in range(COUNT) if n != 20]
    assert message.startswith("check of task 20: this one is broken")
    assert sum(sent) == COUNT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of a connection that a dead worker left
def test_one_that_kills_its_worker_is_told_from_those_that_travelled_with_it(
    client: Client, sent: list[int]
) -> None:
    found, message = answers(client, deadly=20)
    assert found == [n for n in range(COUNT) if n != 20]
    assert message.startswith("check of task 20: its worker was killed repeatedly")
    assert sum(sent) > COUNT  # those that were at the worker were sent again
    assert sent[-1] == 1
