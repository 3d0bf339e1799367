"""Connections to object stores and web servers.

Requests that fail for a temporary reason (5xx, 429, no response, a dropped connection) are retried,
with pauses that double, until `Retries.total` seconds have passed. Credentials and endpoints come
from the environment, and are not stored. The query of a signed URL is passed to other processes,
and is never shown.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from random import random
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from embedseg_large.errors import PlaceError, RunError, UsageError
from embedseg_large.extras import extra
from embedseg_large.storage.failures import failures, is_transient

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "http", "https")
"""Kinds of URLs that can be opened."""

READ_ONLY = ("http", "https")
"""Kinds of URLs that can only be read."""

_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_CONNECT = 5.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a request is retried."""

    total: float = 60.0
    """Seconds after which a failed request is no longer retried."""
    silence: float = 20.0
    """Seconds without a byte from the server, after which a request has failed."""

    @classmethod
    def from_environment(cls) -> Retries:
        """Take the seconds from ``EMBEDSEG_RETRY_SECONDS`` and ``EMBEDSEG_SILENCE_SECONDS``.

        Raises
        ------
        UsageError
            If one is set and is not a positive number.
        """
        return cls(
            total=_seconds("EMBEDSEG_RETRY_SECONDS", cls().total),
            silence=_seconds("EMBEDSEG_SILENCE_SECONDS", cls().silence),
        )

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each retry; the time starts with this call."""
        return _pauses(monotonic() + self.total)


def _pauses(end: float) -> Iterator[float]:
    pause = _FIRST_PAUSE
    while monotonic() + pause < end:
        yield pause * (
            0.5 + random()
        )  # randomised, to separate clients that failed at the same moment
        pause = min(2 * pause, _LONGEST_PAUSE)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{variable}={text} is not a positive number of seconds; correct or unset it"
        )
    return value


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL."""

    root: str = field(repr=False)
    """Target of the connection: the bucket, or the web server with its query, which may be
    secret."""
    key: str
    """Path below the root, without slashes at its ends."""
    public: str
    """The URL without credentials, query and fragment."""

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL.

        Raises
        ------
        UsageError
            If its scheme is not supported, or it names no bucket or server.
        """
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in SCHEMES or not host:
            raise UsageError(
                f"{parts.scheme}://{host}: such URLs cannot be opened; use s3://BUCKET/..., "
                "gs://, az:// or https://"
            )
        key = parts.path.strip("/")
        query = f"?{parts.query}" if parts.query and parts.scheme in READ_ONLY else ""
        login = parts.netloc if parts.scheme in READ_ONLY else host
        public = f"{parts.scheme}://{host}/{key}".rstrip("/")
        return cls(f"{parts.scheme}://{login}{query}", _decoded(parts.scheme, key), public)


def _decoded(scheme: str, key: str) -> str:
    """Decode a key of a web address; a bucket's URL is written with the key as it is."""
    return unquote(key) if scheme in READ_ONLY else key


def is_remote(path: str) -> bool:
    """Whether a path is a URL of something other than a local file."""
    return "://" in path and not path.startswith("file://")


def shown(path: str) -> str:
    """Return a path or URL without credentials, for messages and records."""
    return Address.of(path).public if is_remote(path) else path


def is_same_place(one: str, other: str) -> bool:
    """Whether two paths or URLs are the same place, whatever their form.

    Relative paths, links, ``file://`` and slashes at the end do not count, nor do credentials and
    queries, which records of a place leave out.
    """
    return _canonical(one) == _canonical(other)


def _canonical(path: str) -> str:
    """Return the one form of a path or URL; what names no place, as records may, stays as it is."""
    try:
        if is_remote(path):
            return Address.of(path).public
        local = unquote(urlsplit(path).path) if path.startswith("file://") else path
        return os.path.realpath(local)
    except (UsageError, OSError, ValueError):
        return path


