"""Errors of object stores and web servers, each in one line without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from embedseg_large.errors import EmbedSegError, OutputError, UnreachableError

# obstore has no exception types for most failures: its messages distinguish them.
# `tests/integration/storage/test_obstore.py` checks that on failures of a real server.
_TRANSIENT = re.compile(r"status code: (5\d\d|429|408|409)|HTTP error: [a-z]|SlowDown")
_BUCKETS = re.compile(
    r"Generic (S3|GCS|MicrosoftAzure) error|AWS|amazonaws|<Code>|windows.net|googleapis"
)
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z]*)*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_TRANSPORT = re.compile(r"HTTP error: ([a-z][^\n:/?]*)")  # not "Generic HTTP error: ... URL"
_SERVER = re.compile(r"Error performing [A-Z]+ (https?://)(?:[^/@\s]*@)?([^/?#\s]+)")
_NO_RANGES = ("non-partial response", "Range request not supported")
_TRIES = re.compile(r"after (\d+) retries")

# Causes that obstore reports only in the dump of its error, as (pattern, in words).
_NOBODY_THERE = (
    (re.compile(r"kind: ConnectionRefused"), "connection refused"),
    (re.compile(r'"dns error"'), "unknown host"),
    (re.compile(r"InvalidContentType"), "no TLS there: perhaps http://, not https://"),
    (re.compile(r"InvalidCertificate"), "its certificate is not trusted"),
    (re.compile(r'"tls handshake eof"'), "TLS handshake failed"),
)
_NO_ANSWER = (
    (re.compile(r"kind: Timeout"), "timed out"),
    (re.compile(r"kind: ConnectionReset|IncompleteMessage"), "connection cut"),
)


def failures() -> tuple[type[Exception], ...]:
    """Return the exception classes of obstore; `FileNotFoundError` stands for missing objects."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:  # then obstore cannot have raised anything
        return (OSError,)
    return (BaseError, OSError, NotImplementedError)


def is_transient(error: BaseException) -> bool:
    """Whether a failed request may succeed if it is retried."""
    return bool(_TRANSIENT.search(_first_line(error)))


def is_denied(error: BaseException) -> bool:
    """Whether a request, or the error it led to, failed because of missing permission."""
    try:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
    except ImportError:  # then obstore cannot have raised anything
        return False
    return isinstance(error.__cause__ or error, PermissionDeniedError | UnauthenticatedError)


def is_beyond_the_end(error: BaseException) -> bool:
    """Whether the requested part lies beyond the end of the object."""
    return "status code: 416" in _first_line(error)


def is_nobody_there(error: BaseException) -> bool:
    """Whether no usable server responds at the endpoint."""
    return _words(_NOBODY_THERE, str(error.__cause__ or error)) is not None


def is_missing_bucket(error: BaseException) -> bool:
    """Whether there is no such bucket, rather than no such object in it."""
    return "NoSuchBucket" in str(error.__cause__ or error)


def is_without_ranges(error: BaseException) -> bool:
    """Whether the server sends only complete files."""
    return any(said in str(error) for said in _NO_RANGES)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn errors of obstore into an `UnreachableError`, except for missing objects.

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
        if is_missing_bucket(error):
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
    """Return in one line why a request failed; URLs are reduced to the server, to hide secrets."""
    text = str(error)
    code = _CODE.search(text)
    detail = ", ".join(_details(text))
    end_point = "AWS_ENDPOINT_URL" if "Generic S3 error" in text else "the URL"
    if is_missing_bucket(error):
        at = _server(text)
        return (
            f"there is no such bucket{f' at {at}' if at else ''}; "
            "create it, or correct the URL or AWS_ENDPOINT_URL"
        )
    if "169.254.169.254" in text:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    if code and code[1] == "RequestTimeTooSkewed":
        return "the clock of this machine is wrong by minutes; set it and rerun the command"
    if is_without_ranges(error):
        return (
            "the server does not support range requests, which sharded images need; use another "
            "server, or a copy on a disk"
        )
    if "status code: 401" in text and not _BUCKETS.search(text):
        return (
            f"access denied ({detail}); put USER:PASSWORD@ before the server's name in the URL, "
            "or use a signed one"
        )
    if is_denied(error):
        return f"access denied ({detail}); check the credentials in the environment"
    if is_nobody_there(error):
        return f"no proper response ({detail}); start the server, or correct {end_point}"
    if is_transient(error):
        return f"no proper response ({detail}); rerun the same command later"
    return f"the request failed ({detail or type(error).__name__})"


def _details(text: str) -> Iterator[str]:
    for pattern in (_STATUS, _CODE):
        if found := pattern.search(text):
            yield found[1].strip()
    if found := _TRANSPORT.search(text):
        yield _words(_NOBODY_THERE + _NO_ANSWER, text) or found[1].strip()
    if server := _server(text):
        yield f"from {server}"
    if tries := _TRIES.search(text):
        yield f"tried {int(tries[1]) + 1} times"


def _words(causes: Iterable[tuple[re.Pattern[str], str]], text: str) -> str | None:
    return next((words for pattern, words in causes if pattern.search(text)), None)


def _server(text: str) -> str | None:
    """Return scheme and host of the requested URL, without login, path and query."""
    found = _SERVER.search(text)
    return found and found[1] + found[2]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n\nDebug source")[0]
