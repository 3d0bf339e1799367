"""What a user asked for, checked before any work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Unpack

from embedseg_large.errors import ModelError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.target import LabelTarget, label_target
from embedseg_large.runs.paths import predictions_path, scratch_path
from embedseg_large.runs.record import RUN_FILE, name_of_run
from embedseg_large.segmentation.intensity_field import check_mode
from embedseg_large.segmentation.request.auto_scale import (
    AUTO,
    Thresholds,
    check_model,
    choose_scale,
    key_of,
    recorded,
)
from embedseg_large.segmentation.request.classical import CLASSICAL, classical
from embedseg_large.segmentation.request.facts import content_of
from embedseg_large.segmentation.request.foreground import Foreground, foreground_of
from embedseg_large.segmentation.request.object_size import resampling_for
from embedseg_large.segmentation.request.options import SettingsOptions
from embedseg_large.segmentation.request.region import Range, region_of
from embedseg_large.segmentation.request.scale import nearest_level
from embedseg_large.segmentation.request.settings import (
    SegmentSettings,
    resolve_settings,
    segmenter_settings,
)
from embedseg_large.segmentation.saved_predictions import (
    PREDICTIONS_FILE,
    KeptPredictions,
    is_kept,
    open_kept,
)
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.loading import choose_device
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.storage.connection import joined
from embedseg_large.storage.open import folder_at
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume, open_volume

THRESHOLDS = ("min_object_size", "foreground", "seed", "margin")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run that can be done, as far as metadata tell."""

    volume: Volume
    network: Network
    settings: SegmentSettings
    resampling: Resampling
    """To the grid that the network sees."""
    region: Box | None
    """The part of the volume to segment; None: all of it."""
    target: LabelTarget
    scratch: Scratch
    intensity: tuple[IntensityRange, ...] | None
    """The ranges given by the user, one a channel; None: to be found."""
    intensity_sample: float | None
    """Fraction of the volume to look at; None: all of it."""
    intensity_per_timepoint: bool
    """Whether each timepoint has ranges of its own."""
    intensity_field: str = "none"
    """How uneven light is evened out: none, depth or smooth."""
    foreground: Foreground
    """Where to look."""
    keep: bool
    """Whether predictions outlive the run."""
    timepoints: tuple[int | None, ...] = (None,)
    """Those to segment, of a volume with a time axis; else just None."""
    kept_in: str | None = None
    """Folder of the predictions of an earlier run, in place of those of the network."""
    kept: KeptPredictions | None = None
    """These, of a part."""
    scale: Mapping[str, Any] | None = None
    """How the scale was found by itself, see `ScaleChoice.as_dict`; None: it was stated, or not."""
    level_is_automatic: bool = False
    """Whether a coarser level was chosen, by voxel sizes."""
    section: str = ""
    """What tells files and ledgers of a timepoint from those of others."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid that is predicted and clustered."""
        return self.resampling.target

    @property
    def part(self) -> Box | None:
        """The part of that grid that labels are wanted of; None: all of it."""
        return None if self.region is None else self.resampling.covering(self.region)

    @property
    def segments(self) -> bool:
        """Whether a segmenter that is not ours finds the objects of a tile."""
        return isinstance(self.network, TileSegmenter)

    @property
    def by_otsu(self) -> bool:
        """Whether Otsu's threshold becomes 1, in place of a percentile."""
        return isinstance(self.network, TileSegmenter) and self.network.intensity == "otsu"

    @property
    def is_series(self) -> bool:
        """Whether the volume has a time axis."""
        return self.timepoints != (None,)

    def parts(self) -> Iterator[Order]:
        """The order of each timepoint."""
        for timepoint in self.timepoints:
            yield self._part(timepoint)

    def _part(self, timepoint: int | None) -> Order:
        part = self
        if timepoint is not None:
            part = replace(part, volume=replace(self.volume, timepoint=timepoint))
        section = section_of(timepoint)
        part = replace(part, timepoints=(None,), section=section)
        if section:
            part = replace(part, scratch=self.scratch.below(section))
        if self.kept_in is None:
            return part
        kept = open_kept(joined(self.kept_in, section), part)
        return replace(part, kept=kept, scratch=replace(part.scratch, kept=kept.folder))


