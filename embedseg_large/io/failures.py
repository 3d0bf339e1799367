"""What goes wrong with object stores and web servers, each in one line without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from embedseg_large.errors import EmbedSegError, OutputError, UnreachableError

_TRANSIENT = re.compile(r"status code: (5\d\d|429|408|409)|HTTP error: [a-z]|SlowDown")
_DENIED = re.compile(r"status code: 40[13]")
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z]*)*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_TRANSPORT = re.compile(r"HTTP error: ([a-z][^\n:/?]*)")  # not "Generic HTTP error: ... URL"
_TRIES = re.compile(r"after (\d+) retries")


def failures() -> tuple[type[Exception], ...]:
    """Return the classes of what obstore raises; `FileNotFoundError` for what is not there."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:  # nothing of it can be raised, then
        return (OSError,)
    return (BaseError, OSError, NotImplementedError)


def is_transient(error: BaseException) -> bool:
    """Whether a failed request may succeed if it is made again."""
    return bool(_TRANSIENT.search(_first_line(error)))


def is_denied(error: BaseException) -> bool:
    """Whether a request failed for want of permission, or what it led to is an error for that."""
    return bool(_DENIED.search(str(error.__cause__ or error)))


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn errors of obstore into an `UnreachableError`; what is not there stays so.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    UnreachableError
        If it cannot be read.
    """
    try:
        yield
    except EmbedSegError:
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise UnreachableError(f"{where}: {reason(error)}") from error
        raise FileNotFoundError(f"{where}: there is no such object") from error
    except failures() as error:
        raise UnreachableError(f"{where}: {reason(error)}") from error


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn errors of obstore into an `OutputError`.

    Raises
    ------
    OutputError
        If the object cannot be written.
    """
    try:
        yield
    except EmbedSegError:
        raise
    except failures() as error:
        raise OutputError(f"{where}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Say in one line, without URLs and so without secrets, why a request failed."""
    text = str(error)
    code = _CODE.search(text)
    detail = ", ".join(_details(text))
    if "NoSuchBucket" in text:
        return "there is no such bucket; create it, or correct the URL"
    if "169.254.169.254" in text:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    if code and code[1] == "RequestTimeTooSkewed":
        return "the clock of this machine is wrong by minutes; set it and run the command again"
    if "non-partial response" in text:
        return "the server cannot send parts of a file, which shards need; use another server"
    if _DENIED.search(text):
        return f"access denied ({detail}); check the credentials in the environment"
    if is_transient(error):
        return f"no proper answer ({detail}); run the same command again later"
    return f"the request failed ({detail or type(error).__name__})"


def _details(text: str) -> Iterator[str]:
    for pattern in (_STATUS, _CODE, _TRANSPORT):
        if found := pattern.search(text):
            yield found[1].strip()
    if tries := _TRIES.search(text):
        yield f"tried {int(tries[1]) + 1} times"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n\nDebug source")[0]
