"""The widget that the plugin docks into napari's window."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QTabWidget

from embedseg_large.napari.segment_panel import SegmentPanel
from embedseg_large.napari.train_panel import TrainPanel


class EmbedSegPanel(QTabWidget):
    """Two tabs: segment, and train.

    Parameters
    ----------
    napari_viewer
        The window's viewer; napari gives it by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.segmenting = SegmentPanel(napari_viewer)
        self.training = TrainPanel(napari_viewer, self.segmenting.models, self.segmenting.add_model)
        self.addTab(self.segmenting.native, "Segment")
        self.addTab(self.training.native, "Train")
        self._viewer = napari_viewer
        for event in ("inserted", "removed", "reordered"):
            getattr(napari_viewer.layers.events, event).connect(self._offer_layers)
        napari_viewer.dims.events.current_step.connect(self._describe)
        self.destroyed.connect(self.segmenting.background.cancel)
        self.destroyed.connect(self.training.background.cancel)

    def _offer_layers(self) -> None:
        self.segmenting.reset_choices()
        self.training.reset_choices()

    def _describe(self) -> None:
        self.segmenting.describe()
