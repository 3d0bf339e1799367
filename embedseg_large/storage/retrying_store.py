"""The zarr store that retries requests, and reports errors in one line.

Imports zarr, which takes a second: import this module where it is needed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from secrets import token_hex
from typing import Any

from zarr.storage import ObjectStore

from embedseg_large.errors import UnreachableError
from embedseg_large.storage.codecs import asked, check_size
from embedseg_large.storage.connection import Address, Retries, open_store, refuse_web
from embedseg_large.storage.failures import (
    failures,
    is_beyond_the_end,
    is_denied,
    is_transient,
    is_without_ranges,
    reading,
    writing,
)

logger = logging.getLogger(__name__)

_PROBED = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
"""Documents that are requested to find out what exists."""


class PatientStore(ObjectStore[Any]):
    """All objects of a bucket or web server.

    Parameters
    ----------
    address
        Its address; only the root counts.
    retries
        How long requests are retried.
    """

    most: int = 0
    """Maximum bytes of a chunk; metadata documents may be larger."""

    def __init__(self, address: Address, retries: Retries, *, read_only: bool = False) -> None:
        super().__init__(open_store(address.root, retries), read_only=read_only)
        self._address = address
        self._server = Address.of(address.root).public
        self._retries = retries
        self._warned = set[str]()

    def with_read_only(self, read_only: bool = False) -> PatientStore:
        """Return a store of the same objects that may or may not be written to."""
        return PatientStore(self._address, self._retries, read_only=read_only)

    def __str__(self) -> str:
        return self._server  # never the query of a signed URL

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read an object or a part of it; None if there is none.

        Raises
        ------
        UnreachableError
            If the server gives no proper response.
        ValueError
            If the object is shorter than the requested part.
        """
        try:
            return await self._get(key, prototype, byte_range)
        except UnreachableError as error:
            # Buckets without list permission respond in this way for everything that does not
            # exist.
            is_probe = key.rpartition("/")[2] in _PROBED
            if is_denied(error) and (is_probe or await self._is_absent(key, prototype)):
                return None
            raise

    async def _is_absent(self, key: str, prototype: Any) -> bool:
        """Whether a chunk that the server refuses was never written.

        Buckets without list permission refuse requests for missing objects. They then also refuse a
        name that was never used, while the array's document remains readable; with an expired login
        it would not.
        """
        folder = key.rpartition("/")[0]
        if not await self._refuses(f"{folder}/{token_hex(16)}", prototype):
            return False
        while folder:
            for name in (".zarray", "zarr.json"):
                with suppress(UnreachableError):
                    if await self._get(f"{folder}/{name}", prototype, None) is not None:
                        self._warn(folder)
                        return True
            folder = folder.rpartition("/")[0]
        return False

    async def _refuses(self, key: str, prototype: Any) -> bool:
        try:
            await self._get(key, prototype, None)
        except UnreachableError as error:
            return is_denied(error)
        return False

    def _warn(self, folder: str) -> None:
        if folder not in self._warned:
            self._warned.add(folder)
            logger.warning(
                "%s/%s: the server refuses access to missing objects: chunks that it "
                "refuses count as never written",
                self._server,
                folder,
            )

    async def _get(self, key: str, prototype: Any, byte_range: Any) -> Any:
        pauses = self._retries.pauses()
        where = f"{self._server}/{key}"
        check_size(asked(byte_range), self.most, where)
        with reading(where):
            while True:
                try:
                    if byte_range is None:
                        return await self._get_whole(key, prototype)
                    return await super().get(key, prototype, byte_range)
                except failures() as error:
                    if await self._is_cut(key, error):
                        raise ValueError("the object is shorter than it should be") from error
                    pause = next(pauses, None) if is_transient(error) else None
                    if pause is None:
                        raise
                    await asyncio.sleep(pause)

    async def _get_whole(self, key: str, prototype: Any) -> Any:
        """Read an object after checking that it is not far larger than expected."""
        import obstore

        try:
            answer = await obstore.get_async(self.store, key)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        check_size(int(answer.meta["size"]), self.most, f"{self._server}/{key}")
        return prototype.buffer.from_bytes(await answer.bytes_async())

    async def _is_cut(self, key: str, error: Exception) -> bool:
        """Whether a part could not be read because the object is too short, or even empty."""
        empty = is_without_ranges(error) and await self.getsize(key) == 0
        return empty or is_beyond_the_end(error)

    async def set(self, key: str, value: Any) -> None:
        """Write an object.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        where = f"{self._server}/{key}"
        refuse_web(where, "write somewhere else")
        with writing(where):
            await super().set(key, value)

    async def delete(self, key: str) -> None:
        """Delete an object.

        Raises
        ------
        OutputError
            If it cannot be deleted.
        """
        with writing(f"{self._server}/{key}"):
            await super().delete(key)
