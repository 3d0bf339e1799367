"""Short tasks travel together: a scheduler takes some milliseconds for whatever it is sent.

Those of the network travel alone: on a GPU one reads or writes while another computes. How long the
tasks of a stage take is learnt from those that have ended. It is believed at once when they become
slow, as where tissue follows background, and only slowly when they become quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from embedseg_large.runs.tasks import Call, Task

MOST = 8
"""Tasks that travel together: what is lost with a worker, and what others wait for at the end."""
SECONDS = 0.1
"""That they may take together."""
_TRUST = 0.1


@dataclass(frozen=True, slots=True)
class Bundle:
    """Calls that one worker does one after another."""

    calls: tuple[Call, ...]


@dataclass(slots=True)
class Pace:
    """How long the tasks of each stage take."""

    _seconds: dict[str, float] = field(default_factory=dict)

    def learn(self, stage: str, seconds: float) -> None:
        """A task took so long."""
        before = self._seconds.get(stage, seconds)
        slower = seconds > before
        self._seconds[stage] = seconds if slower else before + _TRUST * (seconds - before)

    def together(self, stage: str) -> int:
        """How many of the next tasks of a stage to send together."""
        seconds = self._seconds.get(stage, SECONDS)
        return MOST if seconds * MOST <= SECONDS else max(1, int(SECONDS / seconds))

    def takes(self, bundle: list[Task], task: Task) -> bool:
        """Whether a task may travel with those of a bundle."""
        alike = bundle[0].stage == task.stage and not task.call.needs_network
        return alike and not self.fills(bundle)

    def fills(self, bundle: list[Task]) -> bool:
        """Whether a bundle is full."""
        first = bundle[0]
        return first.call.needs_network or len(bundle) >= self.together(first.stage)
