"""Folders and files of a local disk: everything written appears complete or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from embedseg_large.documents import read_document
from embedseg_large.errors import (
    EmbedSegError,
    OutputError,
    PlaceError,
    RunError,
    UnreachableError,
    cause,
)
from embedseg_large.files import PART, is_url, make_folder, sync, whole
from embedseg_large.storage.folder import checked_name

_FILE_PART = re.compile(rf"-[0-9a-f]{{8}}{re.escape(PART)}$")
"""Suffix of the name that `embedseg_large.files.whole` gives an incomplete file."""

_CHUNK_PART = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""Suffix of a chunk's file name until zarr has written it completely."""


def refuse_url(path: str | os.PathLike[str]) -> None:
    """Refuse a URL for what is written to a disk only, instead of creating a folder ``s3:``.

    Raises
    ------
    PlaceError
        If the path, as the user passed it, is a URL.
    """
    if is_url(path):
        raise PlaceError(
            f"{os.fspath(path)}: this is written to a local disk only, not to a URL; choose a "
            "path, and copy the result there"
        )


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written after hours of work, leaving nothing behind.

    Parameters
    ----------
    path
        Local path, as the user passed it. An existing file may be replaced.

    Raises
    ------
    PlaceError
        If it is a URL, there is no folder for it, a folder in its place, or no permission.
    OutputError
        If the disk is full or broken.
    """
    refuse_url(path)
    file = Path(path)
    if not file.parent.is_dir():
        raise PlaceError(f"{path}: there is no folder {file.parent}; create it first")
    if file.is_dir():
        raise PlaceError(f"{path}: it is a folder; name a file in it")
    try:
        check_writable(file.parent)
    except PlaceError as error:
        raise PlaceError(f"{path}: {file.parent} is read-only; name another place") from error


@contextmanager
def whole_file(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` if the body succeeds.

    Parameters
    ----------
    path
        Final path of the file.
    durable
        Whether it must survive a power failure; see `embedseg_large.files`.

    Raises
    ------
    OutputError
        If the body or the renaming ends in an `OSError` that is not one of the package's own; the
        previous file then stays.
    """
    try:
        with whole(Path(path), durable=durable) as begun:
            yield begun
    except EmbedSegError:  # such as an input that cannot be read, which is an OSError, too
        raise
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({why}); name another place") from error


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def output_errors(where: str | Path) -> Iterator[None]:
    """Turn every `OSError` of the body into an `OutputError` of one line.

    Raises
    ------
    OutputError
        If the disk is full, read-only, or cannot be written for another reason.
    """
    try:
        yield
    except EmbedSegError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            message = "the disk is full; free some space and rerun the same command"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            message = "read-only; write somewhere else with --output"
        else:
            message = f"cannot be written ({error.strerror or error})"
        raise OutputError(f"{where}: {message}") from error


def check_writable(folder: Path) -> None:
    """Create and remove a file, since permissions alone say little about network drives.

    Parameters
    ----------
    folder
        Need not exist: then its nearest existing ancestor is tried.

    Raises
    ------
    PlaceError
        If no file can be created there.
    OutputError
        If the disk is full or broken.
    """
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    probe = place / f".write-test-{secrets.token_hex(8)}"
    try:
        with output_errors(place):
            probe.touch(exist_ok=False)
            probe.unlink()
    except OutputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (*_FULL, errno.EIO):
            raise
        raise PlaceError(str(error)) from error.__cause__


@contextmanager
def replaced(new: Path, final: Path, aside: Path) -> Iterator[None]:
    """Rename a finished folder to its final name, and an existing one to `aside`.

    Partial files of killed or suspended processes in the new folder are deleted first. The body
    commits: if it, or anything before it, fails, everything is moved back. A process that is killed
    half-way leaves the old folder under the name of `aside`.

    Parameters
    ----------
    new, final, aside
        Folders of one file system; `final` may be missing, `aside` must be.

    Raises
    ------
    RunError
        If the new folder is gone.
    OutputError
        If a folder cannot be renamed.
    """
    require_unpublished(new)
    is_there = final.exists()
    with output_errors(final):
        _sweep_below(new)
        if is_there:
            final.rename(aside)
    try:
        with output_errors(final):
            new.rename(final)
            sync(final.parent)
        yield
    except BaseException:  # an interrupt too
        if final.exists():
            final.rename(new)
        if is_there:
            aside.rename(final)
        raise


def require_unpublished(folder: Path) -> None:
    """Make sure that a finished folder still has its hidden name.

    Raises
    ------
    RunError
        If it has not: another process has published or removed it.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is gone: another run has taken over; nothing was published")


LOCK_SECONDS = 60.0
"""Maximum time in seconds that another process may hold the lock: it writes a few small files."""


def _is_locked(handle: int) -> bool:
    """Try to get the lock of an open folder."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network drives have no locks
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other processes that request the same lock from a folder while the body runs.

    Windows and some network drives do not support such locks. Documents are still replaced as a
    whole there, but one of two simultaneous changes may be lost.

    Raises
    ------
    OutputError
        If the folder cannot be opened, or another (stopped) process keeps the lock.
    """
    if find_spec("fcntl") is None:
        yield
        return
    with output_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while not _is_locked(handle):
            if time.monotonic() > until:
                raise OutputError(
                    f"{folder}: another process has been writing there for {LOCK_SECONDS:g} s; "
                    "end it if it is stopped, and rerun the same command"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


_TRIES = 2
"""Number of attempts to create a folder that another run removes before the file is in it."""

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""Error codes of file systems without hard links: exFAT, some network drives."""


