"""Check a user's request before any work: every reason to refuse is found here."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, TypeAlias

from embedseg_large.errors import ModelError, UsageError
from embedseg_large.labels.target import label_target
from embedseg_large.runs.paths import predictions_path, scratch_path
from embedseg_large.runs.record import RUN_FILE, name_of_run
from embedseg_large.segmentation.input_options import InputOptions
from embedseg_large.segmentation.intensity_field import check_mode
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.auto_scale import (
    ScaleThresholds,
    check_model,
    choose_scale,
    key_of,
    recorded,
)
from embedseg_large.segmentation.request.classical import CLASSICAL, OF_CLASSICAL, classical
from embedseg_large.segmentation.request.own_function import OwnFunction, own_segmenter
from embedseg_large.segmentation.request.region import region_of
from embedseg_large.segmentation.request.request import (
    High,
    IntensityChoice,
    Request,
    Timepoint,
    image_hash,
    section_of,
)
from embedseg_large.segmentation.request.scale import nearest_level, resampling_for
from embedseg_large.segmentation.request.scale_choice import AUTO, stated_of
from embedseg_large.segmentation.saved_predictions import PREDICTIONS_FILE, is_saved, open_saved
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.method_segmenter import segmenter_of
from embedseg_large.segmentation.segmenters.protocol import KnownSizes, Network, Segmenter
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.segmentation.stages.job import Foreground, foreground_of
from embedseg_large.storage.connection import joined
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.timepoints import chosen_timepoints
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

AnyModel: TypeAlias = Network | TileSegmenter | OwnFunction | str | os.PathLike[str] | None
"""A model or segmenter, the name or path of one, or None for the bundled model."""


def prepare(volume: Any, model: AnyModel, labels: str, options: SegmentOptions) -> Request:
    """Open the volume, choose the segmenter, settle the scale, and find a place for the labels.

    Parameters
    ----------
    volume, model, labels
        See `segment`.
    options
        The user's options.
    """
    image = open_image(volume, options)
    model = own_segmenter(model)
    if needs_2d(model, image):
        image = image.flattened()
    segmenter, options = _choose_segmenter(model, image, options)
    said = (options.level, options.object_diameter, options.voxel_size)
    level = better_level(volume, image, segmenter, said)
    if level is not None:
        image = image.at_level(level)
    check_mode(options.intensity_field, image.ndim)
    device = segmenter.chosen_device(options.device)
    target = label_target(
        image,
        labels,
        output=options.output,
        ngff_version=options.ngff_version,
        overwrite=options.overwrite,
        unfinished=lambda store: name_of_run(
            folder_at(scratch_path(options.scratch, store, labels))
        ),
    )
    place = scratch_path(options.scratch, target.store, target.name)
    asked = _Asked(
        image=image,
        segmenter=segmenter,
        device=device,
        place=place,
        foreground=foreground_of(image, segmenter, options.mask, options.dark_below),
        timepoints=_timepoints(image, options.timepoint),
    )
    scale = _automatic_scale(asked, options) if options.object_diameter == AUTO else None
    diameter = options.object_diameter if scale is None else stated_of(scale)
    resampling = resampling_for(image, segmenter, diameter)
    settings = segmenter.settings(
        resampling.target, device, _magnified(options, prod(resampling.zoom))
    )
    folder_at(place).check_writable()
    kept_in = predictions_path(options.scratch, target.store, target.name)
    request = Request(
        volume=image,
        segmenter=segmenter,
        settings=settings,
        resampling=resampling,
        region=region_of(options.region, image.spatial_shape),
        target=target,
        scratch=Scratch.at(place, folder_at(kept_in) if _keeps(options) else None),
        intensity=_intensity(segmenter, options),
        foreground=asked.foreground,
        timepoints=asked.timepoints,
        keep=options.keep_predictions,
        saved_in=_path(options.from_predictions),
        scale=scale,
        stated_size=_stated(options),
        level_is_automatic=options.level is None and image.level > 0 and image is not volume,
    )
    _check_predictions(request, kept_in)
    return request


def _stated(options: SegmentOptions) -> str | None:
    """The size of objects that the user stated, as text."""
    size = options.object_diameter
    return None if size is None or size == AUTO else str(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Everything determined before the scale."""

    image: Volume
    segmenter: Segmenter
    device: str
    place: str
    """Location of the scratch folder."""
    foreground: Foreground
    timepoints: tuple[int | None, ...]


