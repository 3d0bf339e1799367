"""Train a model: the public function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from embedseg_large.errors import ModelError, OutputError, UsageError
from embedseg_large.io.intensity import intensity_ranges
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.training.augment import AugmentSettings
from embedseg_large.training.centers import CenterMethod
from embedseg_large.training.context import measure_context
from embedseg_large.training.crops import find_centers
from embedseg_large.training.dataset import CropDataset
from embedseg_large.training.processes import Processes
from embedseg_large.training.properties import Properties, measure
from embedseg_large.training.record import LogWatcher, TrainWatcher
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.sheet import ROWS
from embedseg_large.training.sources import Pair, find_pairs
from embedseg_large.training.state import STATE
from embedseg_large.training.tensorboard import TensorBoardWatcher
from embedseg_large.training.trainer import BEST, Trainer
from embedseg_large.training.validation import Example


def train(
    images: Any,
    masks: Any = None,
    *,
    out: str | os.PathLike[str],
    ndim: int | None = None,
    validation: float = 0.15,
    validation_images: Any = None,
    validation_masks: Any = None,
    start: str | os.PathLike[str] | Model | None = None,
    resume: bool = False,
    augment: AugmentSettings | None = None,
    center: CenterMethod = "medoid",
    crop: Sequence[int] | None = None,
    device: str | None = None,
    watcher: TrainWatcher | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    pairing: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Model:
    """Train a model on annotated images.

    In processes that ``torchrun`` started, they train together; see
    `embedseg_large.training.processes`.

    Parameters
    ----------
    images, masks
        Folders, or lists of paths or arrays; see `embedseg_large.training.sources.find_pairs`.
    out
        File of the model. What training keeps on the way is in the folder ``OUT.training``: the
        log, the best model so far, pictures, and the state to resume from.
    ndim
        2 or 3, where it should be checked.
    validation
        Fraction of the images to validate on, drawn by the seed; 0: none.
    validation_images, validation_masks
        Images to validate on instead.
    start
        A model to fine-tune; its pitch and crop units are kept.
    resume
        Go on with the training that `out` already has.
    augment
        What happens to crops; default: turns and flips.
    center
        medoid, approximate-medoid or centroid.
    crop
        Shape of a crop; default: from the objects.
    device
        ``cpu`` or ``cuda``; None: cuda where there is one.
    watcher
        Is told how training begins, of batches and epochs; None: the log is, at level INFO.
    tensorboard
        Folder to write for TensorBoard.
    pairing
        More arguments of `find_pairs`: labels, channel, ignore, axes, voxel_size ...
    **settings
        See `embedseg_large.training.settings.TrainSettings`.

    Returns
    -------
    Model
        The best model, which `out` holds too.

    Raises
    ------
    UsageError, VolumeError
        The data or settings cannot be trained with; the file is named, nothing has begun.
    OutputError
        `out` cannot be written.
    ModelError
        There is nothing to resume, or `start` does not fit the data.
    """
    chosen = TrainSettings(**settings)
    if center not in get_args(CenterMethod):
        raise UsageError(f"center is {center!r}; use one of {', '.join(get_args(CenterMethod))}")
    processes = Processes.here(device)
    path = Path(out)
    if processes.first:
        _check_place(path, resume)
    watchers = [LogWatcher() if watcher is None else watcher]
    if tensorboard is not None:
        watchers.append(TensorBoardWatcher(tensorboard))
    model = load_model(start) if isinstance(start, str | os.PathLike) else start
    more = dict(pairing or {}, ndim=ndim)
    pairs = find_pairs(images, masks, **more)
    if validation_images is None:
        pairs, held = split(pairs, validation, chosen.seed)
    else:
        held = find_pairs(validation_images, validation_masks, **more)
    _check_alike(pairs, held, model)
    with processes.together():
        crops = _crops(pairs, chosen, model, augment or AugmentSettings(), center, crop)
        whole = [Example.whole(pair, intensity_ranges(pair.image)) for pair in held]
        excerpts = _excerpts(pairs, crops.properties)
        trainer = Trainer(
            crops,
            whole,
            chosen,
            _folder(path),
            start=model,
            pictured=excerpts,
            processes=processes,
            watchers=watchers,
        )
        if resume:
            trainer.resume()
        best = trainer.run()
    if processes.first:
        best = _with_context(best, whole or excerpts, model)
        best.save(path)
    return best


def split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Draw images to validate on; at least one if there are two or more."""
    if not 0 <= fraction < 1:
        raise UsageError(f"validation is {fraction}; pass a fraction from 0 to below 1")
    count = min(len(pairs) - 1, max(1, round(fraction * len(pairs)))) if fraction else 0
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    held = [pair for i, pair in enumerate(pairs) if i in chosen]
    return [pair for i, pair in enumerate(pairs) if i not in chosen], held


