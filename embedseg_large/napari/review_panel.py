"""The proofreading tab: shows one doubtful instance after the other, with keys for decisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from magicgui.widgets import FileEdit, PushButton, SpinBox
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import split_place
from embedseg_large.napari.background import Background, attempt
from embedseg_large.napari.form import Form, message_line
from embedseg_large.napari.proofreading import (
    Opened,
    described,
    label_at,
    open_for_review,
    painted,
    placed,
    surroundings,
    told,
    voxel_at,
    world_of,
)
from embedseg_large.napari.telling import WorkStatus
from embedseg_large.review.edits import Accept, Delete, Edit, Merge, Paint, Point, Split
from embedseg_large.review.review import Review

_FILL = 0.22
"""Fraction of the canvas that an instance fills."""
_MOST_TIMEPOINTS = 10**6


class ReviewPanel:
    """Shows the instances of a review, and records decisions about them.

    Parameters
    ----------
    viewer
        The napari viewer.
    train
        Called to train on a review.
    """

    def __init__(self, viewer: Any, train: Callable[[Review], None]) -> None:
        self._viewer, self._train = viewer, train
        self.background = Background(self._show_state, self._show)
        self.review: Review | None = None
        self.place = 0
        """Position in the queue."""
        self._shown: int | None = None
        self._box: Box | None = None
        self._stored: NDArray[Any] = np.zeros(0)
        """Stored labels of the box, without newly painted voxels."""
        self._first: Point | None = None
        self._layer: Any = None
        self._mark: Any = None
        self.labels = FileEdit(mode="d")
        self.labels.tooltip = "Labels in an OME-Zarr store: STORE/labels/NAME"
        self.timepoint = SpinBox(value=0, min=0, max=_MOST_TIMEPOINTS)
        self.timepoint.tooltip = "Of a series; each timepoint has a review of its own"
        self.open = PushButton(text="Open")
        self.about, self.status = message_line(), message_line()
        self._actions: dict[str, tuple[str, Callable[[], object], str]] = {
            "A": ("Accept", self.accept, "It is right; on to the next one"),
            "D": ("Delete", self.delete, "It is no object; on to the next one"),
            "S": ("Split", self.split, "Point at one part and press S, then at the other one"),
            "J": ("Merge", self.merge, "Point at the neighbour that belongs to it and press J"),
            "O": ("New object", self.brush, "Take the brush for an object that was missed"),
            "W": ("Keep paint", self.keep_paint, "Keep what was painted; other keys do so too"),
            "N": ("Next", partial(self.step, 1), "The next instance that is to be looked at"),
            "V": ("Previous", partial(self.step, -1), "The previous instance in the queue"),
            "U": ("Undo", self.undo, "Take the last decision back"),
            "R": ("Redo", self.redo, "Make it again"),
        }
        self.buttons = {key: self._button(key) for key in self._actions}
        self.publish = PushButton(text="Write labels")
        self.publish.tooltip = "Write the labels as they are now, as labels/NAME_reviewed"
        self.train = PushButton(text="Train on the review")
        self.train.tooltip = "Fine-tune with the settings of the Train tab; the rest is ignored"
        self.native = Form(self._rows()).native
        self.open.changed.connect(self.begin)
        self.publish.changed.connect(self._publish)
        self.train.changed.connect(self._begin_training)
        self._show_state()

    def _button(self, key: str) -> PushButton:
        text, act, tip = self._actions[key]
        button = PushButton(text=f"{text} ({key})")
        button.tooltip = tip
        button.changed.connect(lambda: act())
        return button

    def _rows(self) -> list[tuple[str, Any]]:
        keys = list(self.buttons)
        pairs = zip(keys[::2], keys[1::2], strict=True)
        return [
            ("labels", self.labels),
            ("timepoint", self.timepoint),
            ("", self.open),
            ("", self.about),
            *(("", (self.buttons[a], self.buttons[b])) for a, b in pairs),
            ("", self.publish),
            ("", self.train),
            ("", self.status),
        ]

    # Opening --------------------------------------------------------------------------------------

    def suggest(self) -> None:
        """Suggest the labels of a layer that was read from a store."""
        if self.review is not None or str(self.labels.value) not in (".", ""):
            return
        for layer in self._viewer.layers:
            path = str(getattr(layer.source, "path", None) or "")
            if split_place(Path(path).as_posix()) is not None:
                self.labels.value = path

    def begin(self) -> None:
        """Open the review of the chosen labels; the first time, instances are measured first."""
        path = str(self.labels.value)
        status = WorkStatus()
        status.text = "measuring the instances"
        work = partial(open_for_review, path, self.timepoint.value)
        self.background.run("open the review", status, work, self.use, layer=Path(path).name)

    def use(self, opened: Opened) -> None:
        """Show a review, starting with the first instance that has no decision."""
        self._remove()
        self.review = review = opened.review
        if opened.image is not None:
            levels = list(opened.levels)
            self._viewer.add_image(
                levels if len(levels) > 1 else levels[0],
                name=Path(opened.image.name).name,
                contrast_limits=opened.contrast,
                **placed(review),
            )
        box = Box((0,) * review.source.ndim, (1,) * review.source.ndim)
        empty = review.read(box)
        self._layer = self._viewer.add_labels(
            empty, name=review.place.name, opacity=0.4, **placed(review, box)
        )
        self._mark = self._viewer.add_labels(
            (empty * 0).astype(np.uint8),
            name="instance",
            opacity=1.0,
            colormap={None: "transparent", 1: "yellow"},
            **placed(review, box),
        )
        self._mark.contour, self._mark.editable = 1, False
        self._viewer.layers.selection.active = self._layer
        self._bind()
        self.place = review.left[0] if review.left else 0
        self._show("")
        self._look()
        self._show_state()

    def _bind(self) -> None:
        for key, (_, act, _) in self._actions.items():
            for provider in (self._viewer, self._layer):
                provider.bind_key(key, lambda _, act=act: act(), overwrite=True)

    def _remove(self) -> None:
        """Remove the layers of the previous review."""
        for layer in (self._layer, self._mark):
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layer = self._mark = self._box = self._first = None

    # Looking --------------------------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Go to the next instance without a decision, or back to the previous one."""
        if self.review is None or not self.keep_paint():
            return
        self._show("" if self.review.left else "everything was looked at")
        if by > 0:
            self._go_on()
        else:
            self.place = max(0, self.place - 1)
            self._look()

    def _go_on(self) -> None:
        """Show the next instance without a decision; after the last one, the first."""
        left = self._opened().left
        ahead = [place for place in left if place > self.place]
        self.place = (ahead or left or [self.place])[0]
        self._look()

    def _look(self, label: int | None = None, *, move: bool = True) -> None:
        """Show the instance at the current position of the queue, or another one."""
        review = self._opened()
        self._first = None
        if not len(review.queue):
            self.about.setText("there are no instances")
            return
        each = review.queue[self.place]
        self.about.setText(described(each, self.place, review))
        self._shown = each.label if label is None else label
        found = attempt(partial(review.box_of, self._shown))
        box = each.box if found.value is None else found.value  # if deleted, its former box
        self._box = surroundings(review, box)
        labels = review.read(self._box)
        self._stored = labels.copy()
        self._fill(self._layer, labels)
        self._fill(self._mark, (labels == self._shown).astype(np.uint8))
        self._layer.selected_label = self._shown
        if move:
            self._move(box)

    def _fill(self, layer: Any, labels: Any) -> None:
        layer.data = labels
        layer.translate = placed(self._opened(), self._box)["translate"]
        layer.refresh()

    def _move(self, box: Box) -> None:
        """Centre the view on an instance."""
        review = self._opened()
        middle = [(a + b - 1) / 2 for a, b in zip(box.start, box.stop, strict=True)]
        at = world_of(review, np.rint(middle))
        dims = self._viewer.dims
        dims.set_point(range(dims.ndim - len(at), dims.ndim), at)
        camera = getattr(self._viewer, "scene", self._viewer).camera  # napari 0.9, and older
        camera.center = (0, *at)[-3:]
        extent = np.asarray(box.shape[-2:]) * placed(review)["scale"][-2:]
        canvas = np.asarray(getattr(self._viewer.canvas, "size", None) or (600, 600))
        camera.zoom = float((canvas / extent).min() * _FILL)

    # Deciding -------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Accept the instance, and go to the next one."""
        self._decide(lambda label: Accept(label), goes_on=True)

    def delete(self) -> None:
        """Delete the instance, and go to the next one."""
        self._decide(lambda label: Delete(label), goes_on=True)

    def split(self) -> None:
        """Mark the voxel under the cursor as one part; the second one splits the instance."""
        if self.review is None:
            return
        point = self._pointed()
        if point is None:
            self._show("point at the instance")
        elif self._first is None:
            if self.keep_paint():
                self._first = point
                self._show(f"one part at {_text(point)}; now point at the other part, and press S")
        else:
            points, self._first = (self._first, point), None
            self._decide(lambda label: Split(label, points))

    def merge(self) -> None:
        """Merge the instance under the cursor into the current one."""
        if self.review is None:
            return
        point = self._pointed()
        other = 0 if point is None else label_at(self.review, point)
        if other in (0, self._shown):
            self._show("point at the neighbour that belongs to it")
            return
        self._decide(lambda label: Merge(label, other))

    def brush(self) -> None:
        """Select the brush for a new object."""
        if self.review is not None and self.keep_paint():
            self._layer.selected_label = self.review.free
            self._layer.mode = "paint"
            self._show(f"paint instance {self.review.free}, then press W")

    def keep_paint(self) -> bool:
        """Store painted voxels; return False if that is not possible."""
        if self.review is None or self._box is None:
            return False
        edits = self._painted()
        for edit in edits:
            done = attempt(partial(self.review.apply, edit))
            if done.value is None:
                self._show(done.message)
                return False
        if edits:
            self._look(self._shown, move=False)
            self._show("; ".join(map(told, edits)))
        return True

    def undo(self) -> None:
        """Undo the last decision, or discard painted voxels that are not stored."""
        if self.review is not None and self._box is not None:
            if self._painted():
                self._look(self._shown, move=False)
                self._show("paint that was not kept is undone")
            else:
                self._reverse(self.review.undo, "undone")

    def redo(self) -> None:
        """Redo the decision that was undone last."""
        if self.review is not None and self.keep_paint():
            self._reverse(self.review.redo, "made again")

    def _painted(self) -> list[Paint]:
        """Return painted voxels that are not stored yet."""
        if self.review is None or self._box is None:
            return []
        after = np.asarray(self._layer.data)
        return painted(self.review, self._box, self._stored, after)

    def _decide(self, edit: Callable[[int], Edit], *, goes_on: bool = False) -> None:
        if self.review is None or self._shown is None or not self.keep_paint():
            return
        review, label = self.review, self._shown
        done = attempt(lambda: review.apply(edit(label)))
        if done.value is None:
            self._show(done.message)
            return
        if goes_on:
            self._go_on()
        else:
            self._look(label, move=False)
        self._show(told(done.value.edit) + ("" if review.left else "; everything was looked at"))

    def _reverse(self, turn: Callable[[], Edit | None], word: str) -> None:
        review = self._opened()
        done = attempt(lambda: (turn(),))
        if done.value is None:
            self._show(done.message)
            return
        (edit,) = done.value
        if edit is None:
            self._show("there is nothing left")
            return
        labels = review.queue.columns["label"][review.queue.order]
        for place in np.flatnonzero(np.isin(labels, edit.labels))[:1].tolist():
            self.place = place
        self._look()
        self._show(f"{word}: {told(edit)}")

    def _pointed(self) -> Point | None:
        return voxel_at(self._opened(), self._viewer.cursor.position)

    # Results --------------------------------------------------------------------------------------

    def _publish(self) -> None:
        if self.review is None or not self.keep_paint():
            return
        review, status = self.review, WorkStatus()

        def work() -> str:
            return review.publish(lambda done, of: status.say(f"{done} of {of} regions", done / of))

        name = review.place.name
        self.background.run(f"write {name}", status, work, self._published, layer=name)

    def _published(self, place: str) -> None:
        self._show(f"{place} is written")

    def _begin_training(self) -> None:
        if self.review is not None and self.keep_paint():
            self._train(self.review)

    def _opened(self) -> Review:
        if self.review is None:
            raise UsageError("no review is open")
        return self.review

    def _show(self, text: str) -> None:
        self.status.setText(text)

    def _show_state(self) -> None:
        is_ready = self.review is not None and not self.background.is_busy
        self.open.enabled = not self.background.is_busy
        for button in (*self.buttons.values(), self.publish, self.train):
            button.enabled = is_ready


def _text(point: Point) -> str:
    return ", ".join(map(str, point))
