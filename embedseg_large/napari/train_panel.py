"""The training tab: labels to train on, model to start from, file to write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, FileEdit, PushButton, SpinBox
from napari.layers import Image, Labels

from embedseg_large.errors import UsageError
from embedseg_large.napari.background import Background, attempt
from embedseg_large.napari.form import Form, message_line
from embedseg_large.napari.painting import (
    PaintedImage,
    check_out,
    painted_on,
    train_on,
    train_on_review,
)
from embedseg_large.napari.telling import ToldOfTraining
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.review.review import Review

EPOCHS = 20


class TrainPanel:
    """Fine-tunes a model on a labels layer.

    Parameters
    ----------
    viewer
        The napari viewer.
    models
        Returns the names of the models to start from.
    trained
        Called with the file of a new model.
    """

    def __init__(
        self, viewer: Any, models: Callable[[], list[str]], trained: Callable[[Path], None]
    ) -> None:
        self._viewer, self._trained = viewer, trained
        self.background = Background(self._show_state, self._show)
        self.image = ComboBox(choices=lambda _: self._layers(Image))
        self.labels = ComboBox(choices=lambda _: self._layers(Labels))
        self.start = ComboBox(choices=lambda _: models())
        self.all_painted = CheckBox(text="every object is painted", value=False)
        self.epochs = SpinBox(value=EPOCHS, min=1, max=1000)
        self.out = FileEdit(mode="w", value=Path.home() / "tuned.safetensors")
        self.begin, self.stop = PushButton(text="Train"), PushButton(text="Stop")
        self.status = message_line()
        self.all_painted.tooltip = (
            "If so, what is not painted is background. If not, only a rim around painted objects is"
        )
        self.stop.tooltip = (
            "End after the batch that is under way, and keep the model of the last finished epoch"
        )
        self.native = Form(self._rows()).native
        self.begin.changed.connect(self.train)
        self.stop.changed.connect(self.background.cancel)
        self._show_state()

    def _rows(self) -> list[tuple[str, Any]]:
        return [
            ("image", self.image),
            ("labels", self.labels),
            ("begin with", self.start),
            ("", self.all_painted),
            ("epochs", self.epochs),
            ("new model", self.out),
            ("", (self.begin, self.stop)),
            ("", self.status),
        ]

    def reset_choices(self) -> None:
        """List the current layers and models."""
        for field in (self.image, self.labels, self.start):
            field.reset_choices()

    def train(self) -> None:
        """Start training on the chosen labels."""
        chosen = attempt(self._painted)
        if chosen.value is None:
            self._show(chosen.message)
            return
        work = partial(train_on, chosen.value, all_painted=self.all_painted.value)
        self._run(work, chosen.value.image.name)

    def train_on_review(self, review: Review) -> None:
        """Start training on reviewed instances."""
        if self.background.is_busy:
            self._show("another training is running; stop it first")
        else:
            self._run(partial(train_on_review, review), review.place.name)

    def _run(self, work: Callable[..., Model], layer: str) -> None:
        told, out = ToldOfTraining(), Path(self.out.value)
        begun = partial(
            work, start=self.start.value, out=out, epochs=self.epochs.value, watcher=told
        )
        self.background.run(f"train {out.stem}", told, begun, partial(self._use, out), layer=layer)

    def _painted(self) -> PaintedImage:
        image, labels = self.image.value, self.labels.value
        if image is None or labels is None:
            raise UsageError("training needs an image layer and a labels layer; paint some objects")
        check_out(Path(self.out.value))
        ndim = load_model(self.start.value).ndim
        return painted_on(image, labels, ndim, self._viewer.dims.point)

    def _layers(self, kind: type) -> list[Any]:
        return [layer for layer in self._viewer.layers if isinstance(layer, kind)]

    def _use(self, out: Path, model: Model) -> None:
        training = model.card["training"]
        self._show(
            f"{out} is trained, {training['epoch']} of {training['epochs']} epochs, and chosen in "
            "the other tab"
        )
        self._trained(out)
        self.start.reset_choices()

    def _show(self, text: str) -> None:
        self.status.setText(text)

    def _show_state(self) -> None:
        self.begin.enabled = not self.background.is_busy
        self.stop.enabled = self.background.is_busy
