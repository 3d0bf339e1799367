"""How far a run is, seen from another process."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedseg_large.engine.journal import Journal
from embedseg_large.engine.lock import holder
from embedseg_large.engine.places import lock_folder, scratch_path
from embedseg_large.engine.runs import read_about
from embedseg_large.errors import UsageError
from embedseg_large.io.objects import Folder, folder_at

_TIMEPOINT = re.compile(r"^t\d+/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """An unfinished run."""

    folder: str
    """Where it keeps what it has done."""
    labels: str
    """What it will write."""
    holder: dict[str, Any] | None
    """Host and process that are at it, and since when; None: nobody is."""
    stages: dict[str, tuple[int, int | None]]
    """Tasks that are done, and all of them where that is known already, by stage."""

    def as_dict(self) -> dict[str, Any]:
        """The status as values that JSON can hold."""
        return {
            "folder": self.folder,
            "labels": self.labels,
            "running": self.holder,
            "stages": {n: {"done": d, "of": t} for n, (d, t) in self.stages.items()},
        }


def run_status(
    place: str | os.PathLike[str],
    labels: str = "nuclei",
    scratch: str | os.PathLike[str] | None = None,
) -> RunStatus:
    """Look at a run; changes nothing.

    Parameters
    ----------
    place
        The store that gets the labels, or the folder of a run.
    labels
        Name of the labels.
    scratch
        As it was given to the run.

    Raises
    ------
    UsageError
        When there is no unfinished run.
    """
    folder = folder_at(place)
    store, about = folder.path, read_about(folder)
    if about:
        found = holder(_lock_of(about["labels"]))
    else:
        found = holder(lock_folder(store, labels))
        folder = folder_at(found["run"] if found else scratch_path(scratch, store, labels))
        about = read_about(folder)
    stages = None
    with suppress(FileNotFoundError):  # it ends while it is looked at
        stages = _stages(folder, about) if about else None
    if stages is None:
        raise UsageError(
            f"{store}: no unfinished run of labels {labels!r}; it has ended, or its name or "
            "scratch folder is another"
        )
    return RunStatus(folder=folder.path, labels=about["labels"], holder=found, stages=stages)


def _lock_of(labels: str) -> Folder:
    store, _, name = labels.rpartition("/labels/")
    return lock_folder(store, name)


def _stages(folder: Folder, about: dict[str, Any]) -> dict[str, tuple[int, int | None]]:
    done: dict[str, int] = {}
    for ledger, count in Journal(folder.below("journal")).load().counts.items():
        name = _TIMEPOINT.sub("", ledger).partition("/")[0]
        stage = name.replace("account", "check")
        done[stage] = done.get(stage, 0) + count
    total: dict[str, int] = dict(about.get("tasks", {}))
    if "shards" in about:
        total["finish"] = about["shards"]
    names = ["statistics", "predict", "cluster", "check", "finish"]
    return {n: (done.get(n, 0), total.get(n)) for n in names if n in done or n in total}