def prepare(
    volume: Any,
    model: Network | str | os.PathLike[str] | None,
    labels: str,
    *,
    channel: int | str | None = 0,
    timepoint: int | Sequence[int] | None = None,
    level: int | None = None,
    region: Sequence[Range] | None = None,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
    nodata: str | float | None = None,
    series: int | None = None,
    allow_missing: bool = False,
    object_diameter: float | str | None = None,
    threshold: float | None = None,
    mask: Any = None,
    dark_below: float | None = None,
    output: str | os.PathLike[str] | None = None,
    ngff_version: str | None = None,
    overwrite: bool = False,
    scratch: str | os.PathLike[str] | None = None,
    intensity_range: tuple[float, float] | None = None,
    intensity_sample: float | None = None,
    intensity_per_timepoint: bool = False,
    intensity_field: str = "none",
    device: str | None = None,
    keep_predictions: bool = False,
    from_predictions: str | os.PathLike[str] | None = None,
    **settings: Unpack[SettingsOptions],
) -> Order:
    """Open the volume and the model, fill in all settings, and find every reason to refuse.

    Parameters
    ----------
    volume, model, labels
        See `segment`.
    channel, timepoint, level, axes, voxel_size, nodata, series, allow_missing
        As for `open_volume`, where `volume` is not opened yet.
    region, object_diameter, threshold, mask, dark_below, output, ngff_version, overwrite, scratch
        See `SegmentOptions`.
    intensity_range, intensity_sample, intensity_per_timepoint, intensity_field, device
        See `SegmentOptions`.
    keep_predictions, from_predictions
        See `SegmentOptions`.
    **settings
        See `SettingsOptions`.
    """
    single = timepoint if isinstance(timepoint, int | None) else None
    told: dict[str, Any] = {"nodata": nodata, "series": series, "allow_missing": allow_missing}
    opened = open_image(volume, channel, single, level or 0, axes, voxel_size, **told)
    if needs_2d(model, opened):
        opened = opened.flattened()
    if model == CLASSICAL:  # objects of any size, without resampling
        model, object_diameter = classical(opened, object_diameter, threshold), None
    elif threshold is not None:
        raise UsageError("threshold is of the classical method; other models have foreground")
    network = load_network(model, opened.ndim)
    check_fit(opened, network)
    said = (level, object_diameter, voxel_size)
    if all(s is None for s in said) and not isinstance(volume, Volume):
        nearest = nearest_level(opened, network)
        if nearest:
            opened = opened.at_level(nearest)
    check_mode(intensity_field, opened.ndim)
    device = choose_device(network, device)
    target = label_target(
        opened,
        labels,
        output=output,
        ngff_version=ngff_version,
        overwrite=overwrite,
        unfinished=lambda store: name_of_run(folder_at(scratch_path(scratch, store, labels))),
    )
    place = scratch_path(scratch, target.store, target.name)
    where = foreground_of(opened, network, mask, dark_below)
    chosen = _timepoints(opened, timepoint)
    scale = None
    if object_diameter == AUTO:
        check_model(network)
        _settings(network, opened.spatial_shape, device, settings.copy())  # refuses what is wrong
        kept = None if from_predictions is None else os.fspath(from_predictions)
        said_of = dict[str, Any](settings)
        asked = Thresholds(**{n: said_of[n] for n in THRESHOLDS if n in said_of})
        scale = _found_scale(opened, network, asked, where, intensity_range, chosen, place, kept)
        object_diameter = scale["chosen"]
    resampling = resampling_for(opened, network, object_diameter)
    if (voxels := settings.get("min_object_size")) is not None:
        settings["min_object_size"] = round(voxels * prod(resampling.zoom))
    if isinstance(network, TileSegmenter):
        if keep_predictions or from_predictions is not None:
            raise UsageError(f"{network.name} makes no predictions that could be kept or read")
        if intensity_field != "none" and network.intensity == "raw":
            raise UsageError(f"{network.name} takes raw intensities; leave out --intensity-field")
        intensity_range = intensity_range or network.intensity_range
    resolved = _settings(network, resampling.target, device, settings)
    folder_at(place).check_writable()
    order = Order(
        volume=opened,
        network=network,
        settings=resolved,
        resampling=resampling,
        region=region_of(region, opened.spatial_shape),
        target=target,
        scratch=Scratch.at(place),
        intensity=_given_range(intensity_range, network.channels),
        intensity_sample=intensity_sample,
        intensity_per_timepoint=intensity_per_timepoint,
        intensity_field=intensity_field,
        foreground=where,
        scale=scale,
        keep=keep_predictions,
        level_is_automatic=level is None and opened.level > 0 and opened is not volume,
        timepoints=chosen,
    )
    if from_predictions is not None:
        return _with_kept(order, os.fspath(from_predictions))
    if keep_predictions:
        if order.region is not None:
            raise UsageError(
                f"predictions of a region are not kept ({order.region}); keep those of a run on "
                "the whole volume, of which any region can be clustered again"
            )
        return _keeping(order, predictions_path(scratch, target.store, target.name))
    return order


