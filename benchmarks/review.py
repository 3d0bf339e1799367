"""Are 15 minutes of proofreading worth it? Half of an embryo is corrected, the other half scored.

1. The blastocyst of the package (idr0062 at half resolution) is segmented. 2. A script stands for a
person: in the order of the queue it decides about the instances of the lower half, by the labels
drawn by hand, until the time is up. Each kind of decision costs what it would take a person. 3. The
model is fine-tuned on this review (`train --reviewed`). 4. The embryo is segmented again, and the
upper half, where nothing was corrected, is scored before and after.

Interrupted, it goes on where it was: the training resumes after its last finished epoch.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import embedseg_large as es
from embedseg_large.data import copy_demo
from embedseg_large.geometry import Box
from embedseg_large.review.annotation import RIM
from embedseg_large.review.edits import Accept, Delete, Edit, Merge, Paint, Split
from embedseg_large.training.train import is_resumable

SECONDS = {"accept": 5, "delete": 5, "merge": 10, "split": 15, "paint": 60}
"""What a person needs for a decision; two paints of one outline count once."""
THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
SAME = 0.7
"""IoU from which an outline is accepted."""


class Person:
    """Decides by true labels, in the planes before the middle.

    Parameters
    ----------
    review, truth
        What is corrected, and how it should be.
    seconds
        Time that there is.
    """

    def __init__(self, review: es.Review, truth: Any, seconds: float) -> None:
        self.review, self.truth, self.left = review, truth, seconds
        self.middle = truth.shape[0] // 2
        self.counts: Counter[str] = Counter()

    def work(self) -> None:
        """Go through the queue, then look for what was missed."""
        for place in self.review.left:
            here = self._is_here(self.review.queue[place].box)
            if self.left > 0 and here and place in self.review.left:  # not merged meanwhile
                self._look(self.review.queue[place].label)
        for number, where in enumerate(ndimage.find_objects(self.truth), 1):
            if where is not None and self.left > 0:
                self._look_for(number, Box(*zip(*((s.start, s.stop) for s in where), strict=True)))

    def _is_here(self, box: Box) -> bool:
        return box.stop[0] + RIM <= self.middle

    def _decide(self, *edits: Edit) -> None:
        verb = str(edits[0]).split()[0]
        self.counts[verb] += 1
        self.left -= SECONDS[verb]
        for edit in edits:
            self.review.apply(edit)

    def _look(self, label: int) -> None:
        """Decide about an instance of the queue."""
        box = self.review.box_of(label)
        mask = self.review.read(box) == label
        truth = self.truth[box.slices]
        numbers, sizes = np.unique(truth[mask & (truth > 0)], return_counts=True)
        if sizes.sum() < 0.2 * mask.sum():
            self._decide(Delete(label))
            return
        whole = np.array([np.count_nonzero(self.truth == number) for number in numbers])
        covered = numbers[sizes >= 0.5 * whole]
        if covered.size > 1:
            points = [self._inside(mask & (truth == number), box) for number in covered]
            self._decide(Split(label, tuple(points)))
            return
        best = int(numbers[sizes.argmax()])
        for other in self._pieces(label, best):
            self._decide(Merge(label, other))
        self._outline(label, best)

    def _inside(self, mask: Any, box: Box) -> tuple[int, ...]:
        """The voxel of a mask that is deepest in it."""
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
        at = np.unravel_index(int(depth.argmax()), mask.shape)
        return tuple(int(a) + b for a, b in zip(at, box.start, strict=True))

    def _pieces(self, label: int, number: int) -> list[int]:
        """Other instances that mostly lie in a true object."""
        whole = self.review.read(Box.whole(self.truth.shape))
        found, inside = np.unique(whole[self.truth == number], return_counts=True)
        sizes = [np.count_nonzero(whole == n) for n in found]
        pairs = zip(found.tolist(), inside.tolist(), sizes, strict=True)
        return [n for n, a, b in pairs if n not in (0, label) and a >= 0.5 * b]

    def _outline(self, label: int, number: int) -> None:
        """Accept an outline, or paint it."""
        whole = self.review.read(Box.whole(self.truth.shape))
        mask, wanted = whole == label, self.truth == number
        if (mask & wanted).sum() >= SAME * (mask | wanted).sum():
            self._decide(Accept(label))
            return
        missing, extra = np.argwhere(wanted & (whole != label)), np.argwhere(mask & ~wanted)
        edits = [Paint.of(label, missing)] if len(missing) else []
        self._decide(*edits, *([Paint.of(0, extra)] if len(extra) else []))

    def _look_for(self, number: int, box: Box) -> None:
        """Paint a true object that nothing was found of."""
        found = self.review.read(box)[self.truth[box.slices] == number]
        if self._is_here(box) and np.count_nonzero(found) < 0.1 * found.size:
            self._decide(Paint.of(self.review.free, np.argwhere(self.truth == number)))


def scores(store: Path, labels: str, truth: Any, part: slice) -> dict[str, float]:
    """AP at the thresholds, in some planes."""
    found = es.open_volume(store / "labels" / labels).data.compute()
    rows = es.evaluate(found[part], truth[part], thresholds=THRESHOLDS)
    return {f"{row.threshold:g}": round(row.ap, 3) for row in rows}


def segmented(store: Path, model: Any, labels: str, seed: float | None) -> None:
    """Segment, unless that was done."""
    if not (store / "labels" / labels).exists():
        more = {} if seed is None else {"seed": seed}
        result = es.segment(store, model, labels=labels, tta="none", **more)
        print(f"{labels}: {result.n_instances} found", flush=True)


def main() -> None:
    """Correct, train, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for all files; the same one goes on")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=float, default=0.6, help="threshold of the first labels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--crop", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    store, model = options.folder / "blastocyst.ome.zarr", options.folder / "tuned.safetensors"
    if not (store / "labels" / "truth").exists():
        copy_demo(store, overwrite=True)
    truth = es.open_volume(store / "labels" / "truth").data.compute().astype(np.int64)
    middle = truth.shape[0] // 2
    segmented(store, "nuclei-3d", "nuclei", options.seed)
    segmented(store, "nuclei-3d", "default", None)
    review = es.open_review(store / "labels" / "nuclei")
    if not review.decisions:
        person = Person(review, truth, 60 * options.minutes)
        person.work()
        print(f"{dict(person.counts)}: {len(review.decisions)} edits, {person.left:.0f} s left")
        (options.folder / "decisions.txt").write_text(review.script())
        review.publish()
    if not model.exists():
        es.train(
            reviewed=review,
            out=model,
            start="nuclei-3d",
            steps=options.steps,
            epoch_steps=10,
            crop=(options.crop,) * 3,
            batch=2,
            accumulate=1,
            learning_rate=1e-4,
            pictures_every=0,
            resume=is_resumable(model),
        )
    segmented(store, model, "tuned", options.seed)
    segmented(store, model, "tuned_default", None)
    upper, lower = slice(middle, None), slice(0, middle)
    table: dict[str, Any] = {
        "corrected half, found": scores(store, "nuclei", truth, lower),
        "corrected half, reviewed": scores(store, "nuclei_reviewed", truth, lower),
        f"other half, seed {options.seed:g}, before": scores(store, "nuclei", truth, upper),
        f"other half, seed {options.seed:g}, after": scores(store, "tuned", truth, upper),
        "other half, the model's seed, before": scores(store, "default", truth, upper),
        "other half, the model's seed, after": scores(store, "tuned_default", truth, upper),
    }
    for name, row in table.items():
        print(f"{name:40}" + "  ".join(f"{at}: {ap:.3f}" for at, ap in row.items()))
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
