"""What a run has done, so that it can go on after anything.

The client alone writes it, after a task has returned, which is after its files were written. Each
result is one line, ``["cluster/0", 57, 8812]`` or with more behind it; lines are gathered for some
seconds and written as one small file that is never changed. A killed client loses the last seconds'
notes, and does those tiles again. 10⁶ tiles are some ten thousand files instead of millions, and
nothing has to be listed or read while the run is going.

In memory a *ledger*, the results of one stage, takes 4 bytes a tile, or 8; only results that are
more than two numbers take more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import RunError
from embedseg_large.storage.folder import Folder

FLUSH_SECONDS = 2.0
FLUSH_LINES = 10_000

Note = tuple[int, Any]
"""A result: a number from 0 to 2³² - 2, and what else there is to it: None, another number below
2³², or JSON values."""


@dataclass(slots=True)
class Ledger:
    """Results of the tasks of one stage, by their number."""

    _values: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(1024, np.uint32))
    """One more than the value; 0: not done."""
    _numbers: NDArray[np.uint32] | None = None
    """What else there is, where it is one number."""
    _more: dict[int, Any] = field(default_factory=dict)
    count: int = 0
    """Tasks that are done."""

    def put(self, number: int, note: Note) -> None:
        """Note a result; a second one of the same task replaces the first."""
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
        Is called before anything is written, and raises if this client has lost the run.
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
        """Read what earlier clients noted."""
        names = list(self._folder.names())
        for name, data in zip(names, self._folder.read_all(names), strict=True):
            self._read(name, data.decode().splitlines())
        return self

    def _read(self, name: str, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                ledger, number, value, *more = json.loads(line)
            except ValueError as error:
                raise RunError(
                    f"{self._folder.path}/{name}: not a journal ({error}); "
                    "begin anew with overwrite (--overwrite)"
                ) from error
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
        """Note a result, and write what has gathered if it is time to."""
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
            When it cannot be written.
        RunError
            When another client has taken over the run.
        """
        self._guard()
        self._flushed = time.monotonic()
        if not self._lines:
            return
        name = f"{self._session:06d}-{self._files:08d}"
        self._folder.write(name, ("\n".join(self._lines) + "\n").encode())
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
