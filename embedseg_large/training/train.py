"""Train a model: the public function."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from embedseg_large.errors import ModelError, OutputError, UsageError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.device import training_dtype
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG
from embedseg_large.synthesis import read_settings
from embedseg_large.synthesis.reading import Stated
from embedseg_large.training.context import measure_context
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.centers import CenterMethod
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.dataset import CropDataset, Late
from embedseg_large.training.data.properties import (
    STRIDE,
    Properties,
    common_voxel_size,
    measure,
)
from embedseg_large.training.data.sets import Stated as StatedSets
from embedseg_large.training.data.sets import TrainingSet, read_sets, shares_of
from embedseg_large.training.data.sources import Pair, check_masks, find_pairs
from embedseg_large.training.data.supply import (
    CACHE_BYTES,
    AnnotatedSource,
    CropSource,
    Mixture,
)
from embedseg_large.training.data.synthetic import SyntheticSource
from embedseg_large.training.knobs import with_tuned_knobs
from embedseg_large.training.objective import check_overlaps
from embedseg_large.training.panel import check_panel, read_panel
from embedseg_large.training.processes import Processes
from embedseg_large.training.record import LogWatcher, TrainWatcher
from embedseg_large.training.settings import DEFAULT_RECIPE, TrainSettings
from embedseg_large.training.sheet import ROWS
from embedseg_large.training.state import STATE
from embedseg_large.training.tensorboard import TensorBoardWatcher
from embedseg_large.training.trainer import BEST, Trainer
from embedseg_large.training.tune import tuned_on
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges

SHARE = 0.5
"""Share of crops from synthetic volumes, with annotated images."""


def train(
    images: Any = None,
    masks: Any = None,
    *,
    out: str | os.PathLike[str],
    ndim: int | None = None,
    also: StatedSets = None,
    synthetic: int | None = None,
    synthetic_settings: Stated = None,
    synthetic_share: float | None = None,
    validation: float | None = None,
    validation_images: Any = None,
    validation_masks: Any = None,
    panel: StatedSets = None,
    tune_thresholds: bool = False,
    start: str | os.PathLike[str] | Model | None = None,
    resume: bool = False,
    recipe: str = DEFAULT_RECIPE,
    augment: AugmentSettings | None = None,
    center: CenterMethod = "medoid",
    crop: Sequence[int] | None = None,
    device: str | None = None,
    watcher: TrainWatcher | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    pairing: Mapping[str, Any] | None = None,
    **settings: Any,
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
    ndim
        2 or 3, to check the images; for synthetic volumes alone, default 3.
    also
        Further sets of annotated images, each with its own share of the crops, so that a large set
        does not crowd out a small one; see `embedseg_large.training.data.sets`.
    synthetic
        Number of distinct synthetic volumes to train on, generated from the seed on demand.
    synthetic_settings
        Their properties; see `embedseg_large.synthesis.read_settings`.
    synthetic_share
        Fraction of the crops taken from them, with annotated images; default: half.
    validation
        Fraction of the images of each set to validate on, drawn by the seed; 0: none. Where that
        leaves no image, synthetic volumes that are not trained on. Default: 0.15, with a panel 0.
    validation_images, validation_masks
        Other images to validate on.
    panel
        Additional sets of images to validate on, each scored separately; the model with the best
        mean over all sets is kept. See `embedseg_large.training.panel`.
    tune_thresholds
        Whether seed and margin of the best model are chosen at the end on the validation images,
        for one pass and for its default test-time augmentation.
    start
        A model to fine-tune; its pitch and crop units are kept.
    resume
        Resume the interrupted training of `out`.
    recipe
        Set of defaults: ``paper`` (Lalit et al. 2021) or ``robust``, for models that should work on
        images unlike the training data; see `embedseg_large.training.settings.RECIPES`.
    augment
        Augmentation of crops; default: rotations and flips, or `AugmentSettings.robust` with the
        robust recipe.
    center
        medoid, approximate-medoid or centroid.
    crop
        Shape of a crop; default: from the objects.
    device
        ``cpu`` or ``cuda``; None: cuda if available.
    watcher
        Notified of the start, of batches and of epochs; None: they are logged at level INFO.
    tensorboard
        Folder for TensorBoard logs.
    pairing
        Additional arguments of `find_pairs`: labels, channel, ignore, axes, voxel_size ...
    **settings
        See `embedseg_large.training.settings.TrainSettings`; the recipe provides the others.

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
    """
    model = load_model(start) if isinstance(start, str | os.PathLike) else start
    if model is not None:
        own = {"method": model.settings.method, "backbone": model.settings.backbone}
        settings = own | settings
    chosen = TrainSettings.of_recipe(recipe, **settings)
    sets, further = read_panel(panel), read_sets(also, TrainingSet)
    if validation is None:
        validation = 0.0 if sets else 0.15
    if center not in get_args(CenterMethod):
        raise UsageError(f"center is {center!r}; use one of {', '.join(get_args(CenterMethod))}")
    if augment is None:
        augment = AugmentSettings.robust() if recipe == "robust" else AugmentSettings()
    processes = Processes.here(device)
    if chosen.dtype == "auto":
        chosen = replace(chosen, dtype=training_dtype(processes.device))
    path = Path(out)
    if processes.first:
        _check_place(path, resume)
    watchers = [LogWatcher() if watcher is None else watcher]
    if tensorboard is not None:
        watchers.append(TensorBoardWatcher(tensorboard))
    more = dict(pairing or {}, ndim=ndim)
    _check_sources(
        images, masks, more.get("labels"), synthetic, synthetic_settings, synthetic_share, further
    )
    annotated = _annotated(images, masks, more, further)
    pairs = [pair for each in annotated for pair in each.pairs]
    size = common_voxel_size(pairs) if pairs else more.get("voxel_size")
    drawn = _drawn(synthetic, synthetic_settings, pairs, ndim, center, chosen.seed, size)
    kind = (pairs[0].ndim, pairs[0].channels) if drawn is None else (drawn.settings.ndim, 1)
    for each in annotated[1:]:
        _check_alike(kind, each.pairs, None, f"images of {each.name}")
    if validation_images is None:
        annotated, held = _split(annotated, validation, chosen.seed, named=bool(sets or further))
    else:
        name = "held out" if sets else ""
        stated = find_pairs(validation_images, validation_masks, **more)
        held = [(name, pair) for pair in stated]
    _check_alike(kind, [pair for _, pair in held], model)
    _check_method(chosen, model)
    check_overlaps(chosen, [*pairs, *(pair for _, pair in held)])
    check_panel(sets, model)
    opened = [(each, each.pairs(kind[0])) for each in sets]
    _check_mixed(chosen, kind[0], bool(pairs), drawn is not None)
    for training in annotated:
        check_masks(training.pairs, training.called)
    check_masks([pair for _, pair in held])
    for panelled, found in opened:
        check_masks(found, panelled.called)
    with processes.together():
        mixed = _Mixed(annotated, drawn, SHARE if synthetic_share is None else synthetic_share)
        crops = _crops(mixed, chosen, model, augment, center, crop, processes.world)
        whole = [Example.whole(p, intensity_ranges(p.image), set=name) for name, p in held]
        whole += [example for each, found in opened for example in each.examples(found)]
        if not whole and drawn is not None:
            whole = [
                Example.whole(v.image.pair, v.image.ranges) for v in drawn.held_out(validation)
            ]
        excerpts = _excerpts(mixed.measured, crops.properties)
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
        if whole and tune_thresholds:
            is_ours = chosen.method == EMBEDSEG
            best = tuned_on(best, whole) if is_ours else with_tuned_knobs(best, whole)
        best.save(path)
    return best


