"""The log of a review: one object per step, written once and never changed.

A step is a decision, or the undoing or redoing of one. The decisions in force (`Log.active`) follow
from all steps in order; nothing is ever removed, so no decision is lost. Two programs cannot write
the same step: the second one is refused, and must reopen the review.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, takewhile
from typing import Any, Literal

from embedseg_large.errors import MetadataError, RunError, UsageError, foreign
from embedseg_large.geometry import Box
from embedseg_large.review.change import LabelChange
from embedseg_large.review.edits import Edit, Paint, Split, parse_edit
from embedseg_large.storage.folder import Folder

_DIGITS = 8
"""Digits of an object's name, so that names sort like numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """An edit and its effect."""

    edit: Edit
    change: LabelChange
    """Changed voxels; empty if an instance was accepted."""
    instances: Mapping[int, Box | None]
    """A box around each instance that the edit refers to or creates; None if it no longer
    exists."""
    stamp: int
    """Stamp of the source's files in the box, see `Volume.stamp`."""
    digest: str
    """Digest of the source's labels in the box."""

    @property
    def decided(self) -> tuple[int, ...]:
        """Labels of the reviewed instances, old and new ones."""
        return tuple(self.instances) if not isinstance(self.edit, Paint) else self.edit.labels

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as values that JSON can hold."""
        return {
            "edit": str(self.edit),
            "box": _pair(self.change.box),
            "runs": self.change.packed(),
            "instances": [[n, None if b is None else _pair(b)] for n, b in self.instances.items()],
            "source": [self.stamp, self.digest],
        }

    @classmethod
    def of(cls, about: Mapping[str, Any], whole: Box) -> Decision:
        """Restore a decision from `as_dict`; may raise `ValueError`, `KeyError` or the like."""
        box = _box(about["box"], whole)
        stamp, digest = about["source"]
        return cls(
            edit=parse_edit(about["edit"], whole.ndim),
            change=LabelChange.unpacked(box, about["runs"]),
            instances={
                int(n): None if b is None else _box(b, whole) for n, b in about["instances"]
            },
            stamp=int(stamp),
            digest=str(digest),
        )


@dataclass(frozen=True, slots=True)
class Reversal:
    """The undoing or redoing of a decision."""

    kind: Literal["undo", "redo"]
    step: int
    """Number of the decision."""


Step = Decision | Reversal


@dataclass(slots=True)
class Log:
    """All steps of a review; opened by `load`."""

    folder: Folder
    """Folder of the steps and nothing else; need not exist."""
    whole: Box
    """Box of the whole volume."""
    steps: list[Step] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    """Numbers of the decisions in force, oldest first."""
    undone: list[int] = field(default_factory=list)
    """Numbers of the undone decisions that can be redone; the next one to redo comes last."""
    forms: dict[int, list[Box | None]] = field(default_factory=dict)
    """Boxes around each instance after each decision in force that refers to it, oldest first;
    None if it no longer exists."""
    decided: Counter[int] = field(default_factory=Counter)
    """Number of decisions in force about each label."""

    def load(self) -> Log:
        """Read all steps.

        Raises
        ------
        MetadataError
            If an object is not a step, or is inconsistent with the earlier ones.
        """
        names = _names(self.folder)
        for number, (name, data) in enumerate(zip(names, self.folder.read_all(names), strict=True)):
            where = f"{self.folder.path}/{name}"
            with foreign(where, "no step of a review", todo="restore it", kind=MetadataError):
                if name != _name(number):
                    raise ValueError(f"{_name(number)} is missing")
                try:
                    self._take(self._read(json.loads(data)))
                except UsageError as error:  # not the user's mistake here
                    raise ValueError(str(error)) from error
        return self

    def decisions(self) -> list[Decision]:
        """Return the decisions in force, oldest first."""
        return [self.decision(number) for number in self.active]

    def decision(self, number: int) -> Decision:
        """Return the decision with a given number."""
        found = self.steps[number]
        assert isinstance(found, Decision)
        return found

    def last_change(self) -> LabelChange:
        """Return the voxels that the last step changes."""
        last = self.steps[-1]
        if isinstance(last, Decision):
            return last.change
        change = self.decision(last.step).change
        return change if last.kind == "redo" else change.backwards()

    def append(self, step: Step) -> None:
        """Write a step durably: once this returns, the step survives a power failure.

        Raises
        ------
        RunError
            If another program has written a step since this log was loaded.
        OutputError
            If it cannot be written.
        """
        number = len(self.steps)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = step.as_dict() if isinstance(step, Decision) else {step.kind: step.step}
        data = json.dumps({"step": number, "at": now} | about, separators=(",", ":"))
        if not self.folder.create(_name(number), data.encode(), durable=True):
            raise self._overtaken()
        self._take(step)

    def check_latest(self) -> None:
        """Check that nobody has written a step since this log was loaded.

        Raises
        ------
        RunError
            If another program has.
        """
        if self.folder.exists(_name(len(self.steps))):
            raise self._overtaken()

    def _overtaken(self) -> RunError:
        return RunError(
            f"{self.folder.path}: another program has added a decision to this review; "
            "open it again, this one was not made"
        )

    def _read(self, about: Mapping[str, Any]) -> Step:
        if "undo" in about:
            return Reversal("undo", int(about["undo"]))
        if "redo" in about:
            return Reversal("redo", int(about["redo"]))
        return Decision.of(about, self.whole)

    def _take(self, step: Step) -> None:
        """Apply a step to the state after the earlier ones."""
        if isinstance(step, Decision):
            self.active.append(len(self.steps))
            self.undone.clear()
            self._enter(step)
        else:
            source, target = (
                (self.active, self.undone) if step.kind == "undo" else (self.undone, self.active)
            )
            if not source or source[-1] != step.step:
                raise ValueError(f"cannot {step.kind} decision {step.step} here")
            target.append(source.pop())
            change = self._leave if step.kind == "undo" else self._enter
            change(self.decision(step.step))
        self.steps.append(step)

    def _enter(self, decision: Decision) -> None:
        """Count a decision that comes into force."""
        for label, box in decision.instances.items():
            self.forms.setdefault(label, []).append(box)
        self.decided.update(decision.decided)

    def _leave(self, decision: Decision) -> None:
        """Uncount the last decision in force."""
        for label in decision.instances:
            self.forms[label].pop()
            if not self.forms[label]:
                del self.forms[label]
        for label in decision.decided:
            self.decided[label] -= 1
            if not self.decided[label]:
                del self.decided[label]


def _names(folder: Folder) -> list[str]:
    """List the steps; a web server lists nothing, so there they are tried one by one."""
    if not folder.path.startswith(("http://", "https://")):
        return list(folder.names())
    steps = map(_name, count())
    return list(takewhile(folder.exists, steps))


def made_by(edit: Edit, free: int) -> tuple[int, ...]:
    """Return the labels of the instances that an edit creates; `free` is the next free label."""
    if isinstance(edit, Split):
        return tuple(range(free, free + len(edit.points) - 1))
    return (free,) if isinstance(edit, Paint) and edit.label == free else ()


def _name(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _pair(box: Box) -> list[list[int]]:
    return [list(box.start), list(box.stop)]


def _box(ends: Any, whole: Box) -> Box:
    start, stop = (tuple(int(n) for n in end) for end in ends)
    box = Box(start, stop)
    if box.ndim != whole.ndim or not whole.contains(box):
        raise ValueError(f"{box} is not in the volume {whole}")
    return box
