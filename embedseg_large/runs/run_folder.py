"""A run on one output, from its beginning to its end, over as many attempts as it takes.

A run is a folder beside the output, with a lock beside it. The same command finds the folder and
goes on; another one is refused, or with overwrite begins anew. The folder goes when the labels are
published, and when nothing was done.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.runs.facts import Facts, difference, token
from embedseg_large.runs.journal import Journal
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.paths import lock_folder
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at

RUN_FILE = "run.json"

logger = logging.getLogger(__name__)


class Output(Protocol):
    """What a run writes in the end."""

    @property
    def store(self) -> str:
        """Path or URL of the store it goes into."""

    @property
    def name(self) -> str:
        """What it is called there."""

    @property
    def path(self) -> str:
        """Both."""

    @property
    def overwrite(self) -> bool:
        """Whether an older one may be replaced, and an unfinished run be begun anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that this process holds the lock of."""

    name: str
    """Of this run, and of no other on this output."""
    facts: Facts
    """All that decides its labels."""
    folder: Folder
    """Its scratch folder."""
    journal: Journal
    lock: Lock
    resumed: bool
    """Whether an earlier attempt has begun it."""

    def tell(self, more: Mapping[str, Any]) -> None:
        """Add to what `embedseg-large status` can read."""
        write_about(self.folder, read_about(self.folder) | dict(more))


@contextmanager
def open_run(
    path: str, output: Output, facts: Facts, prepare: Callable[[], None] = lambda: None
) -> Iterator[Run]:
    """Begin a run, or go on with one.

    Parameters
    ----------
    path
        Of its scratch folder.
    output
        What it writes; one run at a time does.
    facts
        All that decides what it writes.
    prepare
        Called before a run begins, but not before one goes on.

    Raises
    ------
    UsageError
        When another run is at work on this output, or began with other settings.
    """
    folder = folder_at(path)
    lock = Lock(lock_folder(output.store, output.name), {"run": folder.path})
    with lock.held():
        found = _find(folder, output, facts)
        if not found:
            prepare()
        about = found or _begin(folder, output, facts)
        journal = Journal(folder.anchored().below("journal"), lock.number, lock.check)
        run = Run(
            name=about["name"],
            facts=facts,
            folder=folder,
            journal=journal.load(),
            lock=lock,
            resumed=bool(found),
        )
        try:
            yield run
        except BaseException:
            _leave(run)
            raise
        folder.remove_all()


def _find(folder: Folder, output: Output, facts: Facts) -> dict[str, Any]:
    """What an unfinished run to go on with says; removes one that is to be begun anew."""
    about = read_about(folder)
    if not about:
        return {}
    different = difference(about["facts"], facts)
    if not different and (about["overwrite"] or not output.overwrite):
        logger.info("going on with the run in %s", folder.path)
        return about
    if not output.overwrite:
        raise UsageError(
            f"{folder.path}: an unfinished run of these labels had {different}; finish it with "
            "those, choose another name for the labels, or begin anew with overwrite (--overwrite)"
        )
    _remove(folder, about)
    return {}


def _remove(folder: Folder, about: Mapping[str, Any]) -> None:
    """Remove an unfinished run, and the labels it had begun to write."""
    begun = about.get("pending", "")
    if begun.rpartition("/")[2].startswith("."):  # hidden: never published
        folder_at(begun).remove_all()
    folder.remove_all()


def _begin(folder: Folder, output: Output, facts: Facts) -> dict[str, Any]:
    about = {
        "name": secrets.token_hex(8),
        "labels": output.path,
        "overwrite": output.overwrite,
        "token": token(facts),
        "facts": facts,
    }
    write_about(folder, about)
    return about


def _leave(run: Run) -> None:
    """Keep what was done for the next attempt; if nothing was, leave nothing."""
    with suppress(EmbedSegError):  # the first error is the one to tell
        run.lock.check_now()  # it may be another's by now
        if not any(run.journal.counts.values()):
            run.folder.remove_all()
            return
    logger.info("what was done is kept in %s: the same command goes on", run.folder.path)


def read_about(folder: Folder) -> dict[str, Any]:
    """What a run says about itself; empty where there is none."""
    try:
        about: dict[str, Any] = json.loads(folder.read(RUN_FILE))
    except FileNotFoundError:
        return {}
    except EmbedSegError:  # no answer, or no permission: which are ValueErrors too
        raise
    except ValueError as error:
        raise UsageError(f"{folder.path}/{RUN_FILE}: {error}; remove the folder") from error
    return about


def write_about(folder: Folder, about: Mapping[str, Any]) -> None:
    """Replace what a run says about itself."""
    folder.write(RUN_FILE, json.dumps(about, indent=1).encode())