def refuse_web(path: str, way_out: str) -> None:
    """Refuse a place on a web server, which is known to be read-only without asking it.

    Raises
    ------
    PlaceError
        If the path is a URL of a web server; `way_out` says what to do.
    """
    if is_remote(path) and path.startswith(READ_ONLY):
        raise PlaceError(f"{shown(path)}: web servers are read only; {way_out}")


def joined(path: str, member: str) -> str:
    """Return the path or URL of a member of a folder; a query stays at the end."""
    if not member:
        return path
    folder, mark, query = path.partition("?") if path.startswith(READ_ONLY) else (path, "", "")
    return f"{folder.rstrip('/')}/{member}{mark}{query}"


def open_store(root: str, retries: Retries) -> ObjectStore:
    """Connect to a bucket or web server; nothing is sent before the first request.

    Connections are shared by everything that a process reads and writes there.

    Parameters
    ----------
    root
        As in `Address`.
    retries
        How long a request is retried; a total of 0 means a single attempt.

    Raises
    ------
    UsageError
        If the extra for object stores is not installed.
    RunError
        If the process was forked from one that had connections, which hang in it.
    """
    if _first_process() != os.getpid():
        raise RunError(
            f"{Address.of(root).public}: cannot be read in a process forked from one that used "
            "an object store before; start processes with the method 'spawn' or 'forkserver'"
        )
    variables = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    return _connected(root, retries, frozenset(variables.items()))


@lru_cache(maxsize=1)
def _first_process() -> int:
    return os.getpid()


@lru_cache(maxsize=32)
def _connected(root: str, retries: Retries, variables: frozenset[tuple[str, str]]) -> ObjectStore:
    """Connect; the environment is part of the key, because obstore reads it once."""
    with extra("s3", f"{Address.of(root).public}: an object store"):
        from obstore.store import HTTPStore, from_url
    plain = any("ENDPOINT" in name and end.startswith("http://") for name, end in variables)
    client = _client(retries, allow_http=plain or root.startswith("http://"))
    if root.startswith(READ_ONLY):  # never guessed to be a bucket, which would require credentials
        root, login = _login(root)
        if login:
            client["default_headers"] = {"Authorization": login}
        return HTTPStore.from_url(root, client_options=client, retry_config=_again(retries))
    return from_url(root, client_options=client, retry_config=_again(retries))


def _login(root: str) -> tuple[str, str]:
    """Extract user and password from a web server's URL, as an HTTP header."""
    parts = urlsplit(root)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return root, ""
    packed = b64encode(unquote(login).encode()).decode()
    return parts._replace(netloc=host).geturl(), f"Basic {packed}"


def _client(retries: Retries, *, allow_http: bool) -> ClientConfig:
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=min(_CONNECT, retries.silence)),
        "read_timeout": timedelta(seconds=retries.silence),
        "timeout": timedelta(seconds=15 * retries.silence),
    }


def _again(retries: Retries) -> RetryConfig:
    return {
        "max_retries": 1000 if retries.total else 0,  # the time is the limit
        "retry_timeout": timedelta(seconds=retries.total),
        "backoff": {
            "init_backoff": timedelta(seconds=_FIRST_PAUSE),
            "max_backoff": timedelta(seconds=_LONGEST_PAUSE),
            "base": 2,
        },
    }


def again(retries: Retries, call: Callable[[], T]) -> T:
    """Call until it succeeds: obstore does not retry a connection that drops mid-body, so we do.

    Raises
    ------
    Exception
        The exception of the last call, or the first one that no retry can fix.
    """
    pauses = retries.pauses()
    while True:
        try:
            return call()
        except failures() as error:
            pause_or_raise(pauses, error)


def pause_or_raise(pauses: Iterator[float], error: Exception) -> None:
    """Wait before the next attempt, or raise the error if there is none."""
    pause = next(pauses, None) if is_transient(error) else None
    if pause is None:
        raise error
    sleep(pause)
