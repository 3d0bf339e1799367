"""Short tasks are sent together: a scheduler takes a few milliseconds per submission.

Prediction tasks are sent alone: on a GPU one reads or writes while another computes. The duration
of the tasks of a stage is learned from those that have finished. It is raised at once when tasks
become slow, as when tissue follows background, and lowered only gradually.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from embedseg_large.runs.tasks import Call, Task

MOST = 8
"""Maximum number of tasks per bundle, which limits what is lost with a worker and what others wait
for at the end."""
SECONDS = 0.1
"""Seconds that a bundle may take."""
_TRUST = 0.1


@dataclass(frozen=True, slots=True)
class Bundle:
    """Calls that one worker executes one after another."""

    calls: tuple[Call, ...]


@dataclass(slots=True)
class StagePace:
    """Durations of the tasks of each stage."""

    _seconds: dict[str, float] = field(default_factory=dict)

    def learn(self, stage: str, seconds: float) -> None:
        """Record the duration of a task."""
        before = self._seconds.get(stage, seconds)
        slower = seconds > before
        self._seconds[stage] = seconds if slower else before + _TRUST * (seconds - before)

    def together(self, stage: str) -> int:
        """How many of the next tasks of a stage to send together."""
        seconds = self._seconds.get(stage, SECONDS)
        return MOST if seconds * MOST <= SECONDS else max(1, int(SECONDS / seconds))

    def takes(self, bundle: list[Task], task: Task) -> bool:
        """Whether a task may join a bundle."""
        alike = bundle[0].stage == task.stage and not task.call.needs_network
        return alike and not self.fills(bundle)

    def fills(self, bundle: list[Task]) -> bool:
        """Whether a bundle is full."""
        first = bundle[0]
        return first.call.needs_network or len(bundle) >= self.together(first.stage)
