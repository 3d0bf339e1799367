"""The only way in which this package writes files: atomically, and durably if requested.

::

    .NAME-1f2e3d4c.part    is written, and synced        a kill leaves this one
          |  rename (or link, where nothing may be replaced)
    NAME                                                 readers see the old or the new one
          |  the folder is synced                        a power failure no longer undoes it

Other files are also complete, but may be lost in a power failure: those that can be recreated.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""Suffix of a file's name until it is complete; the name begins with a dot."""

_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Error codes of file systems that cannot sync a folder."""


_URL = re.compile("[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Beginning of a URL; a drive of Windows has a single letter."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether an output is named by a URL, which as a path would be a folder called ``s3:``.

    Parameters
    ----------
    path
        As the user wrote it, or as a `Path`, which has removed one of the slashes.
    """
    return _URL.match(os.fspath(path)) is not None


@contextmanager
def whole(
    file: Path, *, durable: bool = False, name: Callable[[Path, Path], object] | None = None
) -> Iterator[Path]:
    """Yield a temporary path; what the body has written there then becomes the file.

    Parameters
    ----------
    file
        The file, which may exist; its folder must exist.
    durable
        Whether the file survives a power failure once this has returned.
    name
        Renames the written file; default: `os.replace`.

    Raises
    ------
    OSError
        If the file cannot be written; an existing one then remains unchanged.
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
        with suppress(OSError):  # a read-only disk refuses even to remove a missing file
            begun.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk.

    Raises
    ------
    OSError
        If that fails; written data may be lost.
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
    """Create a folder in an existing one, unless it exists.

    Raises
    ------
    FileNotFoundError
        If the parent folder does not exist.
    OSError
        If it cannot be created.
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
    """Create a folder and its parents; see `make_folder`."""
    try:
        make_folder(folder, durable=durable)
    except FileNotFoundError:
        make_folders(folder.parent, durable=durable)
        make_folder(folder, durable=durable)
