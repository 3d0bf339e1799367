"""The log of runs: one JSON object per line, appended to the file.

A line has ``time`` (ISO 8601, UTC), ``level``, ``event``, ``run`` (once it is known) and the fields
of the event (see `embedseg_large.runs.events`); messages of this package are logged as ``message``.
A line is one write of a few hundred bytes, so several processes may share a file, and a kill loses
at most the last line. The log never ends a run: if it cannot be written, there is a warning.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from embedseg_large.errors import UsageError, without_logins
from embedseg_large.runs.events import Event, Recalled, RunBegun
from embedseg_large.runs.progress import Observer

logger = logging.getLogger(__name__)

_PACKAGE = logging.getLogger("embedseg_large")
_NAMED = re.compile(
    r"((?:secret|passw|authorization|signature|credential|access_?key|session_?token)\w*"
    r"\W{1,4})[^\s,;<>\"']+",
    re.I,
)


class LogFile(Observer):
    """Writes events to a file.

    Parameters
    ----------
    file
        Open for appending, without a buffer.
    """

    def __init__(self, file: FileIO) -> None:
        self._file: FileIO | None = file
        self._common: dict[str, Any] = {}

    def notice(self, event: Event) -> None:
        """Write a line; work of earlier attempts is already logged and not repeated."""
        if isinstance(event, RunBegun):
            self._common = {"run": event.run}
        if not isinstance(event, Recalled):
            self.write(event.level, event.name, event.as_dict())

    def write(self, level: int, event: str, values: Mapping[str, Any]) -> None:
        """Write a line."""
        if self._file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": logging.getLevelName(level), "event": event} | self._common
        text = json.dumps(line | scrubbed(dict(values)), default=str)
        try:
            self._file.write(f"{text}\n".encode())
        except OSError as error:
            self._file = None  # before the warning, which would otherwise be written here, too
            logger.warning("logging stopped, the log cannot be written: %s", error)


class _Messages(logging.Handler):
    """Writes the log messages of this package into a log file."""

    def __init__(self, log: LogFile) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        values = {"logger": record.name, "message": record.getMessage()}
        self._log.write(record.levelno, "message", values)


@contextmanager
def log_to(path: str | os.PathLike[str] | None) -> Iterator[LogFile | None]:
    """Open a log, new or with lines of earlier runs; returns None for None.

    Raises
    ------
    UsageError
        If it cannot be opened, or is not a local file.
    """
    if path is None:
        yield None
        return
    with closing(_opened(os.fspath(path))) as file:
        log = LogFile(file)
        handler = _Messages(log)
        _PACKAGE.addHandler(handler)
        try:
            yield log
        finally:
            _PACKAGE.removeHandler(handler)


def _opened(path: str) -> FileIO:
    if "://" in path:
        raise UsageError("the log must be a local file because it is appended to; choose a path")
    try:
        file = FileIO(path, "a+")
        if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")  # a killed run left an incomplete line
    except OSError as error:
        raise UsageError(
            f"{Path(path)}: the log cannot be written there ({error.strerror})"
        ) from error
    return file


def scrubbed(values: Any) -> Any:
    """The same JSON values, without credentials in URLs and after names such as ``secret_key``."""
    if isinstance(values, str):
        return _NAMED.sub(r"\1***", without_logins(values))
    if isinstance(values, Mapping):
        return {name: scrubbed(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [scrubbed(value) for value in values]
    return values
