"""Work outside the GUI's thread: progress in napari's activity dock, cancelling, errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from napari.qt.threading import create_worker
from napari.utils import progress
from qtpy.QtCore import QTimer

from embedseg_large.errors import EmbedSegError
from embedseg_large.napari.telling import CancelledError, WorkStatus
from embedseg_large.napari.wording import in_words_of_panel

T = TypeVar("T")

_LOOK_MILLISECONDS = 200
"""Interval between two updates of the progress."""
_STEPS = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkOutcome(Generic[T]):
    """How work ended."""

    value: T | None
    """The result; None: it did not finish."""
    message: str = ""
    """The reason if it did not finish."""


def attempt(work: Callable[[], T], layer: str = "the layer") -> WorkOutcome[T]:
    """Call a function, and report an error in one line.

    Parameters
    ----------
    work
        The function to call.
    layer
        Name of the processed layer.
    """
    try:
        return WorkOutcome(work())
    except CancelledError:
        return WorkOutcome(None, "cancelled")
    except EmbedSegError as error:
        return WorkOutcome(None, in_words_of_panel(str(error), layer))
    except MemoryError:
        return WorkOutcome(None, "there is not enough memory; choose a smaller region")
    except Exception as error:  # no caller could show it to the user
        logger.exception("in the background of napari")
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        return WorkOutcome(None, f"unexpected {first}; the log has more")


class Background:
    """Runs one function at a time in a thread.

    Parameters
    ----------
    changed
        Called in the GUI's thread whenever work begins or ends.
    show
        Shows a message, in the GUI's thread.
    """

    def __init__(self, changed: Callable[[], None], show: Callable[[str], None]) -> None:
        self._changed, self._show = changed, show
        self._told: WorkStatus | None = None
        self._bar: Any = None
        self._worker: Any = None
        self._timer = QTimer()
        self._timer.setInterval(_LOOK_MILLISECONDS)
        self._timer.timeout.connect(self._look)

    @property
    def is_busy(self) -> bool:
        """Whether something is running."""
        return self._told is not None

    def run(
        self,
        title: str,
        told: WorkStatus,
        work: Callable[[], T],
        done: Callable[[T], None],
        *,
        layer: str,
    ) -> None:
        """Start; `done` is called with the result, if any, in the GUI's thread."""
        self._told = told
        self._bar = progress(total=_STEPS, desc=title)
        self._worker = create_worker(attempt, work, layer)
        self._worker.returned.connect(lambda outcome: self._end(outcome, done))
        self._worker.start()
        self._timer.start()
        self._changed()
        self._look()

    def cancel(self) -> None:
        """Ask the work to end as soon as possible."""
        if self._told is not None:
            self._told.cancel()
            self._look()

    def _look(self) -> None:
        if self._told is None:
            return
        self._show(self._told.text)
        self._bar.update(max(0, round(_STEPS * self._told.fraction) - self._bar.n))

    def _end(self, outcome: WorkOutcome[T], done: Callable[[T], None]) -> None:
        self._timer.stop()
        self._bar.close()
        self._told = None
        self._changed()
        self._show(outcome.message)
        if outcome.value is not None:
            done(outcome.value)
