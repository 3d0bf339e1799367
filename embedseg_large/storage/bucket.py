"""Objects of a bucket, or of a read-only web server."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain, islice
from secrets import token_hex
from time import sleep
from typing import TYPE_CHECKING, cast

from embedseg_large.errors import OutputError, PlaceError, UnreachableError
from embedseg_large.storage.connection import (
    READ_ONLY,
    Address,
    Retries,
    again,
    open_store,
    pause_or_raise,
    refuse_web,
)
from embedseg_large.storage.failures import (
    failures,
    is_denied,
    is_missing_bucket,
    is_nobody_there,
    is_transient,
    reading,
    writing,
)
from embedseg_large.storage.folder import checked_name

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import ObjectStore

_LISTED = 1000  # maximum number of objects listed, or deleted, per request
_AT_ONCE = 16  # number of objects that are read ahead
_FIRST_SECONDS = 5.0  # a server that is restarted takes longer: the same command resumes


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A prefix of a bucket; `Folder` describes its methods."""

    path: str
    """URL without credentials."""
    key: str = field(repr=False)
    """Prefix of the keys, without slashes at its ends."""
    root: str = field(repr=False)
    """Target of the connection, as in `Address`."""
    retries: Retries
    """How long requests are retried."""

    @classmethod
    def at(cls, url: str, retries: Retries | None = None) -> RemoteFolder:
        """Return the folder at a URL.

        Raises
        ------
        UsageError
            If the URL cannot be opened.
        """
        address = Address.of(url)
        return cls(address.public, address.key, address.root, retries or Retries.from_environment())

    def check_reachable(self) -> None:
        """Request any object, with little patience for an unreachable endpoint."""
        soon = replace(self.retries, total=min(_FIRST_SECONDS, self.retries.total))
        try:
            replace(self, retries=soon).read("zarr.json")
        except FileNotFoundError:
            return  # a missing object is an answer, too
        except UnreachableError as error:
            if is_nobody_there(error) or is_missing_bucket(error):
                raise

    def read(self, name: str, most: int = sys.maxsize) -> bytes:
        """Read an object."""
        return self._read(name, most)[0]

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read objects, a few ahead of the requested one, because requests mostly wait."""
        rest = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            coming = deque(pool.submit(self.read, name) for name in islice(rest, _AT_ONCE))
            while coming:
                data = coming.popleft().result()
                coming.extend(pool.submit(self.read, name) for name in islice(rest, 1))
                yield data

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:  # noqa: ARG002
        """Write an object; stores make it visible as a whole, and durable."""
        with self._writing(name) as store:
            again(self.retries, lambda: store.put(self._key(name), data))

    def create(self, name: str, data: bytes, *, durable: bool = False) -> bool:  # noqa: ARG002
        """Write an object if there is none."""
        return self._put_if(name, data, "create")

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            with reading(self._url(name)):
                self._store.head(self._key(name))
        except FileNotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        """List the objects below ``prefix/``, a thousand at a time."""
        start = self._key(prefix) if prefix else self.key
        skip = len(self.key) + 1 if self.key else 0
        for keys in self._keys(start):
            yield from (key[skip:] for key in keys)

    def some_names(self) -> list[str] | None:
        """Names of the first objects, with one request; None if they cannot be listed."""
        if self.path.startswith(READ_ONLY):
            return None
        skip = len(self.key) + 1 if self.key else 0
        try:
            return [key[skip:] for key in next(self._keys(self.key), [])]
        except UnreachableError as error:
            if is_denied(error):
                return None
            raise

    def may_read(self, name: str) -> bool:
        """Whether there is an object of that name that may be read."""
        try:
            return self.exists(name)
        except UnreachableError as error:
            if is_denied(error):
                return False
            raise

    def digest(self) -> str:
        """Hash names, sizes and entity tags of all objects, with one request per thousand.

        Empty if objects cannot be listed: on web servers, and without permission.
        """
        if self.path.startswith(READ_ONLY):
            return ""
        total = 0  # a sum, because not all stores list in the same order twice
        try:
            for about in chain.from_iterable(self._lists(self.key)):
                text = f"{about['path']} {about['size']} {about.get('e_tag')}"
                total += int.from_bytes(sha256(text.encode()).digest())
        except UnreachableError as error:
            if is_denied(error):
                return ""
            raise
        return f"{total % 2**128:032x}"

    def remove(self, name: str) -> None:
        """Delete an object."""
        self._delete([self._key(name)])

    def remove_all(self, last: str | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Delete all objects with the prefix, a thousand at a time."""
        end = None if last is None else self._key(last)
        for keys in self._keys(self.key):
            if going := [key for key in keys if key != end]:
                check()
                self._delete(going)
        if end is not None:
            check()
            self._delete([end])

    def check_writable(self) -> None:
        """Write and delete an object, because permissions cannot be queried."""
        if not self.path.startswith(READ_ONLY):
            self.check_reachable()
        probe = f".write-test-{token_hex(8)}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except OutputError as error:
            if error.__cause__ is None or is_transient(error.__cause__):
                raise
            raise PlaceError(str(error)) from error.__cause__

    def children(self) -> list[str]:
        """List what is directly in the folder; names of folders end with a slash."""
        skip = len(self.key) + 1 if self.key else 0
        with reading(self.path):
            found = again(self.retries, lambda: self._store.list_with_delimiter(self.key or None))
        objects = [about["path"] for about in found["objects"]]
        return sorted(
            key[skip:] for key in (*objects, *(f"{p}/" for p in found["common_prefixes"]))
        )

    def copy(self, name: str, to: str) -> None:
        """Copy an object to another name in this folder; its bytes stay in the store."""
        with self._writing(to) as store:
            again(self.retries, lambda: store.copy(self._key(name), self._key(to)))

    def parent(self) -> RemoteFolder | None:
        """Return the folder that this one lies in; None for the bucket itself."""
        if not self.key:
            return None
        path, key = (text.rpartition("/")[0] for text in (self.path, self.key))
        return replace(self, path=path, key=key)

    def below(self, name: str) -> RemoteFolder:
        """Return the folder `name` inside this one."""
        return replace(self, path=self._url(name), key=self._key(name))

    def anchored(self) -> RemoteFolder:
        """Return this folder, which exists whenever it contains an object."""
        return self

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Change an object, provided that it has not changed since it was read."""
        for pause in self.retries.pauses():
            try:
                old, mode = self._read(name)
            except FileNotFoundError:
                old, mode = None, "create"
            if self._put_if(name, change(old), mode):
                return
            sleep(pause)
        raise OutputError(
            f"{self._url(name)}: other processes kept changing it for {self.retries.total:g} s; "
            "rerun the same command"
        )

    @property
    def _store(self) -> ObjectStore:
        return open_store(self.root, self.retries)

    def _key(self, name: str) -> str:
        return f"{self.key}/{checked_name(name)}" if self.key else checked_name(name)

    def _url(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _read(self, name: str, most: int = sys.maxsize) -> tuple[bytes, PutMode]:
        """Read an object, and the condition that it has not been changed since."""

        def get() -> tuple[bytes, PutMode]:
            found = self._store.get(self._key(name))
            if found.meta["size"] > most:
                sizes = (f"{n / 2**20:,.0f} MiB" for n in (found.meta["size"], most))
                raise UnreachableError(f"{self._url(name)}: {', more than '.join(sizes)}")
            about = {name: found.meta.get(name) for name in ("e_tag", "version")}
            unchanged = {name: value for name, value in about.items() if value is not None}
            return bytes(found.bytes()), cast("PutMode", unchanged)

        with reading(self._url(name)):
            return again(self.retries, get)

    def _put_if(self, name: str, data: bytes, mode: PutMode) -> bool:
        """Write an object on a condition; return False if the condition does not hold.

        Attempts are made here and not by the connection: after a lost response the second attempt
        fails *because* the first one succeeded, which only the content reveals.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        unsure, pauses = False, self.retries.pauses()
        with self._writing(name, replace(self.retries, total=0.0)) as store:
            while True:
                try:
                    store.put(self._key(name), data, mode=mode, use_multipart=False)
                    return True
                except (AlreadyExistsError, PreconditionError):
                    return unsure and self.exists(name) and self.read(name) == data
                except failures() as error:
                    unsure = True
                    pause_or_raise(pauses, error)

    def _keys(self, start: str) -> Iterator[list[str]]:
        for abouts in self._lists(start):
            yield [about["path"] for about in abouts]

    def _lists(self, start: str) -> Iterator[Sequence[ObjectMeta]]:
        """List objects, a thousand at a time; after a failure go on behind the last one."""
        last, pauses = None, self.retries.pauses()
        with reading(self.path):
            while True:
                try:
                    for page in self._store.list(start or None, offset=last, chunk_size=_LISTED):
                        yield page
                        last, pauses = page[-1]["path"], self.retries.pauses()
                    return
                except failures() as error:
                    pause_or_raise(pauses, error)

    def _delete(self, keys: list[str]) -> None:
        with self._writing() as store:
            try:
                again(self.retries, lambda: store.delete(keys))
            except FileNotFoundError:  # some stores stop at the first missing one
                for key in keys if len(keys) > 1 else ():
                    self._delete([key])

    @contextmanager
    def _writing(self, name: str = "", retries: Retries | None = None) -> Iterator[ObjectStore]:
        """Connect for the body, and turn its errors into an `OutputError`."""
        where = self._url(name) if name else self.path
        refuse_web(where, "write somewhere else")
        store = open_store(self.root, retries or self.retries)
        with writing(where):
            yield store
