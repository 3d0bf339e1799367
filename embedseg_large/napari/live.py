"""Labels that follow the sliders, from kept predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.napari.background import WorkOutcome, attempt
from embedseg_large.napari.recording import Kept

_PAUSE_MILLISECONDS = 120
"""Time without movement of a slider before it takes effect."""


class Live:
    """Clusters kept predictions again, in a thread, for the latest request.

    Parameters
    ----------
    kept
        The predictions.
    layer
        The labels layer that shows them.
    show
        Shows a message.
    """

    def __init__(self, kept: Kept, layer: Any, show: Callable[[str], None]) -> None:
        self.layer = layer
        self._kept, self._show = kept, show
        self._wanted: ClusteringSettings | None = None
        self._is_busy = self._is_edited = False
        self._worker: Any = None
        self._pause = QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(_PAUSE_MILLISECONDS)
        self._pause.timeout.connect(self._begin)
        layer.events.paint.connect(self._edited)

    def ask(self, thresholds: ClusteringSettings) -> None:
        """Request the labels for some thresholds."""
        if self._is_edited:
            self._show(f"{self.layer.name} was edited by hand and is not changed; segment again")
            return
        self._wanted = thresholds
        self._pause.start()

    def _begin(self) -> None:
        if self._is_busy or self._wanted is None:
            return
        wanted, self._wanted, self._is_busy = self._wanted, None, True
        self._worker = create_worker(attempt, partial(self._kept.labels, wanted))
        self._worker.returned.connect(self._end)
        self._worker.start()

    def _end(self, outcome: WorkOutcome[NDArray[np.uint32]]) -> None:
        self._is_busy = False
        if outcome.value is None:
            self._show(outcome.message)
        elif not self._is_edited:
            self.layer.data = outcome.value.reshape(self.layer.data.shape)
            count = np.count_nonzero(np.bincount(outcome.value.reshape(-1))[1:])
            self._show(f"{count} with these thresholds")
        self._begin()

    def _edited(self) -> None:
        self._is_edited = True
