"""The widget that the plugin docks into napari's window."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QTabWidget

from embedseg_large.napari.review_panel import ReviewPanel
from embedseg_large.napari.segment_panel import SegmentPanel
from embedseg_large.napari.train_panel import TrainPanel
from embedseg_large.review.review import Review


class EmbedSegPanel(QTabWidget):
    """Three tabs: segment, review, and train.

    Parameters
    ----------
    napari_viewer
        The window's viewer; napari passes it by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.segmenting = SegmentPanel(napari_viewer)
        self.training = TrainPanel(napari_viewer, self.segmenting.models, self.segmenting.add_model)
        self.reviewing = ReviewPanel(napari_viewer, self._train_on)
        self.addTab(self.segmenting.native, "Segment")
        self.addTab(self.reviewing.native, "Review")
        self.addTab(self.training.native, "Train")
        self._viewer = napari_viewer
        for event in ("inserted", "removed", "reordered"):
            getattr(napari_viewer.layers.events, event).connect(self._offer_layers)
        napari_viewer.dims.events.current_step.connect(self._describe)
        self.destroyed.connect(self.segmenting.background.cancel)
        self.destroyed.connect(self.training.background.cancel)
        self.destroyed.connect(self.reviewing.background.cancel)

    def _train_on(self, review: Review) -> None:
        self.setCurrentWidget(self.training.native)
        self.training.train_on_review(review)

    def _offer_layers(self) -> None:
        self.segmenting.reset_choices()
        self.reviewing.suggest()
        self.training.reset_choices()

    def _describe(self) -> None:
        self.segmenting.describe()