def timepoints_of(request: Request) -> Iterator[Timepoint]:
    """Yield each timepoint of a request.

    Raises
    ------
    UsageError
        If predictions of an earlier run are missing, or were computed from other inputs.
    """
    for number in request.timepoints:
        section = section_of(number)
        at = Timepoint(
            number=number,
            volume=request.volume if number is None else replace(request.volume, timepoint=number),
            scratch=request.scratch.below(section) if section else request.scratch,
        )
        if request.saved_in is not None:
            saved = open_saved(joined(request.saved_in, section), request, at.volume)
            at = replace(at, saved=saved, scratch=replace(at.scratch, kept=saved.folder))
        yield at


def _choose_segmenter(
    model: AnyModel, image: Volume, options: SegmentOptions
) -> tuple[Segmenter, SegmentOptions]:
    """Return the segmenter, and the remaining options for it."""
    segmenter: Segmenter
    if model == CLASSICAL:  # objects of any size, without resampling
        segmenter = classical(image, options, options.object_diameter)
        options = replace(options, object_diameter=None)
    elif useless := [n for n in OF_CLASSICAL if getattr(options, n) != getattr(type(options)(), n)]:
        raise UsageError(
            f"{', '.join(useless)}: only for the classical method; leave it out "
            "(networks use foreground)"
        )
    elif isinstance(model, TileSegmenter):
        segmenter = model
    elif isinstance(model, OwnFunction):  # objects of any size, without resampling
        segmenter = model.segmenter(image, options)
        options = replace(options, object_diameter=None)
    else:
        segmenter = segmenter_of(load_network(model, image.ndim))
    check_fit(image, segmenter)
    return segmenter, options


def better_level(volume: Any, image: Volume, known: KnownSizes, said: Sequence[Any]) -> int | None:
    """Find the coarser level with voxels most like the model's, unless the user chose one.

    Parameters
    ----------
    volume
        What the user passed; one that is open has its level.
    image
        Its finest level.
    known
        The model.
    said
        Level, size of objects and voxel size, as the user stated them; None: not at all.
    """
    if isinstance(volume, Volume) or any(s is not None for s in said):
        return None
    return nearest_level(image, known) or None


def _automatic_scale(asked: _Asked, options: SegmentOptions) -> dict[str, Any]:
    """Return the scale of the run to resume or of kept predictions, or else the best one."""
    network = asked.segmenter.network_to_scale()
    check_model(network)
    image, timepoints = asked.image, asked.timepoints
    asked.segmenter.settings(image.spatial_shape, asked.device, options)  # refuses invalid options
    kept = _path(options.from_predictions)
    if kept is not None:
        folders = [kept, *(joined(kept, section_of(t)) for t in timepoints[:1])]
        known = [recorded(folder_at(f), PREDICTIONS_FILE, None) for f in folders]
        for one in filter(None, known):
            return one
    thresholds = ScaleThresholds(
        min_object_size=options.min_object_size,
        foreground=options.foreground,
        seed=options.seed,
        margin=options.margin,
    )
    mask = asked.foreground.mask
    key = key_of(
        network.fingerprint,
        [image.level, image.channel, image.timepoint, image.spatial_shape, image.voxel_size],
        [image_hash(image), image.storage.digest],
        [asdict(thresholds), options.intensity_range, timepoints],
        None if mask is None else [mask.path, image_hash(mask)],
    )
    found = recorded(folder_at(asked.place), RUN_FILE, key)
    if found is not None:
        return found
    series = image.with_time()
    choice = choose_scale(
        series,
        network,
        thresholds=thresholds,
        foreground=asked.foreground,
        intensity=options.intensity_range,
        timepoints=series.timepoints,
    )
    logger.info("scale: %s", choice.sentence)
    return choice.as_dict() | {"key": key}


def _magnified(options: SegmentOptions, times: float) -> SegmentOptions:
    """Convert the options for a grid with `times` as many voxels."""
    if options.min_object_size is None:
        return options
    return replace(options, min_object_size=round(options.min_object_size * times))


def _intensity(segmenter: Segmenter, options: SegmentOptions) -> IntensityChoice:
    """Choose the intensities that become 0 and 1: the user's, or else the segmenter's."""
    given, own = options.intensity_range, segmenter.intensity
    high: High = "otsu" if own == "otsu" else "percentile"
    if given is None and own == "raw":
        given = (0.0, 1.0)
    elif given is None and not isinstance(own, str):
        if own[0] is None:
            high = own[1]
        else:
            given = (own[0], own[1])
    return IntensityChoice(
        given=_given_range(given, segmenter.channels),
        sample=options.intensity_sample,
        per_timepoint=options.intensity_per_timepoint,
        field=options.intensity_field,
        high=high,
    )


