"""The progress of a run, or its result, as seen from another process."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from embedseg_large.errors import MetadataError, UsageError
from embedseg_large.labels.published import label_names, provenance_of
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.lock import holder
from embedseg_large.runs.paths import lock_folder, scratch_path
from embedseg_large.runs.record import RunRecord, read_record
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.storage.connection import joined, shown
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.volume import open_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """An unfinished run."""

    folder: str
    """Folder with its state."""
    labels: str
    """Labels that it will write."""
    holder: dict[str, Any] | None
    """Host and process working on it, and since when; None: no process is."""
    stages: dict[str, tuple[int, int | None]]
    """Finished tasks, and the total if it is known already, by stage."""

    def as_dict(self) -> dict[str, Any]:
        """The status as values that JSON can hold."""
        return {
            "folder": self.folder,
            "labels": self.labels,
            "finished": False,
            "running": self.holder,
            "stages": {n: {"done": d, "of": t} for n, (d, t) in self.stages.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Published labels that no run is working on."""

    labels: str
    """Path or URL, without credentials."""
    n_instances: int | None
    """Number of instances counted by the run; None: another program made the labels."""
    made: str | None
    """When they were published, ISO 8601 in UTC; None: not recorded."""

    def as_dict(self) -> dict[str, Any]:
        """The status as values that JSON can hold."""
        return {"finished": True} | asdict(self)


def run_status(
    place: str | os.PathLike[str],
    labels: str = "nuclei",
    scratch: str | os.PathLike[str] | None = None,
) -> RunStatus | Finished:
    """Inspect a run, or the labels that it has written, without changing anything.

    Parameters
    ----------
    place
        The store that gets the labels, or the folder of a run.
    labels
        Name of the labels.
    scratch
        As passed to the run.

    Returns
    -------
    RunStatus or Finished
        An unfinished run takes precedence over the labels that it will replace.

    Raises
    ------
    VolumeError
        If there is no such store.
    UsageError
        If there is neither a run nor labels with that name; the message lists the existing labels.
    """
    return _unfinished(place, labels, scratch) or _finished(os.fspath(place), labels)


def _unfinished(
    place: str | os.PathLike[str], labels: str, scratch: str | os.PathLike[str] | None
) -> RunStatus | None:
    folder = folder_at(place)
    folder.check_reachable()
    store, record = folder.path, read_record(folder)
    if record is not None and record.labels is not None:
        found = holder(_lock_of(record.labels))
    else:
        found = holder(lock_folder(store, labels))
        at = None if found is None else found.get("run")
        folder = folder_at(at if isinstance(at, str) else scratch_path(scratch, store, labels))
        record = read_record(folder)
    if record is None or record.labels is None:
        return None
    with suppress(FileNotFoundError):  # the run may end meanwhile
        stages = _stages(folder, record)
        return RunStatus(folder=folder.path, labels=record.labels, holder=found, stages=stages)
    return None


def _finished(store: str, name: str) -> Finished:
    names = label_names(store)
    if name in names:
        found = open_volume(joined(store, f"labels/{name}"), channel=None)
        made = provenance_of(joined(store, f"labels/{name}"))
        return Finished(
            labels=found.name, n_instances=made.get("n_instances"), made=made.get("made")
        )
    if not names:
        with suppress(MetadataError):  # a store for labels only has no image
            open_volume(store, channel=None)
    there = f"existing labels: {', '.join(names)}" if names else "there are no labels"
    raise UsageError(
        f"{shown(store)}: no run and no labels {name!r}; {there}; pass the run's --labels, and "
        "its --scratch if it had one"
    )


def _lock_of(labels: str) -> Folder:
    store, _, name = labels.rpartition("/labels/")
    return lock_folder(store, name)


def _stages(folder: Folder, record: RunRecord) -> dict[str, tuple[int, int | None]]:
    done: Counter[str] = Counter()
    for name, count in Journal(folder.below("journal")).load().counts.items():
        ledger = LedgerKind.of(name)
        if ledger is not None:
            done[ledger.stage] += count
    total = dict(record.tasks)
    if record.shards is not None:
        total[Stage.FINISH] = record.shards
    known = {name: count for name, count in total.items() if done[name] <= count}
    # if tiles disagreed, there are more tasks than planned, and their number is unknown
    return {s.value: (done[s], known.get(s)) for s in Stage if s in done or s in total}
