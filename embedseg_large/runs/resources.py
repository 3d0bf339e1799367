"""Resources of tasks that are too large to send with each task, such as a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class ResourceSpec(Protocol):
    """How a worker obtains the resource; picklable."""

    @property
    def device(self) -> str:
        """Device: cpu, cuda or cuda:N."""

    def load(self) -> Any:
        """Return the resource; threads may use it concurrently."""


@dataclass(frozen=True, slots=True)
class NoResource:
    """The resource of runs whose tasks need none."""

    device: str = "cpu"

    def load(self) -> Any:
        """Return None."""
        return None
