"""What tasks need and what is too large to travel with each of them: a network, for instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class ResourceSpec(Protocol):
    """How a worker gets the resource; picklable."""

    @property
    def device(self) -> str:
        """What it computes on: cpu, cuda or cuda:N."""

    def load(self) -> Any:
        """The resource; threads may use it at the same time."""


@dataclass(frozen=True, slots=True)
class NoResource:
    """Of runs whose tasks need nothing."""

    device: str = "cpu"

    def load(self) -> Any:
        """Nothing."""
        return None
