"""What a run says of its failures is true of the other tasks, too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from embedseg_large.errors import VolumeError
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.runner import MANY, SerialExecutor, TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.storage.open import folder_at


def answer(number: int, broken: int) -> int:
    if number < broken:
        raise VolumeError("broken")
    return number


@pytest.mark.parametrize(
    ("broken", "said"),
    [(1, "All other tasks are finished"), (MANY, "So many failures end a run")],
)
def test_other_tasks_are_finished_only_if_it_says_so(
    tmp_path: Path, broken: int, said: str
) -> None:
    journal, done = Journal(folder_at(str(tmp_path / "journal"))), []
    tasks = (
        Task(stage="check", make=partial(Call, answer, (n, broken)), ledger="check", number=n)
        for n in range(3 * MANY)
    )
    runner = TaskRunner(SerialExecutor(), journal, Progress())
    with pytest.raises(VolumeError, match=rf"(broken|more)\. {said}\. Fix the cause and rerun"):
        runner.run(Each(tasks, lambda _, result: done.append(result)))
    assert len(done) == (3 * MANY - 1 if broken == 1 else 0)
