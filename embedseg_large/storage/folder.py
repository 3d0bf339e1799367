"""Named byte strings ("objects") below one folder, on a disk or in a bucket.

The journal, scratch files and locks of a run need no more than this: an object appears whole or
not at all, can be created once, and can be changed without losing what another process changed.

::

    Folder            what the two have in common
    ├── LocalFolder   files, replaced by renaming
    └── RemoteFolder  objects of S3, Google Cloud or Azure, or of an https server (read only)
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from embedseg_large.errors import RunError, UnreachableError, UsageError
from embedseg_large.storage.connection import is_remote
from embedseg_large.storage.group import check_writable, locked, output_errors

_PART = ".part"


class Folder(Protocol):
    """A folder of objects; frozen and picklable, opened anew in every process.

    Names are relative, with slashes between their parts. Everything that writes raises
    `OutputError` where that fails; everything that reads raises `UnreachableError`.
    """

    @property
    def path(self) -> str:
        """Absolute local path, or URL without credentials."""

    def greet(self) -> None:
        """Ask for any object, and give up soon where another try is no help; nothing on a disk.

        Whatever else goes wrong is left to the requests that follow, which are more patient.

        Raises
        ------
        UnreachableError
            If there is no such server or bucket.
        """

    def read(self, name: str) -> bytes:
        """Read an object.

        Raises
        ------
        FileNotFoundError
            If there is none of that name.
        """

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read objects in the order of their names; from a server, several at a time.

        Raises
        ------
        FileNotFoundError
            If there is none of a name.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write an object at once, in place of the one that may be there."""

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; of several processes, one succeeds.

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
        """Delete an object; one that is not there is deleted already."""

    def remove_all(self) -> None:
        """Delete the folder and everything in it."""

    def check_writable(self) -> None:
        """Write an object where the folder is or would be, and delete it.

        Raises
        ------
        PlaceError
            If that is not allowed, or cannot be done at such a place.
        OutputError
            If the disk is full or broken, or a server does not answer.
        UnreachableError
            If there is no such server or bucket.
        """

    def below(self, name: str) -> Folder:
        """Return the folder `name` inside this one."""

    def anchored(self) -> Folder:
        """Return the same folder, but one that must be there to be written to.

        A task that outlived its run must not begin the run's folder anew: writing to an anchored
        local folder, or below it, raises `RunError` once it is gone. Object stores have no
        folders; there it changes nothing, and late objects are removed by whoever comes next.
        """

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace an object by a function of its content, without losing another's change.

        Parameters
        ----------
        name
            Name of the object.
        change
            Gets the content, None where there is no object, and returns the new one. It may be
            called several times, and after a lost answer of a server even on its own result.
        """


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of files; made, like the folders inside it, when something is written."""

    path: str
    """Absolute path."""
    anchor: str | None = None
    """Folder that is never made, only found: without it nothing is written."""

    def greet(self) -> None:
        """Do nothing: a disk answers at once."""

    def read(self, name: str) -> bytes:
        """Read a file."""
        file = self._file(name)
        try:
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{file}: there is no such file") from error
        except OSError as error:
            raise UnreachableError(f"{file}: cannot be read ({error.strerror})") from error

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read files one after the other."""
        return map(self.read, names)

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        with self._written(name, data) as (temporary, file):
            temporary.replace(file)

    def create(self, name: str, data: bytes) -> bool:
        """Write a temporary file and link it to the name, which fails if the name is taken."""
        with self._written(name, data) as (temporary, file):
            try:
                os.link(temporary, file)
            except FileExistsError:
                return False
        return True

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._file(name).is_file()

    def names(self, prefix: str = "") -> Iterator[str]:
        """List the files below ``prefix/``; one folder at a time is held in memory."""
        root = self._file(prefix) if prefix else Path(self.path)
        yield from _files(root, f"{prefix}/" if prefix else "")

    def remove(self, name: str) -> None:
        """Delete a file."""
        file = self._file(name)
        with output_errors(file):
            file.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)  # a late task may write while this goes on
        with output_errors(self.path):
            if Path(self.path).exists():
                shutil.rmtree(self.path)

    def check_writable(self) -> None:
        """Make and delete a file in the folder, or in the nearest one above it that is there."""
        check_writable(Path(self.path))

    def below(self, name: str) -> LocalFolder:
        """Return the folder `name` inside this one, with the same anchor."""
        return replace(self, path=str(self._file(name)))

    def anchored(self) -> LocalFolder:
        """Return the same folder as its own anchor."""
        return replace(self, anchor=self.path)

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Change a file while its folder is locked."""
        folder = self._file(name).parent
        with output_errors(folder):
            self._make(folder)
        with locked(folder):
            self.write(name, change(self.read(name) if self.exists(name) else None))

    def _file(self, name: str) -> Path:
        return Path(self.path, checked_name(name))

    @contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """Write a temporary file beside the final one, for the body to give it its name."""
        file = self._file(name)
        temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}{_PART}")
        with output_errors(self.path):
            try:
                self._write(temporary, data)
                yield temporary, file
            finally:
                temporary.unlink(missing_ok=True)

    def _write(self, file: Path, data: bytes) -> None:
        try:
            file.write_bytes(data)
        except FileNotFoundError:  # asked for only now: mostly the folder is there
            self._make(file.parent)
            file.write_bytes(data)

    def _make(self, folder: Path) -> None:
        """Make a folder and those it lies in, up to the anchor, without a moment to slip in."""
        if self.anchor is not None and folder == Path(self.anchor):
            if not folder.is_dir():
                raise RunError(f"{folder} is gone: the run has ended")
            return
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)


def _files(folder: Path, prefix: str) -> Iterator[str]:
    """List files in the order of their whole names, in which "a-b" comes before "a/b"."""
    try:
        entries = {e.name + "/" * e.is_dir(): e for e in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(entries):
        if name.endswith("/"):
            yield from _files(folder / name, prefix + name)
        elif not (name.startswith(".") and name.endswith(_PART)):
            yield prefix + name


def checked_name(name: str) -> str:
    """Check that a name stays inside its folder.

    Raises
    ------
    UsageError
        If a part of it is empty, ``.`` or ``..``.
    """
    if {"", ".", ".."} & set(name.split("/")):
        raise UsageError(f"{name!r} cannot name an object; give parts with one slash between")
    return name


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
        If the URL is of another kind, or the extra for object stores is not installed.
    """
    text = os.fspath(path)
    if is_remote(text):
        from embedseg_large.storage.bucket import RemoteFolder

        return RemoteFolder.at(text)
    parts = urlsplit(text)
    local = unquote(parts.path) if parts.scheme == "file" else text
    return LocalFolder(str(Path(local).absolute()))
