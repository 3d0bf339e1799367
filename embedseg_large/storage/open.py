"""Folders by path or URL: on a disk, or in a bucket."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embedseg_large.storage.connection import is_remote
from embedseg_large.storage.disk import LocalFolder
from embedseg_large.storage.folder import Folder


def folder_at(path: str | os.PathLike[str]) -> Folder:
    """Return the folder at a path or URL; touches neither disk nor network.

    Parameters
    ----------
    path
        A local path, ``file://``, ``s3://BUCKET/...``, ``gs://BUCKET/...``,
        ``az://CONTAINER/...``, ``https://`` or ``http://`` (the last two read only).

    Raises
    ------
    UsageError
        If the scheme is not supported, or the extra for object stores is not installed.
    """
    text = os.fspath(path)
    if is_remote(text):
        from embedseg_large.storage.bucket import RemoteFolder

        return RemoteFolder.at(text)
    parts = urlsplit(text)
    local = unquote(parts.path) if parts.scheme == "file" else text
    return LocalFolder(str(Path(local).absolute()))
