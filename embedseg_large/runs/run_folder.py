"""A run on one output, from start to end, over as many attempts as it takes.

A run is a folder beside the output, with a lock beside it. The same command finds the folder and
resumes; another one is refused, or with overwrite starts over. The folder is deleted when the
labels are published, or if nothing was done.
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
    """The output of a run."""

    @property
    def store(self) -> str:
        """Path or URL of its store."""

    @property
    def name(self) -> str:
        """Its name in the store."""

    @property
    def path(self) -> str:
        """Both."""

    @property
    def overwrite(self) -> bool:
        """Whether an older one may be replaced, and an unfinished run started over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run whose lock this process holds."""

    name: str
    """Token of this run, and of no other on this output."""
    facts: Facts
    """Everything that determines its labels."""
    folder: Folder
    """Its scratch folder."""
    journal: Journal
    lock: Lock
    resumed: bool
    """Whether an earlier attempt has started it."""

    def tell(self, more: Mapping[str, Any]) -> None:
        """Add to the record that `embedseg-large status` reads."""
        write_about(self.folder, read_about(self.folder) | dict(more))


@contextmanager
def open_run(
    path: str, output: Output, facts: Facts, prepare: Callable[[], None] = lambda: None
) -> Iterator[Run]:
    """Start a run, or resume one.

    Parameters
    ----------
    path
        Path of its scratch folder.
    output
        Its output, on which one run works at a time.
    facts
        Everything that determines the output.
    prepare
        Called before a run starts, but not before one resumes.

    Raises
    ------
    UsageError
        If another run is working on this output, or was started with other settings.
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
    """The record of an unfinished run to resume; removes one that is to start over."""
    about = read_about(folder)
    if not about:
        return {}
    different = difference(about["facts"], facts)
    if not different and (about["overwrite"] or not output.overwrite):
        logger.info("resuming the run in %s", folder.path)
        return about
    if not output.overwrite:
        raise UsageError(
            f"{folder.path}: an unfinished run of these labels had {different}; finish it with "
            "those, choose another name for the labels, or start over with overwrite (--overwrite)"
        )
    _remove(folder, about)
    return {}


def _remove(folder: Folder, about: Mapping[str, Any]) -> None:
    """Remove an unfinished run, and the labels it had started to write."""
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
    """Keep finished work for the next attempt; if there is none, leave nothing."""
    with suppress(EmbedSegError):  # report the first error
        run.lock.check_now()  # it may belong to another run by now
        if not any(run.journal.counts.values()):
            run.folder.remove_all()
            return
    logger.info("finished work is kept in %s: rerun the same command to resume", run.folder.path)


def read_about(folder: Folder) -> dict[str, Any]:
    """The record of a run; empty if there is none."""
    try:
        about: dict[str, Any] = json.loads(folder.read(RUN_FILE))
    except FileNotFoundError:
        return {}
    except EmbedSegError:  # no response, or no permission: these are ValueErrors too
        raise
    except ValueError as error:
        raise UsageError(f"{folder.path}/{RUN_FILE}: {error}; remove the folder") from error
    return about


def write_about(folder: Folder, about: Mapping[str, Any]) -> None:
    """Replace the record of a run."""
    folder.write(RUN_FILE, json.dumps(about, indent=1).encode())