def split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Choose images to validate on; at least one if there are two or more."""
    if not 0 <= fraction < 1:
        raise UsageError(f"validation is {fraction}; pass a fraction from 0 to below 1")
    count = min(max(0, len(pairs) - 1), max(1, round(fraction * len(pairs)))) if fraction else 0
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    held = [pair for i, pair in enumerate(pairs) if i in chosen]
    return [pair for i, pair in enumerate(pairs) if i not in chosen], held


@dataclass(frozen=True, slots=True, eq=False)
class _Annotated:
    """Images with masks that have a share of their own."""

    name: str
    pairs: Sequence[Pair]
    share: float
    """Fraction of the crops from annotated images."""
    called: str = ""
    """What messages call it; empty for the images without a name."""


def _annotated(
    images: Any, masks: Any, pairing: Mapping[str, Any], further: Sequence[TrainingSet]
) -> list[_Annotated]:
    """Open the images of all sets, the unnamed one first."""
    if images is None:
        return []
    first, *others = shares_of(further)
    found = [_Annotated("annotated", find_pairs(images, masks, **pairing), first)]
    ndim = found[0].pairs[0].ndim
    parts = zip(further, others, strict=True)
    return found + [
        _Annotated(each.name, each.pairs(ndim), share, each.called) for each, share in parts
    ]


def _split(
    annotated: Sequence[_Annotated], fraction: float, seed: int, *, named: bool
) -> tuple[list[_Annotated], list[tuple[str, Pair]]]:
    """Draw the images of each set to validate on, each with the name of what it is counted with."""
    learnt, held = [], []
    for each in annotated:
        pairs, own = split(list(each.pairs), fraction, seed)
        learnt.append(replace(each, pairs=pairs))
        name = each.name if each is not annotated[0] else "held out" if named else ""
        held += [(name, pair) for pair in own]
    return learnt, held


def _folder(out: Path) -> Path:
    """The folder for the files of the training."""
    return out.with_name(f"{out.name}.training")


def is_resumable(out: str | os.PathLike[str]) -> bool:
    """Whether a training of that model has finished an epoch."""
    return (_folder(Path(out)) / STATE).exists()


def best_so_far(out: str | os.PathLike[str], start: Model) -> Model | None:
    """Load the best model of a fine-tuning that was stopped early.

    Parameters
    ----------
    out
        As for `train`.
    start
        The model that was fine-tuned.

    Returns
    -------
    Model or None
        None: no epoch was finished.
    """
    best = _folder(Path(out)) / BEST
    return _with_context(load_model(best), (), start) if best.exists() else None


def _check_place(out: Path, resume: bool) -> None:
    """Refuse an output that cannot be written, is taken, or has nothing to resume."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a folder; create it, or choose another out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} cannot be written to; choose another out")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; out must be a file, choose another one")
    state = _folder(out) / STATE
    if resume:
        if not state.exists():
            raise ModelError(
                f"there is no training to resume: {state} does not exist; leave out --resume"
            )
        return
    if state.exists():
        raise UsageError(
            f"{state} belongs to a training with this out; resume it (--resume), delete "
            f"{state.parent} to start over, or choose another out"
        )
    if out.exists():
        raise UsageError(f"{out} exists; choose another out, or delete it")


