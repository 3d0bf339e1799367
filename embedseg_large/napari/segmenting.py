"""A run of the engine on part of a layer; labels and predictions are returned in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.napari.recording import Kept, Recording
from embedseg_large.napari.selection import LayerSource
from embedseg_large.napari.wording import in_words_of_panel
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.device import default_device, default_dtype
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG
from embedseg_large.runs.progress import Observer
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.auto_scale import ScaleThresholds, choose_scale
from embedseg_large.segmentation.request.scale import resampling_for
from embedseg_large.segmentation.request.scale_choice import AUTO, ScaleChoice
from embedseg_large.segmentation.segment import segment
from embedseg_large.segmentation.segmenters.method_segmenter import segmenter_of
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.tiling.grid import Grid
from embedseg_large.volumes.volume import Volume, open_volume

MOST_VOXELS = 2**30
"""Maximum voxels of a region: its labels take 4 GiB, and must be editable."""
_SAMPLED = 2**28
"""Number of voxels read for the percentiles; in a larger layer, they are spread over it."""
THRESHOLDS = ("seed", "foreground", "margin")
"""Thresholds that only EmbedSeg has, and that its sliders move."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Settings chosen by the user."""

    model: str
    """Bundled name, or path."""
    tta: str = "none"
    object_diameter: float | str | None = None
    """In voxels of the level, or ``auto``; None: equal to the model's."""
    intensity_field: str = "none"
    """Correction of uneven light."""
    thresholds: ClusteringSettings
    """`min_object_size` in voxels of the level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The result of a run."""

    labels: NDArray[Any]
    """Labels of the region."""
    n_instances: int
    seconds: float
    warnings: tuple[str, ...]
    """Warnings, one line each, in the words of the panel."""
    kept: Kept | None
    """The predictions; None if there are too many for memory, or the sliders do not apply."""
    fixed: str | None = None
    """Why the thresholds cannot be moved; None if they can."""

    @property
    def summary(self) -> str:
        """Summary of the result, in a line or two."""
        too_many = "too many predictions to keep, so the sliders need a new run"
        live = "" if self.kept else f"; {self.fixed or too_many}"
        return "\n".join(
            [f"{self.n_instances} found in {self.seconds:.0f} s{live}", *self.warnings]
        )


def fixed_thresholds(model: Model) -> str | None:
    """Return why the thresholds of a model cannot be moved; None for EmbedSeg, whose can."""
    method = model.settings.method
    return None if method == EMBEDSEG else f"thresholds of {method} are set in training"


def segment_part(source: LayerSource, box: Box, wish: Wish, watcher: Observer) -> Segmentation:
    """Segment a box of an image, normalised with the intensities of the whole image.

    Labels equal those of a run on the whole image, up to their numbering.

    Parameters
    ----------
    source
        The image.
    box
        The part to segment, in voxels of the image.
    wish
        Model and settings.
    watcher
        Notified of progress; an exception from it ends the run.

    Raises
    ------
    UsageError, VolumeError, ModelError
        If the input or the settings cannot be used.
    """
    if box.size > MOST_VOXELS:
        raise UsageError(
            f"the region has {box.size:,} voxels, more than the {MOST_VOXELS:,} that napari can "
            "handle; choose a smaller one, or run `embedseg-large segment` on the file"
        )
    began = time.perf_counter()
    volume = open_volume(source.array, axes="zyx"[-source.ndim :], voxel_size=source.voxel_size)
    device = default_device()
    model = load_model(wish.model).to(device, default_dtype(device))
    found = _found_scale(volume, model, wish)
    if found is not None:
        wish = replace(wish, object_diameter=found.stated)
    fixed = fixed_thresholds(model)
    recording = _recording(volume, model, wish, device) if fixed is None else None
    with TemporaryDirectory(prefix="embedseg-napari-") as folder:
        result = segment(
            volume,
            cast(Network, recording or model),
            output=Path(folder, "found.ome.zarr"),
            region=box.slices,
            tta=wish.tta,
            device=device,
            dtype=model.dtype,
            object_diameter=wish.object_diameter,
            intensity_field=wish.intensity_field,
            intensity_sample=_sample(volume),
            min_object_size=wish.thresholds.min_object_size,
            watcher=watcher,
            **(_moved(wish.thresholds) if fixed is None else {}),
        )
        labels = open_volume(result.path).read(box)
    return Segmentation(
        labels=labels,
        n_instances=result.n_instances,
        seconds=time.perf_counter() - began,
        warnings=(
            *([] if found is None else [f"scale: {found.sentence}"]),
            *(in_words_of_panel(w, source.name) for w in result.summary["warnings"]),
        ),
        kept=None if recording is None else _kept(recording, volume, model, wish, box),
        fixed=fixed,
    )


def _moved(thresholds: ClusteringSettings) -> dict[str, Any]:
    """Options of `segment` that only EmbedSeg has."""
    return {name: getattr(thresholds, name) for name in THRESHOLDS}


def _found_scale(volume: Volume, model: Model, wish: Wish) -> ScaleChoice | None:
    """The scale that suits the whole layer, if requested."""
    if wish.object_diameter != AUTO:
        return None
    one = wish.thresholds
    thresholds = ScaleThresholds(
        min_object_size=one.min_object_size,
        foreground=one.foreground,
        seed=one.seed,
        margin=one.margin,
    )
    network = segmenter_of(model).network_to_scale()
    return choose_scale(volume, network, thresholds=thresholds)


def _recording(volume: Volume, model: Model, wish: Wish, device: str) -> Recording:
    """Wrap the model to record the tiles that will be requested."""
    shape = resampling_for(volume, model, wish.object_diameter).target
    segmenter = segmenter_of(model)
    settings = segmenter.settings(shape, device, SegmentOptions(tta=wish.tta))
    return Recording(model, Grid(shape, settings.tile, settings.context, padded=True))


def _kept(recording: Recording, volume: Volume, model: Model, wish: Wish, box: Box) -> Kept | None:
    resampling = resampling_for(volume, model, wish.object_diameter)
    predicted = recording.predictions(resampling.covering(box))
    if predicted is None:
        return None
    kept = Kept(
        stored=predicted[1],
        box=predicted[0],
        resampling=resampling,
        region=box,
        reach=model.reach,
        cleaning=CleanSettings(keep_largest_piece=model.cleaning[0], fill_holes=model.cleaning[1]),
    )
    kept.labels(wish.thresholds)  # from now on, instances keep their numbers
    return kept


def _sample(volume: Volume) -> float | None:
    """Return the fraction of a large image that its percentiles are computed from."""
    voxels = prod(volume.spatial_shape)
    return None if voxels <= _SAMPLED else _SAMPLED / voxels
