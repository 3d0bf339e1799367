"""Training on labels that were painted, corrected or reviewed in napari.

The labels may cover only part of the image, like those of a segmented region: everything outside is
unannotated and not used in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import OutputError, UsageError
from embedseg_large.fields import UNANNOTATED
from embedseg_large.geometry import Box
from embedseg_large.napari.selection import LayerSource, source_of
from embedseg_large.napari.telling import CancelledError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.review.review import Review
from embedseg_large.training.record import TrainWatcher
from embedseg_large.training.train import best_so_far, train

MOST_VOXELS = 2**29
"""Maximum voxels of a training image: its mask takes 2 GiB."""
RIM = 6
"""Width of the rim around painted objects that is background, if the rest is unannotated."""
LEARNING_RATE = 1e-4
"""For fine-tuning: a fifth of that for a new model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PaintedImage:
    """An image, and labels of all or part of it."""

    image: LayerSource
    labels: LayerSource
    box: Box
    """Voxels of the image that the labels cover."""

    def mask(self, *, all_painted: bool) -> NDArray[np.int32]:
        """Create the training mask.

        Parameters
        ----------
        all_painted
            Whether every object within the labels is painted, so that the rest is background. If
            not, only a rim around painted objects is background.

        Returns
        -------
        int32, as large as the image: 0 background, above 0 objects, -1 unannotated.

        Raises
        ------
        UsageError
            If the image is too large, or nothing is painted.
        """
        if prod(self.image.shape) > MOST_VOXELS:
            raise UsageError(
                f"{self.image.name} has {prod(self.image.shape):,} voxels, more than the "
                f"{MOST_VOXELS:,} that can be trained on in napari; crop it, or run "
                "`embedseg-large train` on files"
            )
        painted = np.asarray(self.labels.array).astype(np.int32)
        if not painted.any():
            raise UsageError(
                f"nothing is painted in {self.labels.name}"
                + (f" at {self.labels.leading}" if self.labels.leading else "")
                + "; paint some complete objects, each with a different number"
            )
        if not all_painted:
            painted = _with_rim(painted)
        mask = np.full(self.image.shape, UNANNOTATED, np.int32)
        first = _first_voxel(self.image, self.labels)
        mask[self.box.slices] = painted[self.box.shift([-f for f in first]).slices]
        return mask


def painted_on(image: Any, labels: Any, ndim: int, point: Sequence[float]) -> PaintedImage:
    """Find the voxels of an image layer to which a labels layer belongs.

    Parameters
    ----------
    image, labels
        Layers.
    ndim
        Spatial axes of the model.
    point
        Position of the viewer, in world coordinates.

    Raises
    ------
    UsageError
        If the voxels of the labels do not match a level of the image, or lie outside it.
    """
    truth = source_of(labels, ndim, point)
    levels = range(len(image.data)) if image.multiscale else [0]
    for level in levels:
        source = source_of(image, ndim, point, level)
        if _have_same_voxels(source, truth):
            first = _first_voxel(source, truth)
            box = Box(first, tuple(f + n for f, n in zip(first, truth.shape, strict=True)))
            if not (box := box.clip(source.shape)).size:
                break
            return PaintedImage(image=source, labels=truth, box=box)
    raise UsageError(
        f"{labels.name} does not match the voxels of {image.name}; choose the image on which it "
        "was painted, or make new labels for this one"
    )


def _have_same_voxels(image: LayerSource, labels: LayerSource) -> bool:
    here, there = (s.layer.scale[-s.ndim :] * s.factors[-s.ndim :] for s in (image, labels))
    shift = _shift(image, labels)
    return bool(
        np.allclose(here, there, rtol=1e-3) and np.all(np.abs(shift - np.rint(shift)) < 0.05)
    )


def _first_voxel(image: LayerSource, labels: LayerSource) -> tuple[int, ...]:
    """Find the voxel of the image that corresponds to the first voxel of the labels."""
    return tuple(int(v) for v in np.rint(_shift(image, labels)))


def _shift(image: LayerSource, labels: LayerSource) -> NDArray[np.float64]:
    first = (labels.factors - 1) / 2
    world = np.asarray(labels.layer.data_to_world(first), float)
    missing = max(0, image.layer.ndim - len(world))
    place = image.voxel_at(np.concatenate([np.zeros(missing), world]))
    return place[-image.ndim :]


def _with_rim(painted: NDArray[np.int32]) -> NDArray[np.int32]:
    """Annotate background only near objects."""
    known = ndimage.binary_dilation(painted != 0, iterations=RIM)
    return np.where(known, painted, np.int32(UNANNOTATED))


def train_on(
    painted: PaintedImage,
    *,
    start: str,
    out: Path,
    epochs: int,
    all_painted: bool,
    watcher: TrainWatcher,
) -> Model:
    """Fine-tune a model on painted labels, and save it.

    Parameters
    ----------
    painted
        Image and labels.
    start
        Model to start from: a bundled name or a path.
    out
        File of the new model; must not exist.
    epochs
        Passes over the painted objects.
    all_painted
        See `PaintedImage.mask`.
    watcher
        Notified of progress; an exception from it ends the training. After a `CancelledError`, the
        model of the last finished epoch is saved.

    Raises
    ------
    CancelledError
        If cancelled before an epoch was finished.
    UsageError, VolumeError, ModelError, OutputError
        If the data or the settings cannot be used.
    """
    check_out(out)
    model = load_model(start)
    mask, image = painted.mask(all_painted=all_painted), painted.image
    pairing = {"axes": "zyx"[-model.ndim :], "voxel_size": image.voxel_size}
    tune = partial(train, [image.array], [mask], pairing=pairing)
    return _saved(tune, model, out, epochs, watcher)


def train_on_review(
    review: Review, *, start: str, out: Path, epochs: int, watcher: TrainWatcher
) -> Model:
    """Fine-tune a model on reviewed instances, and save it.

    Parameters
    ----------
    review
        The review; only instances with a decision are used for training.
    start, out, epochs, watcher
        As for `train_on`.

    Raises
    ------
    CancelledError, UsageError, VolumeError, ModelError, OutputError
        As for `train_on`.
    """
    check_out(out)
    model = load_model(start)
    return _saved(partial(train, reviewed=[review]), model, out, epochs, watcher)


def _saved(
    tune: Callable[..., Model], start: Model, out: Path, epochs: int, watcher: TrainWatcher
) -> Model:
    """Fine-tune and save; after cancelling, the model of the last finished epoch is saved."""
    with TemporaryDirectory(prefix="embedseg-napari-") as folder:
        here = Path(folder, "tuned.safetensors")
        try:
            tuned = tune(
                out=here,
                ndim=start.ndim,
                start=start,
                epochs=epochs,
                accumulate=1,
                learning_rate=LEARNING_RATE,
                pictures_every=0,
                watcher=watcher,
            )
        except CancelledError:
            best = best_so_far(here)
            if best is None:
                raise
            tuned = best
    tuned.save(out)
    return tuned


def check_out(out: Path) -> None:
    """Refuse an unusable model path before training."""
    if out.exists():
        raise UsageError(f"{out} exists; choose another name for the new model")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out.parent} is not a folder; create it, or choose another one")
