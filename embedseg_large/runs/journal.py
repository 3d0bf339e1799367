"""The finished work of a run, from which it resumes after any interruption.

Only the client writes it, after a task has returned and therefore after its files were written.
Each result is one line, ``["cluster/0", 57, 8812]`` or with more values at the end; lines are
collected for a few seconds and written as one small file that is never changed. A killed client
loses the entries of the last seconds, and repeats those tiles. 10⁶ tiles make about ten thousand
files instead of millions, and nothing has to be listed or read during the run.

In memory a *ledger*, the results of one stage, takes 4 or 8 bytes per tile; only results with more
than two numbers take more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import RunError, foreign
from embedseg_large.storage.folder import Folder

FLUSH_SECONDS = 2.0
FLUSH_LINES = 10_000

_MOST = (1 << 32) - 1

Note = tuple[int, Any]
"""A result: a number from 0 to 2³² - 2, and an optional addition: None, another number below 2³²,
or JSON values."""


@dataclass(slots=True)
class Ledger:
    """Results of the tasks of one stage, by their number."""

    _values: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(1024, np.uint32))
    """One more than the value; 0: not done."""
    _numbers: NDArray[np.uint32] | None = None
    """The addition, if it is one number."""
    _more: dict[int, Any] = field(default_factory=dict)
    count: int = 0
    """Number of finished tasks."""

    def put(self, number: int, note: Note) -> None:
        """Record a result; a second one of the same task replaces the first."""
        value, more = note
        if number >= self._values.size:
            self._grow(max(number + 1, 2 * self._values.size) - self._values.size)
        self.count += int(self._values[number] == 0)
        self._values[number] = value + 1
        self._more.pop(number, None)
        if isinstance(more, int):
            if self._numbers is None:
                self._numbers = np.zeros(self._values.size, np.uint32)
            self._numbers[number] = more
        elif more is not None:
            self._more[number] = more

    def _grow(self, room: int) -> None:
        empty = np.zeros(room, np.uint32)
        self._values = np.concatenate([self._values, empty])
        if self._numbers is not None:
            self._numbers = np.concatenate([self._numbers, empty])

    def get(self, number: int) -> Note | None:
        """The result of a task, if it is done."""
        if number >= self._values.size or not self._values[number]:
            return None
        number_of = None if self._numbers is None else int(self._numbers[number])
        return int(self._values[number]) - 1, self._more.get(number, number_of)


class Journal:
    """The ledgers of a run, in memory and in a folder.

    Parameters
    ----------
    folder
        Holds the journal's files and nothing else.
    session
        Number of this client; a later one has a higher number.
    guard
        Called before anything is written; raises if this client has lost the run.
    """

    def __init__(
        self, folder: Folder, session: int = 0, guard: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._session = session
        self._guard = guard
        self._ledgers: dict[str, Ledger] = {}
        self._lines: list[str] = []
        self._files = 0
        self._flushed = time.monotonic()

    def load(self) -> Journal:
        """Read the entries of earlier clients."""
        names = list(self._folder.names())
        for name, data in zip(names, self._folder.read_all(names), strict=True):
            where, todo = f"{self._folder.path}/{name}", "remove the folder of the run"
            with foreign(where, "not a journal", todo=todo, kind=RunError):
                self._read(data.decode().splitlines())
        return self

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            ledger, number, value, *more = json.loads(line)
            if not 0 <= number <= _MOST or not 0 <= value < _MOST:
                raise ValueError(f"no task {number}, or no result {value}")
            self._ledger(ledger).put(number, (value, more[0] if more else None))

    def _ledger(self, name: str) -> Ledger:
        return self._ledgers.setdefault(name, Ledger())

    @property
    def counts(self) -> dict[str, int]:
        """Tasks done, by ledger."""
        return {name: ledger.count for name, ledger in self._ledgers.items()}

    def find(self, ledger: str, number: int) -> Note | None:
        """The result of a task, if it is done."""
        found = self._ledgers.get(ledger)
        return None if found is None else found.get(number)

    def note(self, ledger: str, number: int, note: Note) -> None:
        """Record a result, and write collected entries when due."""
        value, more = note
        self._ledger(ledger).put(number, note)
        line = [ledger, number, value] if more is None else [ledger, number, value, more]
        self._lines.append(json.dumps(line, separators=(",", ":")))
        waited = time.monotonic() - self._flushed
        if waited > FLUSH_SECONDS or len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered.

        Raises
        ------
        OutputError
            If it cannot be written.
        RunError
            If another client has taken over the run.
        """
        self._guard()
        self._flushed = time.monotonic()
        if not self._lines:
            return
        name = f"{self._session:06d}-{self._files:08d}"
        self._folder.write(name, ("\n".join(self._lines) + "\n").encode(), durable=True)
        self._files += 1
        self._lines.clear()


@dataclass(frozen=True, slots=True)
class Section:
    """The ledgers of a journal that belong to one timepoint."""

    journal: Journal
    name: str

    def find(self, ledger: str, number: int) -> Note | None:
        """The result of a task, if it is done."""
        return self.journal.find(f"{self.name}/{ledger}", number)

    def note(self, ledger: str, number: int, note: Note) -> None:
        """Note a result."""
        self.journal.note(f"{self.name}/{ledger}", number, note)

    def flush(self) -> None:
        """Write what has gathered."""
        self.journal.flush()
