"""The state of a training run on disk: enough to continue as if nothing had happened."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch

from embedseg_large.documents import difference
from embedseg_large.errors import ModelError, foreign
from embedseg_large.files import whole
from embedseg_large.network.torchfile import read_torch_file

VERSION = 2
"""Version of the format; version 1 was not recorded."""

LATER = ("center", "validation")
"""Facts that older states of this version do not record; those are resumed with any."""

STATE = "last.pt"
"""File of the state in the folder of a training run."""

_NONE = "is not the state of a training run"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything that determines how training continues."""

    network: dict[str, torch.Tensor]
    """Weights and running statistics."""
    optimiser: dict[str, Any]
    epoch: int
    """Number of completed epochs."""
    best: float
    """Best validation score so far."""
    waiting: int
    """Number of validations since then."""
    threads: int
    """Threads of torch on the CPU: the last bits of a convolution depend on their number."""
    random: torch.Tensor
    """States of the dropout generators, uint8: those of all processes concatenated."""
    facts: str
    """Data and settings as JSON; training can be resumed only with the same ones."""
    processes: int = 1
    """Number of processes; training can be resumed only with the same number, because a step sees a
    batch of each."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Scale of the gradients in float16."""
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """Running mean of the weights; empty if none is used."""
    errors: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """Current error of each annotated image; empty if not needed."""
    version: int = VERSION
    """Version of this format."""

    def random_of(self, rank: int) -> torch.Tensor:
        """State of the generator of one process."""
        return self.random.view(self.processes, -1)[rank].clone()


def save_state(path: Path, state: TrainState) -> None:
    """Replace a state, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, durable=True) as begun:
        values = {name: getattr(state, name) for name in TrainState.__slots__}
        with begun.open("wb") as file:  # for a path, torch would write the name into the file
            torch.save(values, file)


def load_state(path: Path, facts: str, processes: int = 1) -> TrainState:
    """Read a state.

    Raises
    ------
    ModelError
        If there is none, it is of another kind, or was written with other data or settings, or by
        another number of processes.
    """
    if not path.exists():
        raise ModelError(f"there is no training to resume: {path} does not exist")
    content = read_torch_file(path, _NONE)
    with foreign(path, _NONE, todo="train another out", kind=ModelError):
        _check_version(path, content)
        state = TrainState(**content)
        _check_types(state)
        known, now = json.loads(state.facts), json.loads(facts)
        unknown = [name for name in LATER if name not in known]
        different = difference(known, {n: now[n] for n in now if n not in unknown})
    if different:
        raise ModelError(
            f"{path} was made with {different}; resume with the same data and "
            "settings, or choose another out"
        )
    if state.processes != processes:
        raise ModelError(
            f"{path} was made by {state.processes} processes, not {processes}; resume with "
            f"{state.processes}, or choose another out"
        )
    return state


def _check_version(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or "network" not in content:
        raise TypeError("no state")
    found = content.get("version", 1)
    if found != VERSION:
        raise ModelError(
            f"{path} is the state of a training in format {found}, this version of the program "
            f"has format {VERSION}; resume with the version that started it, or train another out "
            f"--from {path.with_name('best.safetensors')}"
        )


def _check_types(state: TrainState) -> None:
    """Refuse fields of the wrong type."""
    for name, kind in get_type_hints(TrainState).items():
        value = getattr(state, name)
        if not isinstance(value, get_origin(kind) or kind):
            raise TypeError(f"{name} is a {type(value).__name__}")