def _check_sources(
    images: Any,
    masks: Any,
    labels: str | None,
    synthetic: int | None,
    settings: Stated,
    share: float | None,
    further: Sequence[TrainingSet],
) -> None:
    """Refuse a training without data, and options without their subject."""
    if images is None and further:
        raise UsageError(
            f"training set {further[0].name} is given without images; pass the first set as "
            "images and masks"
        )
    if synthetic is None:
        for name, value in (("synthetic_settings", settings), ("synthetic_share", share)):
            if value is not None:
                raise UsageError(f"{name} is given without synthetic; pass the number of volumes")
        if images is None:
            raise UsageError("nothing to train on; pass images and masks, or synthetic=N")
    if images is None and (masks is not None or labels is not None):
        raise UsageError("masks or labels are given without images; pass the images too")
    if share is not None and images is None:
        raise UsageError(
            "synthetic_share is given without images; then all crops are synthetic, leave it out"
        )
    if share is not None and not 0 < share < 1:
        raise UsageError(f"synthetic_share is {share}; pass a fraction between 0 and 1")


def _drawn(
    count: int | None,
    settings: Stated,
    pairs: Sequence[Pair],
    ndim: int | None,
    center: CenterMethod,
    seed: int,
    voxel_size: Sequence[float] | None,
) -> SyntheticSource | None:
    """Open the source of synthetic volumes, of the annotated images' kind."""
    if count is None:
        return None
    if pairs and pairs[0].channels != 1:
        raise UsageError(
            f"synthetic volumes have 1 channel, {pairs[0].image_where} has {pairs[0].channels}; "
            "choose one channel"
        )
    read = read_settings(settings, ndim=pairs[0].ndim if pairs else ndim)
    cache = CACHE_BYTES // 2 if pairs else CACHE_BYTES
    return SyntheticSource(
        read, count, seed, voxel_size=voxel_size, center=center, cache_bytes=cache
    )


