"""One run at a time on one output.

Each client that takes the lock creates the next of ``LOCK/000001``, ``LOCK/000002``, ...: creating
a file that must not exist yet is the one operation that only one of several clients can win, on a
disk and in a bucket. The holder of the highest number has the lock, and changes its file every few
seconds. The next client watches whether the file changes; clocks of different machines are never
compared.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from embedseg_large.documents import parse_json
from embedseg_large.errors import EmbedSegError, RunError, UsageError
from embedseg_large.storage.folder import Folder

BEAT_SECONDS = 5.0
PATIENCE = 3
"""Number of missed beats after which a holder counts as dead."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # on Linux


class Lock:
    """The lock of one output; use `held`.

    Parameters
    ----------
    folder
        Folder for the files of the lock and nothing else.
    about
        JSON values for others: where the run executes.
    beat
        Seconds between two signs of life; None: `BEAT_SECONDS`.
    """

    def __init__(self, folder: Folder, about: dict[str, Any], beat: float | None = None) -> None:
        self._folder = folder
        self._beat = BEAT_SECONDS if beat is None else beat
        self._beats = 0
        self._about = about | {
            "host": platform.node(),
            "pid": os.getpid(),
            "boot": _boot(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "token": secrets.token_hex(8),
        }
        self.number = 0
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    @contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock.

        Raises
        ------
        UsageError
            If another run holds it and is alive.
        """
        self._take()
        self._heart = threading.Thread(target=self._keep_beating, daemon=True)
        self._heart.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._heart.join()
            with suppress(EmbedSegError):  # if it stays, others will see it as dead
                if not self._is_superseded():
                    self._folder.remove_all()

    def check(self) -> None:
        """Ensure that the lock is still held.

        Raises
        ------
        RunError
            If another run has taken it.
        """
        if self._lost.is_set():
            raise RunError(
                f"{self._folder.path}: another run has taken over because this one stopped "
                "responding; this one published nothing"
            )

    def check_now(self) -> None:
        """Read the lock's files, then `check`."""
        if self._is_superseded():
            self._lost.set()
        self.check()

    def _take(self) -> None:
        last = _last(self._folder)
        if last is not None:
            self._wait_for_sign(last)
        self.number = 1 if last is None else _number(last) + 1
        if not self._folder.create(self._name, self._document()):
            raise UsageError(f"{self._folder.path}: another run has just started; wait for it")

    def _wait_for_sign(self, name: str) -> None:
        """Refuse if the holder is alive; return once it must be dead."""
        first = _read(self._folder, name)
        if first is None or _is_dead(first):
            return
        for _ in range(PATIENCE * 5):
            time.sleep(self._beat / 5)
            now = _read(self._folder, name)
            if now is None:
                return
            if now != first:
                raise UsageError(
                    f"{self._folder.path}: another run (host {now.get('host')}, process "
                    f"{now.get('pid')}, since {now.get('since')}) is writing there; wait "
                    "for it, or stop it first"
                )

    @property
    def _name(self) -> str:
        return f"{self.number:06d}"

    def _document(self) -> bytes:
        return json.dumps(self._about | {"beats": self._beats}).encode()

    def _is_superseded(self) -> bool:
        last = _last(self._folder)  # none: the new holder has finished, and removed everything
        if last is None or _number(last) != self.number:
            return True
        found = _read(self._folder, last)  # numbers start over when a lock was released
        return found is None or found.get("token") != self._about["token"]

    def _keep_beating(self) -> None:
        there = self._folder.anchored()  # after a suspension within a beat, it may be released
        while not self._stop.wait(self._beat):
            # a disk that does not respond now may do so at the next beat
            with suppress(EmbedSegError):
                if self._is_superseded():
                    self._lost.set()
                    return
                self._beats += 1
                there.write(self._name, self._document())


def holder(folder: Folder) -> dict[str, Any] | None:
    """The record of the last holder of a lock; None if it is not held.

    Does not show whether that run is alive, except that a dead process of this machine holds
    nothing.
    """
    last = _last(folder)
    found = None if last is None else _read(folder, last)
    return None if found is None or _is_dead(found) else found


def _last(folder: Folder) -> str | None:
    return max((n for n in folder.names() if n.isascii() and n.isdigit()), default=None)


def _number(name: str) -> int:
    return int(name)


def _read(folder: Folder, name: str) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, ValueError):
        found = parse_json(folder.read(name))
        return found if isinstance(found, dict) else None
    return None


def _is_dead(about: dict[str, Any]) -> bool:
    """Whether the process ran on this machine and no longer exists."""
    if (about.get("host"), about.get("boot")) != (platform.node(), _boot()):
        return False
    with suppress(OverflowError, TypeError, ValueError):  # the file is damaged
        # os.kill would end it on Windows
        return not psutil.pid_exists(int(about["pid"])) if "pid" in about else False
    return False


def _boot() -> str:
    """Identifier of this boot of this machine.

    If the system provides none, the boot time, which may shift by a second: a holder is then
    watched as if it were on another machine.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