def _found_scale(
    volume: Volume,
    network: Network,
    thresholds: Thresholds,
    foreground: Foreground,
    intensity: tuple[float, float] | None,
    timepoints: tuple[int | None, ...],
    place: str,
    kept: str | None,
) -> dict[str, Any]:
    """The scale that a run which is to be resumed, or kept predictions, have; or else the best."""
    if kept is not None:
        folders = [kept, *(joined(kept, section_of(t)) for t in timepoints[:1])]
        known = [recorded(folder_at(f), PREDICTIONS_FILE, None) for f in folders]
        for one in filter(None, known):
            return one
    mask = foreground.mask
    key = key_of(
        network.fingerprint,
        [volume.level, volume.channel, volume.timepoint, volume.spatial_shape, volume.voxel_size],
        [content_of(volume), volume.storage.digest],
        [asdict(thresholds), intensity, timepoints],
        None if mask is None else [mask.path, content_of(mask)],
    )
    found = recorded(folder_at(place), RUN_FILE, key)
    if found is not None:
        return found
    choice = choose_scale(
        volume,
        network,
        thresholds=thresholds,
        foreground=foreground,
        intensity=intensity,
        timepoints=timepoints if volume.timepoint is None else (None,),
    )
    logger.info("scale: %s", choice.sentence)
    return choice.as_dict() | {"key": key}


def section_of(timepoint: int | None) -> str:
    """What tells files and ledgers of a timepoint from those of others."""
    return "" if timepoint is None else f"t{timepoint:05d}"


def _settings(
    network: Network, shape: Sequence[int], device: str, given: SettingsOptions
) -> SegmentSettings:
    if isinstance(network, TileSegmenter):
        return segmenter_settings(network, device=device, **given)
    return resolve_settings(network, shape, device=device, **given)


def _with_kept(order: Order, path: str) -> Order:
    """The same order on predictions of an earlier run."""
    if order.keep:
        raise UsageError("the predictions are kept already; leave out --keep-predictions")
    order = replace(order, kept_in=path)
    for _ in order.parts():  # opens each of them, or refuses
        pass
    return order


def _keeping(order: Order, path: str) -> Order:
    """The same order, whose predictions go where they can stay."""
    order = replace(order, scratch=replace(order.scratch, kept=folder_at(path)))
    if not order.target.overwrite and any(is_kept(p.scratch.predictions) for p in order.parts()):
        raise UsageError(f"{path}: predictions are kept there already; remove or overwrite them")
    return order


def open_image(
    volume: Any,
    channel: int | str | None,
    timepoint: int | None,
    level: int,
    axes: str | None,
    voxel_size: Sequence[float] | None,
    nodata: str | float | None = None,
    series: int | None = None,
    allow_missing: bool = False,
) -> Volume:
    """Open an image, or see whether one that is open is what was asked for."""
    chosen: dict[str, Any] = {
        "timepoint": timepoint,
        "axes": axes,
        "voxel_size": voxel_size,
        "nodata": nodata,
        "series": series,
        "allow_missing": allow_missing or None,
    }
    if not isinstance(volume, Volume):
        chosen["allow_missing"] = allow_missing
        return open_volume(volume, channel=channel, level=level, **chosen)
    if (
        any(v is not None for v in chosen.values())
        or level
        or channel not in (0, "0", volume.channel)
    ):
        raise UsageError("the volume is open already; choose its channel and so on in open_volume")
    return volume


def needs_2d(model: Network | str | os.PathLike[str] | None, volume: Volume) -> bool:
    """Whether a single plane is segmented as the 2D image that it is: not by a 3D model."""
    if volume.flattened() is volume or model in (None, CLASSICAL):
        return True
    return load_network(model, 2).ndim == 2


def default_model(ndim: int) -> str:
    """Name of the bundled model for as many axes."""
    return f"nuclei-{ndim}d"


def load_network(model: Network | str | os.PathLike[str] | None, ndim: int) -> Network:
    """Load a model by name or path; the bundled one, if none is given."""
    if model is None:
        model = default_model(ndim)
    if not isinstance(model, str | os.PathLike):
        return model
    from embedseg_large.network.checkpoint import load_model

    return load_model(model)


def check_fit(volume: Volume, network: Network) -> None:
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
    """The timepoints that are meant; just None where there is no choice left."""
    if "t" not in volume.axes:
        if isinstance(asked, int | None):
            return (None,)
        raise UsageError("there is no time axis to choose several timepoints from")
    if isinstance(asked, int | None):
        return tuple(range(volume.n_timepoints))
    wrong = [t for t in asked if not 0 <= t < volume.n_timepoints]
    if wrong or not asked or len(set(asked)) != len(asked):
        raise UsageError(
            f"timepoint {','.join(map(str, asked))}; choose different ones from 0 to "
            f"{volume.n_timepoints - 1}"
        )
    return tuple(asked)


def _given_range(given: Sequence[float] | None, channels: int) -> tuple[IntensityRange, ...] | None:
    if given is None:
        return None
    if len(given) != 2:
        raise UsageError(f"intensity range is {tuple(given)}; pass two numbers, low and high")
    low, high = (float(v) for v in given)
    return (IntensityRange(low, high),) * channels
