"""The one way in which this package writes a file: it appears whole, and durable ones stay.

::

    .NAME-1f2e3d4c.part    is written, and synced        a kill leaves this one
          |  rename (or link, where nothing may be replaced)
    NAME                                                 readers see the old or the new one
          |  the folder is synced                        loss of power no longer undoes it

What is not durable is whole, too, but a loss of power may take it: whatever can be made again.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""End of the name of a file until it is whole; the name begins with a dot."""

_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Of file systems that cannot sync a folder."""


@contextmanager
def whole(
    file: Path, *, durable: bool = False, name: Callable[[Path, Path], object] | None = None
) -> Iterator[Path]:
    """Give a path to write to; what the body has written there then becomes the file.

    Parameters
    ----------
    file
        May be there already. Its folder must be.
    durable
        Whether a machine that loses its power keeps the file once this has returned.
    name
        Gives what was written its name; default: `os.replace`.

    Raises
    ------
    OSError
        If the file cannot be written; one that was there before stays, and nothing else does.
    """
    begun = file.with_name(f".{file.name}-{secrets.token_hex(4)}{PART}")
    try:
        yield begun
        if durable:
            sync(begun)
        (name or os.replace)(begun, file)
        if durable:
            sync(file.parent)
    finally:
        with suppress(OSError):  # a read-only disk refuses even to remove what is not there
            begun.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring what was written to a file, or the names in a folder, to the disk.

    Raises
    ------
    OSError
        If that fails: what was written may be lost.
    """
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():  # names in it need no sync, and it cannot be opened
        return
    handle = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in _UNKNOWN):
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path, *, durable: bool = False) -> None:
    """Make a folder in one that is there, unless it is there already.

    Raises
    ------
    FileNotFoundError
        If there is no folder to make it in.
    OSError
        If it cannot be made.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        if durable:
            sync(folder.parent)


def make_folders(folder: Path, *, durable: bool = False) -> None:
    """Make a folder, and those that it lies in; see `make_folder`."""
    try:
        make_folder(folder, durable=durable)
    except FileNotFoundError:
        make_folders(folder.parent, durable=durable)
        make_folder(folder, durable=durable)
