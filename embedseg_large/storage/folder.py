"""Named byte strings ("objects") in a folder, on a disk or in a bucket.

The journal, scratch files and locks of a run need no more than this: an object appears complete or
not at all, can be created exclusively, and can be changed without losing a concurrent change.

::

    Folder            the common protocol
    ├── LocalFolder   files, replaced by renaming
    └── RemoteFolder  objects of S3, Google Cloud or Azure, or of an https server (read only)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from embedseg_large.errors import UsageError


class Folder(Protocol):
    """A folder of objects; frozen and picklable, reopened in every process.

    Names are relative, with slashes between their parts. Failed writes raise `OutputError`; failed
    reads raise `UnreachableError`.
    """

    @property
    def path(self) -> str:
        """Absolute local path, or URL without credentials."""

    def check_reachable(self) -> None:
        """Request any object, and give up early if retrying is pointless; does nothing on a disk.

        All other errors are left to later requests, which are more patient.

        Raises
        ------
        UnreachableError
            If there is no such server or bucket.
        """

    def read(self, name: str, most: int = sys.maxsize) -> bytes:
        """Read an object.

        Raises
        ------
        FileNotFoundError
            If there is no object of that name.
        UnreachableError
            If it has more than `most` bytes.
        """

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read objects in the order of their names; from a server, several at a time.

        Raises
        ------
        FileNotFoundError
            If there is no object of a name.
        """

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Write an object at once, in place of the one that may be there.

        A durable object survives a subsequent power failure; in object stores, all do.
        """

    def create(self, name: str, data: bytes, *, durable: bool = False) -> bool:
        """Write an object unless it exists; of several processes, exactly one succeeds.

        Returns
        -------
        bool
            False if there was one already.
        """

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """List the objects below ``prefix/``, at any depth, ascending by their whole name."""

    def remove(self, name: str) -> None:
        """Delete an object; a missing one is ignored."""

    def remove_all(self, last: str | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Delete the folder and everything in it.

        Parameters
        ----------
        last
            An object to delete after all others.
        check
            Called before each part; an exception from it stops the removal.
        """

    def check_writable(self) -> None:
        """Write an object in the (possibly missing) folder, and delete it again.

        Raises
        ------
        PlaceError
            If that is not allowed, or cannot be done at such a place.
        OutputError
            If the disk is full or broken, or a server does not respond.
        UnreachableError
            If there is no such server or bucket.
        """

    def below(self, name: str) -> Folder:
        """Return the folder `name` inside this one."""

    def anchored(self) -> Folder:
        """Return the same folder, but one that must exist to be written to.

        A task that outlived its run must not recreate the run's folder: writing to an anchored
        local folder, or below it, raises `RunError` once it is gone. Object stores have no folders;
        there it changes nothing, and late objects are removed by the next run.
        """

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace an object by a function of its content, without losing concurrent changes.

        Parameters
        ----------
        name
            Name of the object.
        change
            Receives the content, None if there is no object, and returns the new content. It may be
            called several times, and after a lost response even on its own result.
        """


def checked_name(name: str) -> str:
    """Check that a name stays inside its folder.

    Raises
    ------
    UsageError
        If a part of it is empty, ``.`` or ``..``.
    """
    if {"", ".", ".."} & set(name.split("/")):
        raise UsageError(
            f"{name!r} is not a valid object name; use parts separated by single slashes"
        )
    return name
