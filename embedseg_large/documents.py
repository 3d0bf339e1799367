"""Small files that anyone may have written: settings, metadata, lists."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG

MOST = 1 << 28
"""Bytes of a document."""


def read_document(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """Read a file, but neither what never ends nor far more than there should be.

    Parameters
    ----------
    path
        The file.
    most
        Bytes that it may have.

    Raises
    ------
    ValueError
        If it is a device, a pipe or a folder, or larger.
    OSError
        If it is not there, or cannot be read.
    """
    about = Path(path).stat()
    if not S_ISREG(about.st_mode):
        raise ValueError("a folder" if S_ISDIR(about.st_mode) else "neither a file nor a folder")
    if about.st_size > most:
        raise ValueError(f"{about.st_size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB")
    return Path(path).read_bytes()
