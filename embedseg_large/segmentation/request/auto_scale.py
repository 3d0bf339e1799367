"""The scale of an image that suits a model best, found by predicting a sample at several scales.

1. A few tiles with many bright voxels are chosen from an evenly spread coarse sample.
2. They are predicted at six scales, as if objects were `FACTORS` times as wide as the model's, both
   unchanged and rotated by 180°, and clustered.
3. The score of a scale is its consistency: the agreement of the two orientations, times the mean
   agreement with the next smaller and the next larger scale. Agreement is the sum of the IoU of
   instances that match, over the mean number of instances. Correct labels resemble each other,
   while there are many ways to be wrong: pieces, clumps, or missing objects.
4. In 3D, six magnifications of z are then compared in the same way, at the best width: nuclei of
   many images are flat in voxels. Another depth is chosen only if it is clearly more consistent.

The scale is a function of image, model and thresholds. `benchmarks/auto_scale.py` compares it with
the best of the six on images with known labels; `docs/design/auto_scale.md` has the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, log, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.documents import parse_json
from embedseg_large.embedding import dequantise
from embedseg_large.errors import UnreachableError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.provenance import is_choice
from embedseg_large.segmentation.request.scale import ZOOMS, resampling_for
from embedseg_large.segmentation.request.scale_choice import ScaleChoice, ScaleTrial
from embedseg_large.segmentation.request.scale_sample import Sample, around, first_sample
from embedseg_large.segmentation.segmenters.loading import place
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.segmentation.stages.job import Foreground
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.volume import Volume

STEP = 1.45
STEPS = (-2, -1, 0, 1, 2, 3)
FACTORS = tuple(STEP**k for k in STEPS)
"""Diameters to try, in units of the diameter of the model's objects."""
CLEARLY = 1.1
"""Ratio of scores from which another depth is better; see docs/design/auto_scale.md."""
SAME = 1.2
"""Grids whose sizes differ by less than this along every axis count as equal."""
_MATCH = 0.5  # IoU


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleThresholds:
    """Thresholds that determine which instances are found."""

    min_object_size: int | None = None
    """In voxels of the image; None: the model's, in voxels of its grid."""
    foreground: float = 0.5
    seed: float | None = None
    margin: float | None = None


def choose_scale(
    volume: Volume,
    network: Network,
    *,
    thresholds: ScaleThresholds | None = None,
    foreground: Foreground | None = None,
    intensity: tuple[float, float] | None = None,
    within: Box | None = None,
    timepoints: Sequence[int | None] = (None,),
) -> ScaleChoice:
    """Choose the scale at which a model is most self-consistent.

    Parameters
    ----------
    volume
        The level to segment.
    network
        The model.
    thresholds
        Thresholds of the run; missing ones are the model's for one pass.
    foreground
        Where to look; None: everywhere.
    intensity
        Intensities that become 0 and 1; None: percentiles of the sample.
    within
        Part of the volume to look at; None: all of it.
    timepoints
        Timepoints to look at, up to the first that is not empty.

    Raises
    ------
    UsageError
        If the model does not know the diameter of its objects, or cannot be compared in this way.
    """
    check_model(network)
    on_cpu = place(network, device="cpu", dtype="float32")  # the same everywhere
    thresholds = thresholds or ScaleThresholds()
    within = within or Box.whole(volume.spatial_shape)
    sample = first_sample(volume, within, foreground or Foreground(), intensity, timepoints)
    if sample is None:
        return _choice(network, [_nothing(grid) for grid in _grids(volume, network)])
    return _searched(volume, network, sample, partial(_looks, on_cpu, sample, thresholds))


def check_model(network: Network) -> None:
    """Refuse a network that cannot be compared with itself at other scales."""
    if network.object_diameter is None:
        raise UsageError(
            "the model does not know the diameter of its training objects, so no scale can be "
            "found by itself; pass a level, or voxel-size"
        )