def _folder(out: Path) -> Path:
    """The folder of what training keeps on the way."""
    return out.with_name(f"{out.name}.training")


def is_resumable(out: str | os.PathLike[str]) -> bool:
    """Whether a training of that model has ended an epoch."""
    return (_folder(Path(out)) / STATE).exists()


def best_so_far(out: str | os.PathLike[str], start: Model) -> Model | None:
    """Load the best model of a fine-tuning that was ended early.

    Parameters
    ----------
    out
        As it was for `train`.
    start
        The model that was tuned.

    Returns
    -------
    Model or None
        None: no epoch was done.
    """
    best = _folder(Path(out)) / BEST
    return _with_context(load_model(best), (), start) if best.exists() else None


def _check_place(out: Path, resume: bool) -> None:
    """Refuse a place that cannot be written, that is taken, or that has nothing to resume."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a folder; make it, or choose another out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} cannot be written to; choose another out")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; out is the file of the model, choose another one")
    state = _folder(out) / STATE
    if resume:
        if not state.exists():
            raise ModelError(
                f"there is no training to resume: {state} does not exist; leave out --resume"
            )
        return
    if state.exists():
        raise UsageError(
            f"{state} is of a training with this out; go on with it (--resume), delete "
            f"{state.parent} to begin anew, or choose another out"
        )
    if out.exists():
        raise UsageError(f"{out} exists; choose another out, or delete it")


def _check_alike(pairs: Sequence[Pair], held: Sequence[Pair], model: Model | None) -> None:
    """Refuse validation images and a model that are not for images like the training data."""
    kind = (pairs[0].ndim, pairs[0].channels)
    if held and (held[0].ndim, held[0].channels) != kind:
        raise UsageError(
            f"{held[0].image_where}: validation images are {held[0].ndim}D with "
            f"{held[0].channels} channels, training images {kind[0]}D with {kind[1]}; "
            "validate on images of the same kind"
        )
    if model is not None and (model.ndim, model.channels) != kind:
        raise ModelError(
            f"the model to start from is for {model.ndim}D images with {model.channels} channels, "
            f"the images are {kind[0]}D with {kind[1]}; choose another one"
        )


def _crops(
    pairs: Sequence[Pair],
    settings: TrainSettings,
    model: Model | None,
    augment: AugmentSettings,
    center: CenterMethod,
    crop: Sequence[int] | None,
) -> CropDataset:
    """Measure the training data; a few examples do not say how small other objects may be."""
    properties = measure(pairs, crop=crop, pitch=None if model is None else model.pitch)
    if model is not None:
        smallest = min(properties.min_object_size, model.min_object_size)
        properties = replace(properties, min_object_size=smallest)
    return CropDataset(
        pairs,
        properties,
        find_centers(pairs, properties.objects, center),
        augment=augment,
        seed=settings.seed,
        epoch_crops=settings.epoch_crops,
    )


def _with_context(model: Model, examples: Sequence[Example], start: Model | None) -> Model:
    """Give a model the context that it needs; one that was tuned keeps what was not measured."""
    settings = model.settings
    if start is None:
        largest = max(examples, key=lambda example: example.box.size)
        needed = measure_context(model, largest.image())
        context = model.context if needed is None else (needed,) * model.ndim
        settings = replace(settings, context=context)
    else:
        settings = replace(settings, context=start.context)
        if "validation" not in model.card:
            settings = replace(settings, seed=start.seed)
    return Model(model.weights, settings, card=model.card, device=model.device)


def _excerpts(pairs: Sequence[Pair], properties: Properties) -> list[Example]:
    """Parts of training images, to be drawn where there is no validation."""
    return [Example.excerpt(pairs, properties, i) for i in range(len(pairs[:ROWS]))]