def _keeps(options: SegmentOptions) -> bool:
    """Whether predictions are computed and kept."""
    return options.keep_predictions and options.from_predictions is None


def _path(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _check_predictions(request: Request, kept_in: str) -> None:
    """Refuse predictions that cannot be kept, or do not fit."""
    if request.saved_in is not None:
        if request.keep:
            raise UsageError("the predictions are kept already; leave out --keep-predictions")
        for _ in timepoints_of(request):  # opens each of them, or refuses
            pass
        return
    if not request.keep:
        return
    if request.region is not None:
        raise UsageError(
            f"predictions of a region are not kept ({request.region}); keep those of a run on "
            "the whole volume, of which any region can be clustered again"
        )
    if request.target.overwrite:
        return
    if any(is_saved(at.scratch.predictions) for at in timepoints_of(request)):
        raise UsageError(f"{kept_in}: predictions are kept there already; remove or overwrite them")


def open_image(volume: Any, options: InputOptions) -> Volume:
    """Open an image, or check that an open one matches the request.

    Parameters
    ----------
    volume
        See `segment`.
    options
        Which part of it, and its properties.
    """
    timepoint = None if isinstance(options.timepoint, Iterable) else options.timepoint
    chosen: dict[str, Any] = {
        "timepoint": timepoint,
        "axes": options.axes,
        "voxel_size": options.voxel_size,
        "nodata": options.nodata,
        "series": options.series,
    }
    level, allowing = options.level or 0, options.allow_missing
    if not isinstance(volume, Volume):
        return open_volume(
            volume, channel=options.channel, level=level, allow_missing=allowing, **chosen
        )
    if (
        any(v is not None for v in chosen.values())
        or level
        or allowing
        or options.channel not in (0, "0", volume.channel)
    ):
        raise UsageError(
            "the volume is already open; choose channel, timepoint and level in open_volume"
        )
    return volume


def needs_2d(model: AnyModel, volume: Volume) -> bool:
    """Whether to segment a single plane as a 2D image: not with a 3D model."""
    if volume.flattened() is volume or model in (None, CLASSICAL):
        return True
    if isinstance(model, OwnFunction):
        return True
    return (model if isinstance(model, TileSegmenter) else load_network(model, 2)).ndim == 2


def default_model(ndim: int) -> str:
    """Return the name of the bundled model for a number of axes."""
    return f"nuclei-{ndim}d"


def load_network(model: Network | str | os.PathLike[str] | None, ndim: int) -> Network:
    """Load a model by name or path; the bundled one, if none is given."""
    if model is None:
        model = default_model(ndim)
    if not isinstance(model, str | os.PathLike):
        return model
    from embedseg_large.network.checkpoint import load_model

    return load_model(model)


def check_fit(volume: Volume, network: Network | Segmenter) -> None:
    """Refuse labels, and a model for other axes or channels."""
    if volume.is_labels:
        raise UsageError(f"{volume.name} holds labels, not an image; pass the path of the image")
    if volume.ndim != network.ndim:
        raise ModelError(
            f"the model is {network.ndim}D, the volume {volume.ndim}D (axes {volume.axes}, "
            f"shape {volume.shape}); choose a {volume.ndim}D model"
        )
    channels = volume.n_channels if volume.channel is None else 1
    if channels != network.channels:
        raise ModelError(
            f"the model takes {network.channels} channels, the volume has {channels}; "
            "choose with --channel"
        )


def _timepoints(volume: Volume, asked: int | Sequence[int] | None) -> tuple[int | None, ...]:
    """The selected timepoints, in order; just None if there is nothing to select."""
    if "t" not in volume.axes:
        if not isinstance(asked, Iterable):
            return (None,)
        raise UsageError("there is no time axis to choose several timepoints from")
    # a single one was selected when the image was opened
    return chosen_timepoints(volume, asked if isinstance(asked, Iterable) else None)


def _given_range(given: Sequence[float] | None, channels: int) -> tuple[IntensityRange, ...] | None:
    if given is None:
        return None
    if len(given) != 2:
        raise UsageError(f"intensity range is {tuple(given)}; pass two numbers, low and high")
    low, high = (float(v) for v in given)
    return (IntensityRange(low, high),) * channels