def recorded(folder: Any, name: str, key: str | None) -> dict[str, Any] | None:
    """The choice of an earlier attempt or run; None if there is none, or it had other inputs.

    Parameters
    ----------
    folder, name
        A `Folder`, and the file in it that holds facts.
    key
        Hash of the required inputs, see `key_of`; None: any.
    """
    try:
        about = parse_json(folder.read(name))
        said = about.get("object_diameter") or about["facts"]["object_diameter"]
    except UnreachableError:
        raise
    except Exception:  # any other stored content is refused where it is used
        return None
    return said if is_choice(said) and key in (None, said.get("key")) else None


def key_of(*parts: Any) -> str:
    """Hash the inputs of a choice."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _searched(volume: Volume, network: Network, sample: Sample, look: _Looker) -> ScaleChoice:
    """Compare widths, then depths at the best width."""
    looks = {grid: look(grid) for grid in _grids(volume, network)}
    trials = _compared(looks)
    best = max(trials, key=lambda grid: (trials[grid].score, -grid.change))
    if trials[best].score == 0 or volume.ndim == 2:
        chosen = trials[best] if trials[best].score else None
        return _choice(network, trials.values(), chosen, sample)
    depths = _compared({g: look(g) if g.step else looks[best] for g in _depths(best, network)})
    as_is = next(trial for grid, trial in depths.items() if grid.step == 0)
    clearest = max(depths.values(), key=lambda trial: trial.score)
    chosen = clearest if clearest.score > CLEARLY * as_is.score else trials[best]
    return _choice(network, [*trials.values(), *depths.values()], chosen, sample)


@dataclass(frozen=True, slots=True)
class _Grid:
    """A scale to try: its place among those compared, assumed size, and magnification."""

    step: int
    diameter: float | None
    depth: float | None
    zoom: tuple[float, ...]

    @property
    def change(self) -> float:
        """How far y and x are magnified, in either direction."""
        return abs(log(self.zoom[-1]))


def _grids(volume: Volume, network: Network) -> list[_Grid]:
    """List the scales, leaving out those too far from the image's."""
    assert network.object_diameter is not None
    grids: list[_Grid] = []
    for step, factor in zip(STEPS, FACTORS, strict=True):
        diameter = network.object_diameter * factor
        if step == 0:
            grids.append(_Grid(0, None, None, (1.0,) * volume.ndim))
        try:
            zoom = resampling_for(volume, network, diameter).zoom
        except UsageError:
            continue
        if step or max(abs(log(z)) for z in zoom) > log(SAME):
            grids.append(_Grid(step, diameter, None, zoom))
    return grids


