"""The request for a training: all inputs opened, and every reason to refuse it checked.

Only the headers of files are read and, last of all, a few places of the masks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from embedseg_large.errors import ModelError, OutputError, UsageError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.device import training_dtype
from embedseg_large.network.model import Model
from embedseg_large.network.settings import STRIDE
from embedseg_large.storage.disk import refuse_url
from embedseg_large.synthesis import read_settings
from embedseg_large.training.data.mixed import (
    AnnotatedSet,
    MixedSources,
    hold_out,
    open_annotated,
)
from embedseg_large.training.data.panel import PanelSet, check_panel, read_panel
from embedseg_large.training.data.properties import check_crop, common_voxel_size
from embedseg_large.training.data.reviewed import reviewed_pairs
from embedseg_large.training.data.sets import TrainingSet, read_sets
from embedseg_large.training.data.sources import Pair, check_masks, find_pairs
from embedseg_large.training.data.supply import CACHE_BYTES
from embedseg_large.training.data.synthetic import SyntheticSource
from embedseg_large.training.objective import check_overlaps
from embedseg_large.training.options import CenterMethod, TaskOptions
from embedseg_large.training.processes import Processes
from embedseg_large.training.settings import FROZEN_SHARE, TrainSettings
from embedseg_large.training.state import STATE

SHARE = 0.5
"""Default fraction of crops from synthetic volumes, if there are annotated images."""
HELD_OUT = 0.15
"""Default fraction of the images to validate on, without a panel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainRequest:
    """A training that can start."""

    out: Path
    """File of the model."""
    options: TaskOptions
    settings: TrainSettings
    start: Model | None
    """The model to fine-tune."""
    processes: Processes
    sources: MixedSources
    """What crops are cut from."""
    held: Sequence[tuple[str, Pair]]
    """Validation images, each with the name of the set with which it is scored."""
    panel: Sequence[tuple[PanelSet, Sequence[Pair]]]
    """Additional validation sets, and their images."""
    held_out: float
    """Fraction of the images, or of the synthetic volumes, to validate on."""

    @property
    def folder(self) -> Path:
        """The folder for the files of the training."""
        return folder_of(self.out)


def read_request(
    images: Any,
    masks: Any,
    out: Path,
    start: str | os.PathLike[str] | Model | None,
    given: Mapping[str, Any],
) -> TrainRequest:
    """Open and check everything that a training needs; arguments as for `train`.

    Raises
    ------
    UsageError, VolumeError, OutputError, ModelError
        As for `train`.
    """
    model = load_model(start) if isinstance(start, str | os.PathLike) else start
    asked = TaskOptions(**TaskOptions.among(given))
    settings = _settings(model, asked, given)
    panel, further = read_panel(asked.panel), read_sets(asked.also, TrainingSet)
    if asked.center not in get_args(CenterMethod):
        known = ", ".join(get_args(CenterMethod))
        raise UsageError(f"center is {asked.center!r}; use one of {known}")
    processes = Processes.here(asked.device)
    if settings.dtype == "auto":
        settings = replace(settings, dtype=training_dtype(processes.device))
    if processes.first:
        check_place(out, asked.resume)
    pairing = dict(asked.pairing or {}, ndim=asked.ndim)
    images, masks = _with_reviewed(images, masks, asked, pairing)
    _check_sources(images, masks, pairing.get("labels"), asked, further)
    annotated = open_annotated(images, masks, pairing, further)
    pairs = [pair for each in annotated for pair in each.pairs]
    size = common_voxel_size(pairs) if pairs else pairing.get("voxel_size")
    share = SHARE if asked.synthetic_share is None else asked.synthetic_share
    drawn = _open_synthetic(asked, pairs, settings.seed, size)
    sources = MixedSources(annotated, drawn, share)
    for each in annotated[1:]:
        check_alike(sources.kind, each.pairs, f"images of {each.name}")
    held_out = asked.validation
    if held_out is None:
        held_out = 0.0 if panel else HELD_OUT
    learnt, held = _validation(asked, annotated, pairing, held_out, settings.seed, bool(panel))
    check_alike(sources.kind, [pair for _, pair in held])
    validates = bool(held or panel or (drawn is not None and held_out))
    _check_useful(asked, settings, given, model, validates=validates)
    _check_model(sources.kind, settings, model)
    check_overlaps(settings, [*pairs, *(pair for _, pair in held)])
    check_panel(panel, model)
    opened = [(each, each.pairs(sources.kind[0])) for each in panel]
    _check_mixed(settings, sources)
    if asked.crop is not None:
        check_crop(asked.crop, sources.kind[0])
    for training in learnt:
        check_masks(training.pairs, training.called)
    check_masks([pair for _, pair in held])
    for panelled, found in opened:
        check_masks(found, panelled.called)
    return TrainRequest(
        out=out,
        options=asked,
        settings=settings,
        start=model,
        processes=processes,
        sources=replace(sources, annotated=learnt),
        held=held,
        panel=opened,
        held_out=held_out,
    )


