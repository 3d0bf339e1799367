"""Files for people (a report, a table, a summary) that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedseg_large.errors import OutputError, PlaceError
from embedseg_large.storage.group import check_writable


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written after hours of work; leaves nothing behind.

    Parameters
    ----------
    path
        Local. A file that is there may be replaced.

    Raises
    ------
    PlaceError
        If there is no folder for it, a folder in its place, or no permission.
    OutputError
        If that is for a full or a broken disk.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise PlaceError(f"{path}: there is no folder {file.parent}; make it first")
    if file.is_dir():
        raise PlaceError(f"{path}: it is a folder; name a file in it")
    try:
        check_writable(file.parent)
    except PlaceError as error:
        raise PlaceError(f"{path}: {file.parent} is read-only; name another place") from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, and rename what was written to `path` if all went well.

    Raises
    ------
    OutputError
        If the body or the renaming ends in an `OSError`; what was there before stays.
    """
    file = Path(path)
    begun = file.with_name(f".{file.name}-{os.getpid()}.part")
    try:
        yield begun
        begun.replace(file)
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({why}); name another place") from error
    finally:
        with suppress(OSError):  # a read-only disk refuses even to remove what is not there
            begun.unlink(missing_ok=True)
