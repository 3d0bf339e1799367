"""Train a model: the public function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.forest import FOREST
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG
from embedseg_large.options import takes
from embedseg_large.training.context import measure_context, middle_of
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.dataset import CropDataset, Late
from embedseg_large.training.data.mixed import MixedSources
from embedseg_large.training.data.properties import Properties, measure
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.forest import refuse_useless, train_forest
from embedseg_large.training.options import TrainOptions
from embedseg_large.training.record import LogWatcher, TrainWatcher
from embedseg_large.training.request import TrainRequest, folder_of, read_request
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.sheet import ROWS
from embedseg_large.training.state import STATE
from embedseg_large.training.tensorboard import TensorBoardWatcher
from embedseg_large.training.trainer import BEST, Trainer
from embedseg_large.training.tuning.knobs import with_tuned_knobs
from embedseg_large.training.tuning.tune import tuned_on
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges


@takes(TrainOptions)
def train(
    images: Any = None,
    masks: Any = None,
    *,
    out: str | os.PathLike[str],
    start: str | os.PathLike[str] | Model | None = None,
    augment: AugmentSettings | None = None,
    watcher: TrainWatcher | None = None,
    **options: Any,
) -> Model:
    """Train a model on annotated images, on synthetic volumes, or on both.

    Processes started by ``torchrun`` train together; see `embedseg_large.training.processes`.

    Parameters
    ----------
    images, masks
        Folders, or lists of paths or arrays; see `embedseg_large.training.data.sources.find_pairs`.
        None with `synthetic`: no annotation is needed.
    out
        File of the model. The folder ``OUT.training`` holds the log, the best model so far,
        pictures, and the state to resume from.
    start
        A model to fine-tune. Its settings are kept; sizes of objects, and with validation the seed,
        are those of the new data, but extent, halo and reach never shrink.
    augment
        Augmentation of crops; default: rotations and flips, or `AugmentSettings.robust` with the
        robust recipe.
    watcher
        Notified of the start, of batches and of epochs; None: they are logged at level INFO.
    **options

    Returns
    -------
    Model
        The best model, also saved to `out`.

    Raises
    ------
    UsageError, VolumeError
        If the data or settings cannot be used for training; the message names the file, and nothing
        has started.
    OutputError
        If `out` cannot be written.
    ModelError
        If there is nothing to resume, or `start` does not match the data.
    RunError
        If the training diverges; the state and the best model of earlier epochs remain.
    """
    watchers: list[TrainWatcher] = [LogWatcher() if watcher is None else watcher]
    if options.get("tensorboard") is not None:
        watchers.append(TensorBoardWatcher(options["tensorboard"]))
    request = read_request(images, masks, Path(out), start, options)
    if request.settings.method == FOREST:
        refuse_useless(request, augment)
        return train_forest(request, _examples(request))
    with request.processes.together():
        crops = _crops(request, augment)
        whole = _examples(request)
        excerpts = _excerpts(request.sources.measured, crops.properties)
        trainer = Trainer(
            crops,
            whole,
            request.settings,
            request.folder,
            center=request.options.center,
            start=request.start,
            pictured=excerpts,
            processes=request.processes,
            watchers=watchers,
        )
        if request.options.resume:
            trainer.resume()
        best = trainer.run()
    if request.processes.first:
        if request.start is None:  # else it was measured when that model was trained
            best = _with_context(best, whole or excerpts)
        if whole and request.options.tune_thresholds:
            is_ours = request.settings.method == EMBEDSEG
            best = tuned_on(best, whole) if is_ours else with_tuned_knobs(best, whole)
        best.save(request.out)
    return best


def is_resumable(out: str | os.PathLike[str]) -> bool:
    """Whether a training of that model has finished an epoch."""
    return (folder_of(Path(out)) / STATE).exists()


def best_so_far(out: str | os.PathLike[str]) -> Model | None:
    """Load the best model of a fine-tuning that was stopped early.

    Parameters
    ----------
    out
        As for `train`.

    Returns
    -------
    Model or None
        None if no epoch was finished.
    """
    best = folder_of(Path(out)) / BEST
    return load_model(best) if best.exists() else None


def _crops(request: TrainRequest, augment: AugmentSettings | None) -> CropDataset:
    """Measure the training data, and prepare the crops."""
    sources, settings, model = request.sources, request.settings, request.start
    if augment is None:
        robust = request.options.recipe == "robust"
        augment = AugmentSettings.robust() if robust else AugmentSettings()
    properties = measure(
        sources.measured,
        crop=request.options.crop,
        pitch=None if model is None else model.pitch,
        quantiles=augment.intensity.draws_percentiles,
    )
    if model is not None:
        smallest = min(properties.min_object_size, model.min_object_size)
        properties = replace(properties, min_object_size=smallest)
    elif sources.drawn is not None and not sources.annotated and properties.voxel_size is None:
        properties = replace(properties, pitch=sources.drawn.pitch_of(properties.pitch))
    # fields of other methods are learned from labels alone
    center = request.options.center if settings.method == EMBEDSEG else None
    return CropDataset(
        sources.mixture(properties, center, settings),
        properties,
        augment=augment,
        seed=settings.seed,
        epoch_crops=_epoch_crops(settings, request.processes.world),
        repeat=settings.steps is not None,
        empty_share=settings.empty_share,
        synthetic_ranges=settings.synthetic_ranges,
        late=_late(settings, sources),
    )


def _epoch_crops(settings: TrainSettings, world: int) -> int | None:
    if settings.steps is None:
        return settings.epoch_crops
    steps = min(settings.steps, settings.epoch_steps)
    return steps * settings.batch * settings.accumulate * world


def _late(settings: TrainSettings, sources: MixedSources) -> Late | None:
    if settings.first_late == settings.n_epochs:
        return None
    share = settings.late_synthetic_share
    return Late(
        epoch=settings.first_late,
        crop=settings.late_crop,
        ranges=settings.late_ranges,
        shares=None if share is None else sources.shares_with(share),
    )


def _examples(request: TrainRequest) -> list[Example]:
    """Return whole images to validate on; if there are none, held-out synthetic volumes."""
    held = [Example.whole(p, intensity_ranges(p.image), set=name) for name, p in request.held]
    held += [example for each, found in request.panel for example in each.examples(found)]
    drawn = request.sources.drawn
    if held or drawn is None:
        return held
    volumes = drawn.held_out(request.held_out)
    return [Example.whole(v.image.pair, v.image.ranges) for v in volumes]


def _excerpts(pairs: Sequence[Pair], properties: Properties) -> list[Example]:
    """Return parts of training images, to be drawn if there is no validation."""
    return [Example.excerpt(pairs, properties, i) for i in range(len(pairs[:ROWS]))]


def _with_context(model: Model, examples: Sequence[Example]) -> Model:
    """Set the measured context of a new model."""
    largest = max(examples, key=lambda example: prod(example.resampling(model).target))
    needed = measure_context(model, middle_of(model, largest))
    context = model.context if needed is None else (needed,) * model.ndim
    settings = replace(model.settings, context=context)
    return Model(model.weights, settings, card=model.card, device=model.device)