def _created(file: Path, data: bytes) -> bool:
    """Write a file unless it exists; a reader may see an incomplete one."""
    try:
        with file.open("xb") as opened:
            opened.write(data)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of files, created like its subfolders when something is written."""

    path: str
    """Absolute path."""
    anchor: str | None = None
    """Folder that is never created: if it is missing, nothing is written."""

    def check_reachable(self) -> None:
        """Do nothing: a disk responds at once."""

    def read(self, name: str, most: int = sys.maxsize) -> bytes:
        """Read a file."""
        file = self._file(name)
        with _reading(file):
            return read_document(file, most)

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read files one after the other."""
        return map(self.read, names)

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Write a temporary file and rename it."""
        self._put(name, data, None, durable)

    def create(self, name: str, data: bytes, *, durable: bool = False) -> bool:
        """Write a temporary file and link it to the name, which fails if the name is taken."""
        taken = False

        def link(begun: Path, file: Path) -> None:
            nonlocal taken
            try:
                os.link(begun, file)
            except FileExistsError:
                taken = True
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                taken = not _created(file, data)

        self._put(name, data, link, durable)
        return not taken

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        file = self._file(name)
        with _reading(file):
            return file.is_file()

    def names(self, prefix: str = "") -> Iterator[str]:
        """List the files below ``prefix/``; one folder at a time is held in memory."""
        root = self._file(prefix) if prefix else Path(self.path)
        yield from _files(root, f"{prefix}/" if prefix else "")

    def remove(self, name: str) -> None:
        """Delete a file."""
        file = self._file(name)
        with output_errors(file):
            file.unlink(missing_ok=True)

    def remove_all(self, last: str | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Delete the folder."""
        if last is not None and self.exists(last):
            with output_errors(self.path):
                entries = [e.path for e in os.scandir(self.path) if e.name != last]
            for entry in entries:
                check()
                _remove(Path(entry))
        check()
        shutil.rmtree(self.path, ignore_errors=True)  # a late task may still be writing
        with output_errors(self.path):
            if Path(self.path).exists():
                check()
                shutil.rmtree(self.path)

    def check_writable(self) -> None:
        """Create and delete a file in the folder, or in its nearest existing ancestor."""
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
            self._make(folder, durable=True)
        with locked(folder):
            old = self.read(name) if self.exists(name) else None
            self.write(name, change(old), durable=True)

    def _file(self, name: str) -> Path:
        return Path(self.path, checked_name(name))

    def _put(
        self,
        name: str,
        data: bytes,
        give: Callable[[Path, Path], object] | None,
        durable: bool = False,
    ) -> None:
        """Write a file that appears complete; `give` renames it."""
        file = self._file(name)

        def put() -> None:
            with whole(file, durable=durable, name=give) as begun:
                begun.write_bytes(data)

        with output_errors(self.path):
            for _ in range(_TRIES):  # only after a failure: usually the folder exists
                with suppress(FileNotFoundError):
                    return put()
                self._make(file.parent, durable)
            put()

    def _make(self, folder: Path, durable: bool = False) -> None:
        """Create a folder and its parents, up to the anchor, without a race."""
        if self.anchor is not None and folder == Path(self.anchor):
            if not folder.is_dir():
                raise RunError(f"{folder} is gone: the run has ended")
            return
        try:
            make_folder(folder, durable=durable)
        except FileNotFoundError:
            self._make(folder.parent, durable)
            make_folder(folder, durable=durable)


def sweep(folder: Path) -> None:
    """Delete partial files of killed processes; only while no other process writes there."""
    with suppress(OSError):
        for file in folder.glob(f".*{PART}"):
            if _FILE_PART.search(file.name):
                file.unlink(missing_ok=True)


def _sweep_below(folder: Path) -> None:
    """Delete partial chunks whose writer was killed or suspended, at any depth."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if _CHUNK_PART.search(name):
                Path(parent, name).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Delete a file or a folder, as far as possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of the body into an `UnreachableError`, except for missing files."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{path}: cannot be read ({cause(error)})") from error


def _files(folder: Path, prefix: str) -> Iterator[str]:
    """List files in the order of their whole names, in which "a-b" comes before "a/b"."""
    try:
        with _reading(folder):
            entries = {e.name + "/" * e.is_dir() for e in os.scandir(folder)}
    except FileNotFoundError:
        return
    for name in sorted(entries):
        if name.endswith("/"):
            yield from _files(folder / name, prefix + name)
        elif not (name.startswith(".") and name.endswith(PART)):
            yield prefix + name