def _check_alike(
    kind: tuple[int, int],
    others: Sequence[Pair],
    model: Model | None,
    what: str = "validation images",
) -> None:
    """Refuse other images and a model that are not for images like the training data."""
    if others and (others[0].ndim, others[0].channels) != kind:
        raise UsageError(
            f"{others[0].image_where}: {what} are {others[0].ndim}D with "
            f"{others[0].channels} channels, training images {kind[0]}D with {kind[1]}; "
            "pass images of the same kind"
        )
    if model is not None and (model.ndim, model.channels) != kind:
        raise ModelError(
            f"the model to start from is for {model.ndim}D images with {model.channels} channels, "
            f"the images are {kind[0]}D with {kind[1]}; choose another one"
        )


def _check_method(settings: TrainSettings, model: Model | None) -> None:
    """Refuse to tune a model of another method or backbone."""
    if model is None:
        return
    for name in ("method", "backbone"):
        theirs, ours = getattr(model.settings, name), getattr(settings, name)
        if theirs != ours:
            raise ModelError(
                f"the model to start from has the {name} {theirs}, not {ours}; leave out "
                f"--{name}, or start from another one"
            )


def _check_mixed(settings: TrainSettings, ndim: int, annotated: bool, synthetic: bool) -> None:
    """Refuse settings that do not match the sources of crops."""
    if settings.late_crop is not None and len(settings.late_crop) != ndim:
        raise UsageError(f"late_crop is {settings.late_crop}; pass {ndim} multiples of {STRIDE}")
    share = settings.late_synthetic_share
    if share is not None and not (annotated and synthetic and 0 < share < 1):
        raise UsageError(
            f"late_synthetic_share is {share}; pass a fraction between 0 and 1, and both images "
            "and synthetic"
        )
    if not annotated and (settings.hard_share or settings.small_objects != 1):
        raise UsageError("hard_share and small_objects apply to annotated images; pass some")


