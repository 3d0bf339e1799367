"""The exceptions of embedseg_large.

Each also derives from the matching builtin, and reports in one line what was found, where, and what
to do.

::

    EmbedSegError
    ├── UsageError (ValueError)             an argument is wrong
    │   ├── ImageChangedError               the image of an unfinished run has changed
    │   └── LabelsExistError (FileExistsError)   the name is taken and overwrite was not requested
    ├── VolumeError (ValueError)            an image or label volume cannot be used
    │   ├── VolumeNotFoundError (FileNotFoundError)
    │   ├── MetadataError                   the store is there, its metadata is not usable
    │   ├── IntensityError                  NaN, infinity, or a constant image
    │   │   └── BlankError                  no voxel holds data
    │   ├── CorruptChunkError (OSError)     stored voxels that cannot be decoded
    │   └── UnreachableError (OSError)      no answer, or no permission to read
    ├── ModelError (ValueError)             no model, or the wrong one for the image
    ├── OutputError (OSError)               the output cannot be written: read-only, disk full
    │   └── PlaceError                      also a UsageError: raised before any work
    └── RunError (RuntimeError)             a run that had begun could not be finished

Files are considered hostile or damaged until they are checked. `foreign` surrounds the parsing of a
file, so that any exception of a library becomes one of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LONGEST = 300  # characters of another library's message
_URL = re.compile(
    r"((?:\b[a-z][a-z0-9+.-]*:)?//)(?:[^\s/\"'<>]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?", re.I
)


class EmbedSegError(Exception):
    """Base of every exception that embedseg_large raises on purpose.

    Its message contains no user, password or query of any URL.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_logins(a) if isinstance(a, str) else a for a in args))

    def __reduce__(self) -> tuple[type[EmbedSegError], tuple[Any, ...]]:
        # stated, since what Dask pickles errors with would call no __init__ that is our own
        return type(self), self.args


class UsageError(EmbedSegError, ValueError):
    """An argument is wrong."""


class LabelsExistError(UsageError, FileExistsError):
    """Labels of that name exist, and overwriting was not requested."""


class ImageChangedError(UsageError):
    """The image has changed since an unfinished run began."""


class VolumeError(EmbedSegError, ValueError):
    """An image or label volume cannot be used."""


class VolumeNotFoundError(VolumeError, FileNotFoundError):
    """There is no volume at that place, or no such level in it."""


class MetadataError(VolumeError):
    """A store exists, but its metadata cannot be used."""


class IntensityError(VolumeError):
    """The image has NaN or infinite voxels, or is constant."""


class BlankError(IntensityError):
    """No voxel of the image, or of a timepoint, holds data."""


class CorruptChunkError(VolumeError, OSError):
    """Stored voxels cannot be decoded."""


class UnreachableError(VolumeError, OSError):
    """A file or object exists, or may exist, but cannot be read: no response, or no permission."""


class ModelError(EmbedSegError, ValueError):
    """A file is not a model, or the model does not fit the image."""


class OutputError(EmbedSegError, OSError):
    """The output cannot be written."""


class PlaceError(UsageError, OutputError):
    """The given location is not writable; raised before any work."""


class RunError(EmbedSegError, RuntimeError):
    """A run that had begun could not be finished."""


@contextmanager
def foreign(
    where: object,
    what: str = "cannot be read",
    *,
    todo: str = "restore the file or write it again",
    kind: type[EmbedSegError] = VolumeError,
    unless: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn any exception of the body, which reads an untrusted file, into an error of this package.

    Parameters
    ----------
    where
        Path or URL, without credentials.
    what
        Description of the problem, to which the cause is appended.
    todo
        What the user can do.
    kind
        Class of the error.
    unless
        Classes that pass unchanged, like errors of this package and interrupts.
    """
    passing: tuple[type[Exception], ...] = (EmbedSegError, *unless)
    try:
        yield
    except passing:
        raise
    except MemoryError as error:
        raise kind(f"{where}: {what}: it needs more memory than there is; {todo}") from error
    except Exception as error:
        raise kind(f"{where}: {what} ({cause(error)}); {todo}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic of a library in Rust
            raise
        raise kind(f"{where}: {what} ({cause(error)}); {todo}") from error


def cause(error: BaseException) -> str:
    """Name an error of another library, in one short line that any terminal can print."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return printable(without_logins(text)[:_LONGEST])


def without_logins(text: str) -> str:
    """Remove user, password, query and fragment from all URLs of a text: these may be secret."""
    return _URL.sub(r"\1\2", text) if "//" in text else text


def printable(text: str) -> str:
    """Escape what cannot be encoded (lone surrogates) or steers a terminal."""
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in escaped)