def _depths(best: _Grid, network: Network) -> Iterator[_Grid]:
    """Yield further magnifications of z at the best width, and that of the scale itself: step 0."""
    assert network.object_diameter is not None
    known = network.object_depth or network.object_diameter
    for step in STEPS:
        zoom = (best.zoom[0] * STEP**step, *best.zoom[1:])
        if ZOOMS[0] <= zoom[0] <= ZOOMS[1]:
            yield _Grid(step, best.diameter, known / zoom[0], zoom)


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Labels of a place at one scale, in voxels of the image; only of the resampled part."""

    part: Box
    labels: NDArray[np.uint32]
    turned: NDArray[np.uint32]


_Looker = Callable[[_Grid], list[_Look]]
"""Predicts the sample at a scale."""


def _looks(
    network: Network, sample: Sample, thresholds: ScaleThresholds, grid: _Grid
) -> list[_Look]:
    return [_look(network, image, grid.zoom, thresholds) for image in sample.images]


def _look(
    network: Network,
    seen: tuple[NDArray[np.float32], NDArray[np.bool_] | None],
    zoom: Sequence[float],
    thresholds: ScaleThresholds,
) -> _Look:
    image, inside = seen
    whole = Box.whole(image.shape[1:])
    size = [ceil(n / max(1.0, z)) for n, z in zip(whole.shape, zoom, strict=True)]
    part = around(whole, size, whole)
    grid = Resampling.by(part.shape, zoom)
    target = Box.whole(grid.target)
    small = grid.image(image[(slice(None), *part.slices)], target)
    views = []
    for turn in (False, True):
        found = _labels(network, _turned(small) if turn else small, prod(zoom), thresholds)
        back = grid.labels(_turned(found) if turn else found, Box.whole(part.shape))
        if inside is not None:
            back = np.where(inside[part.slices], back, 0)
        views.append(back)
    return _Look(part, *views)


def _turned(array: NDArray[Any]) -> NDArray[Any]:
    """Rotate by 180° in the plane of y and x, an orientation that suits every model."""
    return np.ascontiguousarray(array[..., ::-1, ::-1])


def _labels(
    network: Network, image: NDArray[np.float32], magnified: float, thresholds: ScaleThresholds
) -> NDArray[np.uint32]:
    stored = network.predict_tile(image, Box.whole(image.shape[1:]), "none")
    seed, margin = network.thresholds_of("none")
    size = network.min_object_size
    if thresholds.min_object_size is not None:
        size = round(thresholds.min_object_size * magnified)
    return cluster(
        dequantise(stored),
        size,
        foreground=thresholds.foreground,
        seed=seed if thresholds.seed is None else thresholds.seed,
        margin=margin if thresholds.margin is None else thresholds.margin,
    )


def _compared(looks: Mapping[_Grid, Sequence[_Look]]) -> dict[_Grid, ScaleTrial]:
    """Compute the agreement of each scale with itself and with adjacent scales."""
    trials = {}
    for grid, own in looks.items():
        beside = []
        for side in (grid.step - 1, grid.step + 1):
            at = [other for g, other in looks.items() if g.step == side]
            each = [agreement([_common(a, b) for a, b in zip(own, o, strict=True)]) for o in at]
            beside.append(float(np.mean(each)) if each else 0.0)
        sizes = np.concatenate([np.bincount(o.labels.ravel())[1:] for o in own])
        sizes = sizes[sizes > 0]
        trials[grid] = ScaleTrial(
            diameter=_rounded(grid.diameter),
            depth=_rounded(grid.depth),
            objects=int(sizes.size),
            found=_width(float(np.median(sizes)), own[0].part.ndim) if sizes.size else None,
            views=agreement([(o.labels, o.turned) for o in own]),
            neighbours=sum(beside) / 2,
        )
    return trials


def _nothing(grid: _Grid) -> ScaleTrial:
    """The trial of a scale where there is nothing to look at."""
    return ScaleTrial(
        diameter=_rounded(grid.diameter), objects=0, found=None, views=0.0, neighbours=0.0
    )


def _rounded(size: float | None) -> float | None:
    return None if size is None else round(size, 2)


def _width(size: float, ndim: int) -> float:
    """Return the diameter of a ball or disc of some size."""
    return float((6 * size / np.pi) ** (1 / 3) if ndim == 3 else (4 * size / np.pi) ** 0.5)


def _common(a: _Look, b: _Look) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the labels of two scales in their common part."""
    part = a.part.intersect(b.part)
    return a.labels[part.slices_in(a.part)], b.labels[part.slices_in(b.part)]


def agreement(pairs: Sequence[tuple[NDArray[np.uint32], NDArray[np.uint32]]]) -> float:
    """Sum of the IoU of instances that match, over the mean number of instances; 0 without any.

    Parameters
    ----------
    pairs
        Two labellings of each image. Instances match if their IoU is above one half.
    """
    matched = instances = 0.0
    for a, b in pairs:
        sizes = [np.bincount(side.ravel()) for side in (a, b)]
        instances += sum(int(np.count_nonzero(s[1:])) for s in sizes)
        pair = a.astype(np.int64) * sizes[1].size + b
        found, common = np.unique(pair[(a > 0) & (b > 0)], return_counts=True)
        i, j = np.divmod(found, sizes[1].size)
        iou = common / (sizes[0][i] + sizes[1][j] - common)
        matched += float(iou[iou > _MATCH].sum())
    return 2 * matched / instances if instances else 0.0


def _choice(
    network: Network,
    trials: Iterable[ScaleTrial],
    chosen: ScaleTrial | None = None,
    sample: Sample | None = None,
) -> ScaleChoice:
    assert network.object_diameter is not None
    return ScaleChoice(
        diameter=None if chosen is None else chosen.diameter,
        depth=None if chosen is None else chosen.depth,
        model_diameter=network.object_diameter,
        trials=tuple(trials),
        places=() if sample is None else sample.boxes,
        timepoint=None if sample is None else sample.timepoint,
    )
