"""A run on one output, from start to end, over as many attempts as it takes.

A run is a folder beside the output, with a lock beside it. The same command finds the folder and
resumes the run; a different one is refused, or with overwrite starts over. The folder
is removed when the output is published, or if nothing was done.

Every write of a client first checks the lock under which the run was started (`Run.check`): a
client that slept while another took over writes nothing when it wakes. Tasks, which hold no lock,
write into folders that they never create, under names that no other run reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from embedseg_large.documents import difference
from embedseg_large.errors import EmbedSegError, RunError, UsageError
from embedseg_large.runs.facts import Facts
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.record import (
    RUN_FILE,
    RunRecord,
    create_record,
    name_of_run,
    read_record,
    write_record,
)
from embedseg_large.storage.folder import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """Where a run keeps its files, and how to handle an unfinished run there."""

    folder: Folder
    """Folder for everything that the run keeps until its end."""
    lock: Folder
    """Folder of its lock, which allows one run at a time per output."""
    overwrite: bool
    """Whether to discard an unfinished run with other settings, and start over."""
    what: str = "run of these labels"
    """Description of an unfinished run, for messages."""
    elsewhere: str = "choose another name for the labels"
    """Alternative for a user who wants to keep it."""
    is_whole: Callable[[RunRecord], bool] = lambda record: True  # noqa: ARG005
    """Whether everything that an unfinished run needs still exists."""
    discard: Callable[[RunRecord], None] = lambda record: None  # noqa: ARG005
    """Removes the unfinished output of a run outside its folder."""
    settle: Callable[[], None] = lambda: None
    """Completes or reverts a publication that was killed; called first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run whose lock this process holds."""

    record: RunRecord
    """The record at the start of this attempt."""
    folder: Folder
    """Its scratch folder, which is never created by writing into it."""
    journal: Journal
    lock: Lock
    resumed: bool
    """Whether an earlier attempt has started it."""

    @property
    def name(self) -> str:
        """Name of this run, unique for its output."""
        return self.record.name

    @property
    def facts(self) -> Facts:
        """Everything that determines its output."""
        return self.record.facts

    def check(self) -> None:
        """Ensure that this process still holds the run; called before every write.

        Raises
        ------
        RunError
            If another process has taken it over, or it has ended.
        """
        self.lock.check_now()

    @property
    def is_there(self) -> bool:
        """Whether the folder still holds this run, regardless of its lock."""
        found = read_record(self.folder)
        return found is not None and found.name == self.name

    def update(self, **changes: Any) -> None:
        """Change fields of the record, which `embedseg-large status` reads.

        Raises
        ------
        RunError
            As for `check`.
        """
        self.check()
        found = read_record(self.folder)
        if found is None or found.name != self.name:
            raise RunError(f"{self.folder.path}: another run has taken over; nothing was published")
        write_record(self.folder, replace(found, **changes))


@contextmanager
def open_run(
    place: RunPlace, record: RunRecord, prepare: Callable[[], None] = lambda: None
) -> Iterator[Run]:
    """Start a run, or resume one.

    Parameters
    ----------
    place
        Location of the run.
    record
        Record of the run if it is new.
    prepare
        Called before a new run starts, but not before one is resumed.

    Raises
    ------
    UsageError
        If another run is working on this output, or was started with other settings.
    RunError
        If the journal of an unfinished run is damaged.
    """
    lock = Lock(place.lock, {"run": place.folder.path})
    with lock.held():
        place.settle()
        found = _resumed(place, record, lock)
        if found is None:
            place.folder.remove_all()  # files without a record belong to no run
            prepare()
            _begin(place.folder, record, lock)
        run = Run(
            record=record if found is None else found[0],
            folder=place.folder.anchored(),
            journal=_journal(place, lock) if found is None else found[1],
            lock=lock,
            resumed=found is not None,
        )
        try:
            yield run
        except BaseException as error:
            _leave(run, place.what)
            if isinstance(error, Exception) and not isinstance(error, RunError):
                _check_lost(run, error)
            raise
        with suppress(RunError):  # the files may belong to another run by now
            place.folder.remove_all(last=RUN_FILE, check=run.check)


def _begin(folder: Folder, record: RunRecord, lock: Lock) -> None:
    """Write the record of a new run, which creates its folder; comes before everything else.

    Raises
    ------
    RunError
        If another process took over in the meantime; existing files then belong to it.
    """
    is_ours = create_record(folder, record)
    try:
        lock.check_now()
    except RunError:
        if is_ours and name_of_run(folder) == record.name:
            folder.remove_all()
        raise
    if not is_ours:
        raise RunError(f"{folder.path}: another run has taken over; nothing was published")


def _resumed(place: RunPlace, record: RunRecord, lock: Lock) -> tuple[RunRecord, Journal] | None:
    """Return the unfinished run to resume; None, with all remains deleted, if there is none."""
    found = None
    try:
        found = read_record(place.folder)
        if found is not None and place.is_whole(found) and _is_resumable(place, found, record):
            journal = _journal(place, lock).load()
            logger.info("resuming the run in %s", place.folder.path)
            return found, journal
    except (UsageError, RunError):  # refused, or damaged
        if not place.overwrite:
            raise
    if found is not None:
        place.discard(found)
    return None


def _is_resumable(place: RunPlace, found: RunRecord, record: RunRecord) -> bool:
    """Whether a run belongs to the same command; False if it is to be discarded.

    Raises
    ------
    UsageError
        If it can neither be resumed nor discarded.
    """
    different = difference(found.facts, record.facts)
    if not different and (found.overwrite or not place.overwrite):
        return True
    if place.overwrite:
        return False
    raise UsageError(
        f"{place.folder.path}: an unfinished {place.what} had {different}; finish it with those, "
        f"{place.elsewhere}, or start over with overwrite (--overwrite)"
    )


def _journal(place: RunPlace, lock: Lock) -> Journal:
    return Journal(place.folder.anchored().below("journal"), lock.number, lock.check_now)


def _check_lost(run: Run, error: Exception) -> None:
    """Raise a better error if something failed because the run was taken over: files are gone.

    Raises
    ------
    RunError
        If the run was taken over.
    """
    try:
        run.check()
    except RunError as lost:
        raise lost from error
    except EmbedSegError:  # no answer: the first error is the one to report
        return


def _leave(run: Run, what: str) -> None:
    """Keep finished work for the next attempt; if there is none, leave nothing behind."""
    with suppress(EmbedSegError):  # the first error is the one to report
        run.check()  # another process may hold it by now
        if not any(run.journal.counts.values()):
            run.folder.remove_all()
            return
    logger.info("finished work of the %s is kept in %s", what, run.folder.path)