@dataclass(frozen=True, slots=True, eq=False)
class _Mixed:
    """Annotated images, synthetic volumes, or both."""

    annotated: Sequence[_Annotated]
    drawn: SyntheticSource | None
    share: float
    """Of crops from synthetic volumes, where there are both."""

    @property
    def pairs(self) -> list[Pair]:
        """All annotated images, set after set."""
        return [pair for each in self.annotated for pair in each.pairs]

    @property
    def measured(self) -> list[Pair]:
        """What properties are derived from: annotated images first."""
        return [*self.pairs, *(self.drawn.sample() if self.drawn is not None else ())]

    @property
    def shares(self) -> tuple[float, ...]:
        """Fraction of the crops from each source, the synthetic one last."""
        return self.shares_with(self.share)

    def shares_with(self, synthetic: float) -> tuple[float, ...]:
        """Return the same where synthetic volumes have another share."""
        if self.drawn is None:
            return tuple(each.share for each in self.annotated)
        if not self.annotated:
            return (1.0,)
        return (*((1 - synthetic) * each.share for each in self.annotated), synthetic)

    def mixture(
        self, properties: Properties, center: CenterMethod, settings: TrainSettings
    ) -> Mixture:
        """Combine the sources, annotated images first."""
        sources: list[CropSource] = list(self._sources(properties, center, settings))
        return Mixture((*sources, *(() if self.drawn is None else (self.drawn,))), self.shares)

    def _sources(
        self, properties: Properties, center: CenterMethod, settings: TrainSettings
    ) -> Iterator[AnnotatedSource]:
        """Share out the memory of the cache, and find the centres of the objects."""
        objects, first = properties.objects, 0
        memory = CACHE_BYTES if self.drawn is None else CACHE_BYTES // 2
        for each in self.annotated:
            numbers = range(first, first + len(each.pairs))
            own = slice(objects.rows_of(numbers[0]).start, objects.rows_of(numbers[-1]).stop)
            yield AnnotatedSource(
                each.pairs,
                properties,
                find_centers(each.pairs, objects.part(own).renumbered(first), center),
                cache_bytes=memory // len(self.annotated),
                hard_share=settings.hard_share if first == 0 else 0.0,
                small_objects=settings.small_objects,
                name=each.name,
                first=first,
            )
            first = numbers.stop


def _crops(
    mixed: _Mixed,
    settings: TrainSettings,
    model: Model | None,
    augment: AugmentSettings,
    center: CenterMethod,
    crop: Sequence[int] | None,
    world: int,
) -> CropDataset:
    """Measure the training data; a few examples do not determine how small other objects may be."""
    properties = measure(
        mixed.measured,
        crop=crop,
        pitch=None if model is None else model.pitch,
        quantiles=augment.intensity.draws_percentiles,
    )
    if model is not None:
        smallest = min(properties.min_object_size, model.min_object_size)
        properties = replace(properties, min_object_size=smallest)
    elif mixed.drawn is not None and not mixed.annotated and properties.voxel_size is None:
        properties = replace(properties, pitch=mixed.drawn.pitch_of(properties.pitch))
    return CropDataset(
        mixed.mixture(properties, center, settings),
        properties,
        augment=augment,
        seed=settings.seed,
        epoch_crops=_epoch_crops(settings, world),
        repeat=settings.steps is not None,
        empty_share=settings.empty_share,
        synthetic_ranges=settings.synthetic_ranges,
        late=_late(settings, mixed),
    )


def _epoch_crops(settings: TrainSettings, world: int) -> int | None:
    if settings.steps is None:
        return settings.epoch_crops
    steps = min(settings.steps, settings.epoch_steps)
    return steps * settings.batch * settings.accumulate * world


def _late(settings: TrainSettings, mixed: _Mixed) -> Late | None:
    if settings.first_late == settings.n_epochs:
        return None
    share = settings.late_synthetic_share
    return Late(
        epoch=settings.first_late,
        crop=settings.late_crop,
        ranges=settings.late_ranges,
        shares=None if share is None else mixed.shares_with(share),
    )


def _with_context(model: Model, examples: Sequence[Example], start: Model | None) -> Model:
    """Set the context that a model needs; a fine-tuned one keeps what was not measured."""
    settings = model.settings
    if start is None:
        largest = max(examples, key=lambda example: example.box.size)
        needed = measure_context(model, largest.image())
        context = model.context if needed is None else (needed,) * model.ndim
        settings = replace(settings, context=context)
    else:
        settings = replace(settings, context=start.context)
        if "validation" not in model.card:
            settings = replace(settings, seed=start.seed, knobs=start.settings.knobs)
    return Model(model.weights, settings, card=model.card, device=model.device)


def _excerpts(pairs: Sequence[Pair], properties: Properties) -> list[Example]:
    """Parts of training images, to be drawn if there is no validation."""
    return [Example.excerpt(pairs, properties, i) for i in range(len(pairs[:ROWS]))]
