"""A run on one output, from start to end, over as many attempts as it takes.

A run is a folder beside the output, with a lock beside it. The same command finds the folder and
resumes the run; another one is refused, or with overwrite starts over. The folder goes when the
output is published, and when nothing was done.

Every write of a client goes through the lock that the run was begun under (`Run.check`): a client
that slept while another took over writes nothing when it wakes. Tasks, which hold no lock, write
into folders that they never make, under names that no other run reads.
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
    """Where a run keeps its files, and how an unfinished one there is met."""

    folder: Folder
    """What the run keeps until its end."""
    lock: Folder
    """Its lock: one run at a time has the output."""
    overwrite: bool
    """Whether an unfinished run that differs is given up, and this one starts over."""
    what: str = "run of these labels"
    """What an unfinished run is, for messages."""
    elsewhere: str = "choose another name for the labels"
    """What else a user can do who wants to keep it."""
    is_whole: Callable[[RunRecord], bool] = lambda record: True  # noqa: ARG005
    """Whether all that an unfinished run needs is still there."""
    discard: Callable[[RunRecord], None] = lambda record: None  # noqa: ARG005
    """Remove what an unfinished run has begun to write outside of its folder."""
    settle: Callable[[], None] = lambda: None
    """Bring to rest what a publication left that was killed; comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run whose lock this process holds."""

    record: RunRecord
    """As it was when this attempt began."""
    folder: Folder
    """Its scratch folder, which is never made by writing into it."""
    journal: Journal
    lock: Lock
    resumed: bool
    """Whether an earlier attempt has started it."""

    @property
    def name(self) -> str:
        """Of this run, and of no other on this output."""
        return self.record.name

    @property
    def facts(self) -> Facts:
        """All that decides its output."""
        return self.record.facts

    def check(self) -> None:
        """Make sure that the run is still this process's; comes before everything it writes.

        Raises
        ------
        RunError
            When another process has taken it over, or it has ended.
        """
        self.lock.check_now()

    @property
    def is_there(self) -> bool:
        """Whether the folder still holds this run, whoever has its lock."""
        found = read_record(self.folder)
        return found is not None and found.name == self.name

    def update(self, **changes: Any) -> None:
        """Change fields of the record, which `embedseg-large status` reads.

        Raises
        ------
        RunError
            As `check`.
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
    """Begin a run, or resume one.

    Parameters
    ----------
    place
        Where it is.
    record
        Of the run, if it is a new one.
    prepare
        Called before a run begins, but not before one is resumed.

    Raises
    ------
    UsageError
        When another run is at work on this output, or began with other settings.
    RunError
        When the journal of an unfinished run is damaged.
    """
    lock = Lock(place.lock, {"run": place.folder.path})
    with lock.held():
        place.settle()
        found = _resumed(place, record, lock)
        if found is None:
            place.folder.remove_all()  # what is there without a record is of no run
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
        with suppress(RunError):  # what is there by now may be another's
            place.folder.remove_all(last=RUN_FILE, check=run.check)


def _begin(folder: Folder, record: RunRecord, lock: Lock) -> None:
    """Write the record of a new run, which makes its folder: nothing else can be asked before.

    Raises
    ------
    RunError
        When another process took over in the meantime; what is there then is its own, or nothing.
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
    """The unfinished run to resume; None, and nothing of it is left, where there is none."""
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
    """Whether a run is that of the same command; False: it is given up.

    Raises
    ------
    UsageError
        If it is neither.
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
    """Say that the run was taken over, where that is why something went wrong: files are gone.

    Raises
    ------
    RunError
        If it was.
    """
    try:
        run.check()
    except RunError as lost:
        raise lost from error
    except EmbedSegError:  # no answer: the first error is the one to report
        return


def _leave(run: Run, what: str) -> None:
    """Keep what was done for the next attempt; if nothing was, leave nothing."""
    with suppress(EmbedSegError):  # the first error is the one to report
        run.check()  # it may be another's by now
        if not any(run.journal.counts.values()):
            run.folder.remove_all()
            return
    logger.info("finished work of the %s is kept in %s", what, run.folder.path)
