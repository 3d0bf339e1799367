"""A review of one label volume: the queue, decisions, and the resulting labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.options import takes
from embedseg_large.review.change import LabelChange
from embedseg_large.review.doubt import Queue, queue_of
from embedseg_large.review.edits import (
    Accept,
    Delete,
    Edit,
    EditScene,
    Merge,
    Paint,
    Split,
    numbered_edits,
)
from embedseg_large.review.identity import about, check_same, digest_of, read_about
from embedseg_large.review.log import Decision, Log, Reversal, Step, made_by
from embedseg_large.review.opening import load_log, open_labels, table_name, voxels_at
from embedseg_large.review.options import ReviewOptions
from embedseg_large.review.place import ABOUT, ReviewPlace, find_place
from embedseg_large.review.published import publish
from embedseg_large.review.table import Columns, box_in, measured, read_columns, write_columns
from embedseg_large.review.voxels import ReviewedVoxels
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.storage.connection import refuse_web, shown
from embedseg_large.volumes.volume import Volume

if TYPE_CHECKING:
    import dask.array as da


_MOST_VOXELS = 1 << 28
"""Maximum number of voxels in the box of an instance that is edited: about 3 GB."""
_MOST_PAINTED = 1 << 25
"""Maximum number of voxels in the box around painted voxels, which may be far apart."""


@dataclass(kw_only=True, eq=False)
class Review:
    """Decisions about the instances of a label volume; each can be undone.

    Created by `open_review`. A decision is on disk when the method that makes it returns. The
    source labels are never changed.
    """

    place: ReviewPlace
    log: Log
    voxels: ReviewedVoxels
    """The current labels."""
    _table: Columns | None
    _workers: Mapping[str, Any]
    """Options of `WorkerOptions`."""
    _is_behind: bool = False
    """Whether the chunks of the last step could not all be written."""

    @property
    def source(self) -> Volume:
        """The labels that are reviewed."""
        return self.voxels.source

    @property
    def columns(self) -> Columns:
        """Measurements of the instances of the source; computed on first use."""
        if self._table is None:
            self._table = measured(self.place.source, self.source.timepoint, self._workers)
        return self._table

    @cached_property
    def queue(self) -> Queue:
        """All instances of the source, the most doubtful first."""
        return queue_of(self.columns)

    @property
    def decisions(self) -> list[Edit]:
        """The edits in force, oldest first."""
        return [decision.edit for decision in self.log.decisions()]

    @property
    def decided(self) -> set[int]:
        """Labels of the reviewed instances, both of the source and new ones."""
        return set(self.log.decided)

    @property
    def left(self) -> list[int]:
        """Positions in the queue of the instances without a decision, in order."""
        labels = self.queue.columns["label"][self.queue.order]
        gone = {label for label, forms in self.log.forms.items() if forms[-1] is None}
        return np.flatnonzero(~np.isin(labels, sorted(self.decided | gone))).tolist()

    @property
    def free(self) -> int:
        """The next free label, larger than all labels of the source and of decisions in force."""
        return 1 + max(int(self.columns["label"].max(initial=0)), max(self.log.forms, default=0))

    @property
    def data(self) -> da.Array:
        """The current labels as a lazy dask array, (z,) y, x."""
        import dask.array as da

        # no fixed name, because the next decision changes the voxels of the same review
        lazy: da.Array = da.from_array(
            self.voxels, chunks=self.voxels.chunk, asarray=False, fancy=False, name=False
        )
        return lazy

    def box_of(self, label: int) -> Box:
        """Return a box around an instance in its current form.

        Raises
        ------
        UsageError
            If there is no such instance.
        """
        forms = self.log.forms.get(label)
        box = forms[-1] if forms else box_in(self.columns, label)
        if box is None:
            more = "any more" if forms else f"in {shown(self.place.source)}"
            raise UsageError(f"there is no instance {label} {more}")
        return box

    def read(self, box: Box) -> NDArray[Any]:
        """Read the current labels of a box."""
        return self.voxels.read(box)

    def accept(self, label: int) -> None:
        """Accept an instance as correct."""
        self.apply(Accept(label))

    def delete(self, label: int) -> None:
        """Remove an instance."""
        self.apply(Delete(label))

    def split(self, label: int, *points: Sequence[int]) -> None:
        """Divide an instance: one voxel (z,) y, x in each part; the first part keeps the label."""
        self.apply(Split(label, tuple(tuple(int(n) for n in point) for point in points)))

    def merge(self, label: int, other: int) -> None:
        """Merge instance `other` into `label`."""
        self.apply(Merge(label, other))

    def paint(self, label: int, voxels: NDArray[np.integer]) -> None:
        """Assign a label to voxels (n, ndim): 0 erases, `free` creates an instance."""
        self.apply(Paint.of(label, voxels))

    def apply(self, edit: Edit) -> Decision:
        """Make a decision: write it to the log, then the chunks that it changes.

        Raises
        ------
        UsageError
            If the edit is not possible; nothing has changed.
        OutputError, RunError
            If it cannot be written, or another program has changed the review.
        """
        self._catch_up()
        decision = self._decision(edit)
        self._step(decision)
        return decision

    def apply_script(self, text: str, where: str = "the script") -> int:
        """Make the decisions of a script, one per line; see `embedseg_large.review.edits`.

        Returns
        -------
        int
            Number of decisions made.

        Raises
        ------
        UsageError
            If a line is not an edit (nothing has been changed), or an edit is not possible (the
            earlier ones have been applied). The message has the line number.
        """
        lines = list(numbered_edits(text, self.voxels.ndim, where))
        for done, (number, edit) in enumerate(lines):
            try:
                self.apply(edit)
            except UsageError as error:
                kept = f"; decisions made before it: {done}" if done else ""
                raise UsageError(f"{where}, line {number}: {error}{kept}") from error
        return len(lines)

    def undo(self) -> Edit | None:
        """Undo the last decision in force and return it; None if there is none."""
        return self._reverse("undo", self.log.active)

    def redo(self) -> Edit | None:
        """Redo the decision that was undone last and return it; None if there is none."""
        return self._reverse("redo", self.log.undone)

    def publish(self, watch: Callable[[int, int], None] = lambda _, __: None) -> str:
        """Write the current labels as ``labels/NAME_reviewed``, an ordinary label volume.

        An earlier copy by this review is replaced. All timepoints are written; those that were not
        reviewed are copied unchanged.

        Parameters
        ----------
        watch
            Called with the number of finished regions and the total.

        Returns
        -------
        str
            Path or URL of the labels.

        Raises
        ------
        LabelsExistError
            If labels of that name were not written by this review.
        UsageError, OutputError
            If labels cannot be written there.
        """
        return publish(self.place, watch)

    def script(self) -> str:
        """Return the decisions in force, one per line, for `apply_script`."""
        return "".join(f"{edit}\n" for edit in self.decisions)

    def _reverse(self, kind: Literal["undo", "redo"], numbers: list[int]) -> Edit | None:
        if not numbers:
            return None
        self._catch_up()
        number = numbers[-1]
        self._step(Reversal(kind, number))
        return self.log.decision(number).edit

    def _step(self, step: Step) -> None:
        """Write a step to the log, then the chunks that it changes."""
        self._begin()
        self.log.append(step)
        self._is_behind = True
        self.voxels.put(self.log.last_change())
        self._is_behind = False

    def _catch_up(self) -> None:
        """Write the chunks of a step whose writing failed: later steps build on them."""
        if self._is_behind:
            self.log.check_latest()
            self.voxels.follow(self.log)
            self._is_behind = False

    def _decision(self, edit: Edit) -> Decision:
        """Compute an edit; raise if there is any reason to refuse it."""
        free, whole = self.free, Box.whole(self.voxels.shape)
        for label in edit.labels:
            if not (isinstance(edit, Paint) and label == free):
                self.box_of(label)
        made = made_by(edit, free)
        if made and made[-1] > np.iinfo(self.voxels.dtype).max:
            raise UsageError(f"no label is left for a new instance in {self.voxels.dtype}")
        box = edit.box(self.box_of)
        if not whole.contains(box):
            raise UsageError(f"{box} is not inside the volume {self.voxels.shape}")
        _check_size(edit, box)
        before = self.read(box)
        spacing = self.source.voxel_size or (1.0,) * box.ndim
        after = edit.apply(before, EditScene(box, free, spacing))
        return Decision(
            edit=edit,
            change=LabelChange.between(box, before, after),
            instances=self._instances(edit, box, before, after, made),
            stamp=self.source.stamp(box),
            digest=digest_of(self.source, box),
        )

    def _instances(
        self,
        edit: Edit,
        box: Box,
        before: NDArray[Any],
        after: NDArray[Any],
        made: tuple[int, ...],
    ) -> dict[int, Box | None]:
        """Find a box around each instance after an edit."""
        if isinstance(edit, Merge):
            return {edit.label: _around(self.box_of(edit.label), box), edit.other: None}
        if isinstance(edit, Paint):
            return dict(self._painted(edit.label, box, before, after))
        return {label: _tight(after == label, box) for label in (edit.label, *made)}

    def _painted(
        self, label: int, box: Box, before: NDArray[Any], after: NDArray[Any]
    ) -> list[tuple[int, Box | None]]:
        """Find boxes of the painted instances, and mark those that no longer exist."""
        found: list[tuple[int, Box | None]] = []
        if label:
            old = box if label == self.free else _around(self.box_of(label), box)
            found.append((label, old))
        for lost in np.setdiff1d(before[before > 0], after).tolist():
            if box.contains(self.box_of(lost)):
                found.append((lost, None))
        return found

    def _begin(self) -> None:
        """Create the folder of the review before the first decision."""
        if self.log.steps:
            return
        folder = self.place.folder
        refuse_web(self.place.store, "copy the store to review its labels")
        folder.check_writable()
        write_columns(folder, table_name(self.source), self.columns)
        said = json.dumps(about(self.place, self.source), indent=2).encode()
        folder.create(ABOUT, said, durable=True)


@takes(ReviewOptions)
def open_review(labels: str | os.PathLike[str], **options: Any) -> Review:
    """Open the review of a label volume, or start one.

    Nothing is written before the first decision.

    Parameters
    ----------
    labels
        Path or URL of the labels in an OME-Zarr store (``STORE/labels/NAME``), of reviewed labels,
        or of a store with only one label group.
    **options

    Returns
    -------
    Review

    Raises
    ------
    UsageError
        If there are several labels or timepoints and none was chosen, or the labels have changed
        since their review began; its decisions are kept.
    VolumeError
        If something cannot be read, or is not a label image.
    """
    asked = ReviewOptions.of(options, "open_review")
    place = find_place(labels, asked.name)
    source = open_labels(place, asked.timepoint)
    recorded, log = read_about(place.folder), load_log(place, source)
    if recorded is not None:
        check_same(recorded, place, source, log)
    voxels = voxels_at(place, source)
    voxels.follow(log)
    table = read_columns(place.folder, table_name(source), Box.whole(source.spatial_shape))
    workers = WorkerOptions.among(vars(asked))
    return Review(place=place, log=log, voxels=voxels, _table=table, _workers=workers)


def _check_size(edit: Edit, box: Box) -> None:
    """Refuse an edit whose box would fill the memory."""
    is_paint = isinstance(edit, Paint)
    most = _MOST_PAINTED if is_paint else _MOST_VOXELS
    if box.size > most:
        todo = "paint it in several parts" if is_paint else "edit it in another program"
        verb = str(edit).partition(" ")[0]
        raise UsageError(
            f"{verb} refers to a box of {box.size:,} voxels {box}, the most are {most:,}; {todo}"
        )


def _around(one: Box, other: Box) -> Box:
    """Return the smallest box around two boxes."""
    return Box(
        tuple(map(min, one.start, other.start)),
        tuple(map(max, one.stop, other.stop)),
    )


def _tight(inside: NDArray[np.bool_], box: Box) -> Box | None:
    """Return the smallest box around the true voxels of a box; None if there are none."""
    places = np.argwhere(inside)
    if not places.size:
        return None
    ends = (places.min(axis=0), places.max(axis=0) + 1)
    start, stop = (tuple((end + box.start).tolist()) for end in ends)
    return Box(start, stop)