def _with_reviewed(
    images: Any, masks: Any, asked: TaskOptions, pairing: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Also open reviews, as images of the first set."""
    if asked.reviewed is None:
        return images, masks
    reviewed = reviewed_pairs(asked.reviewed, pairing.get("timepoint"))
    if images is None:
        if masks is not None or pairing.get("labels") is not None:
            raise UsageError("masks or labels are given without images; reviews need none")
        return reviewed, None
    return [*find_pairs(images, masks, **pairing), *reviewed], None


def folder_of(out: Path) -> Path:
    """The folder for the files of a training."""
    return out.with_name(f"{out.name}.training")


def _settings(model: Model | None, asked: TaskOptions, given: Mapping[str, Any]) -> TrainSettings:
    """Combine the settings of recipe and user; a fine-tuned model sets some of them."""
    own = {} if model is None else _settings_of(model)
    theirs = TaskOptions.among(given)
    stated = {name: value for name, value in given.items() if name not in theirs}
    settings = TrainSettings.of_recipe(asked.recipe, **own | stated)
    if settings.batch_norm == "frozen" and settings.frozen_share is None:
        share = FROZEN_SHARE if model is None else 1.0  # a model has statistics to keep
        return replace(settings, frozen_share=share)
    return settings


def _settings_of(model: Model) -> dict[str, Any]:
    """Settings that suit a model to start from, whatever the recipe.

    Its statistics are those of inference. A few batches cannot replace them: with those of batches,
    30 steps took AP at IoU 0.7 from 1 to .36 (docs/design/training.md).
    """
    return {
        "method": model.settings.method,
        "backbone": model.settings.backbone,
        "batch_norm": "frozen",
    }


def _validation(
    asked: TaskOptions,
    annotated: Sequence[AnnotatedSet],
    pairing: Mapping[str, Any],
    fraction: float,
    seed: int,
    has_panel: bool,
) -> tuple[Sequence[AnnotatedSet], list[tuple[str, Pair]]]:
    """Return the training sets, and the validation images."""
    if asked.validation_images is None:
        named = has_panel or len(annotated) > 1
        return hold_out(annotated, fraction, seed, named=named)
    stated = find_pairs(asked.validation_images, asked.validation_masks, **pairing)
    return annotated, [("held out" if has_panel else "", pair) for pair in stated]


def _open_synthetic(
    asked: TaskOptions, pairs: Sequence[Pair], seed: int, voxel_size: Sequence[float] | None
) -> SyntheticSource | None:
    """Open the source of synthetic volumes, with the axes and channels of the annotated images."""
    if asked.synthetic is None:
        return None
    if pairs and pairs[0].channels != 1:
        raise UsageError(
            f"synthetic volumes have 1 channel, {pairs[0].image_where} has {pairs[0].channels}; "
            "choose one channel"
        )
    read = read_settings(asked.synthetic_settings, ndim=pairs[0].ndim if pairs else asked.ndim)
    return SyntheticSource(
        read,
        asked.synthetic,
        seed,
        voxel_size=voxel_size,
        center=asked.center,
        cache_bytes=CACHE_BYTES // 2 if pairs else CACHE_BYTES,
    )


# Reasons to refuse ------------------------------------------------------------------------------


def check_place(out: Path, resume: bool) -> None:
    """Refuse an output that cannot be written, is taken, or has nothing to resume."""
    refuse_url(out)
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a folder; create it, or choose another out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} cannot be written to; choose another out")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; out must be a file, choose another one")
    state = folder_of(out) / STATE
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
    asked: TaskOptions,
    further: Sequence[TrainingSet],
) -> None:
    """Refuse a training without data, and options that do not apply."""
    share = asked.synthetic_share
    if images is None and further:
        raise UsageError(
            f"training set {further[0].name} is given without images; pass the first set as "
            "images and masks"
        )
    if asked.synthetic is None:
        for name in ("synthetic_settings", "synthetic_share"):
            if getattr(asked, name) is not None:
                raise UsageError(f"{name} is given without synthetic; pass the number of volumes")
        if images is None:
            raise UsageError(
                "nothing to train on; pass images and masks (--images, --masks), the store of a "
                "review (--reviewed), or a number of synthetic volumes (--synthetic)"
            )
    if images is None and (masks is not None or labels is not None):
        raise UsageError("masks or labels are given without images; pass the images too")
    if share is not None and images is None:
        raise UsageError(
            "synthetic_share is given without images; then all crops are synthetic, leave it out"
        )
    if share is not None and not 0 < share < 1:
        raise UsageError(f"synthetic_share is {share}; pass a fraction between 0 and 1")


def check_alike(
    kind: tuple[int, int], others: Sequence[Pair], what: str = "validation images"
) -> None:
    """Refuse validation images that do not match the training data."""
    if others and (others[0].ndim, others[0].channels) != kind:
        raise UsageError(
            f"{others[0].image_where}: {what} are {others[0].ndim}D with "
            f"{others[0].channels} channels, training images {kind[0]}D with {kind[1]}; "
            "pass images of the same kind"
        )


def _check_model(kind: tuple[int, int], settings: TrainSettings, model: Model | None) -> None:
    """Refuse to fine-tune a model for other images, or with another method or backbone."""
    if model is None:
        if settings.frozen_share == 1:
            raise UsageError(
                "frozen_share is 1 without a model to start from; random weights have no "
                f"statistics to keep, pass less (such as {FROZEN_SHARE}) or --from a model"
            )
        return
    if (model.ndim, model.channels) != kind:
        raise ModelError(
            f"the model to start from is for {model.ndim}D images with {model.channels} channels, "
            f"the images are {kind[0]}D with {kind[1]}; choose another one"
        )
    for name in ("method", "backbone"):
        theirs, ours = getattr(model.settings, name), getattr(settings, name)
        if theirs != ours:
            raise ModelError(
                f"the model to start from has the {name} {theirs}, not {ours}; leave out "
                f"--{name}, or start from another one"
            )


def _check_useful(
    asked: TaskOptions,
    settings: TrainSettings,
    given: Mapping[str, Any],
    model: Model | None,
    *,
    validates: bool,
) -> None:
    """Refuse options that have no effect without another one, or beside it."""
    if asked.validation_images is None and asked.validation_masks is not None:
        raise UsageError("validation_masks is given without validation_images; pass the images too")
    if asked.validation_images is not None and asked.validation:
        raise UsageError(
            f"validation is {asked.validation} and validation_images is given; images to validate "
            "on are either held out or stated, leave out one of them"
        )
    if settings.freeze_encoder and model is None:
        raise UsageError(
            "freeze_encoder is given without a model to start from; random weights must be "
            "learned, leave it out or pass --from a model"
        )
    if "epoch_steps" in given and settings.steps is None:
        raise UsageError(
            "epoch_steps is given without steps; an epoch then shows every object once, pass "
            "steps or leave it out"
        )
    for name in ("tune_thresholds", "patience"):
        if not validates and given.get(name):
            raise UsageError(
                f"{name} is given without images to validate on; hold some out (validation), or "
                "pass validation_images or a panel"
            )


def _check_mixed(settings: TrainSettings, sources: MixedSources) -> None:
    """Refuse settings that do not match the sources of crops."""
    ndim, share = sources.kind[0], settings.late_synthetic_share
    if settings.late_crop is not None and len(settings.late_crop) != ndim:
        raise UsageError(f"late_crop is {settings.late_crop}; pass {ndim} multiples of {STRIDE}")
    has_both = sources.annotated and sources.drawn is not None
    if share is not None and not (has_both and 0 < share < 1):
        raise UsageError(
            f"late_synthetic_share is {share}; pass a fraction between 0 and 1, and both images "
            "and synthetic"
        )
    if not sources.annotated and (settings.hard_share or settings.small_objects != 1):
        raise UsageError("hard_share and small_objects apply to annotated images; pass some")
